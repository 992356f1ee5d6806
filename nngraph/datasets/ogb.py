"""Zoos in the file format of OGB's graph property prediction, for OGB's own reader.

Open Graph Benchmark (Hu et al., NeurIPS 2020). The files are written here and read by the package
``ogb``, whose own writer holds every graph as a dictionary and asks questions on stdin.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nngraph.datasets.evaluator import METRICS
from nngraph.errors import DataFileError, InvalidGraphError, optional_package
from nngraph.files import TEMPORARY, read_bounded
from nngraph.graph import STRUCTURE
from nngraph.zoo import SPLITS, Zoo

_META = "meta.json"
#: OGB's names of the splits.
_OGB_SPLITS = dict(zip(("train", "valid", "test"), SPLITS, strict=True))
_NODE, _EDGE = ("node_group", "node_role", "node_position"), ("edge_block",)
_README = """# {name}

{count} neural networks as graphs, in the file format of the Open Graph Benchmark: neurons are
nodes, weights edge features, biases node features. Predict {target}: {task}, metric {metric}.

    from nngraph.datasets import Evaluator, load_ogb
    dataset = load_ogb("this folder")       # a stock ogb.graphproppred.PygGraphPropPredDataset
    split = dataset.get_idx_split()
    Evaluator("{metric}").eval({{"y_true": y_true, "y_pred": y_pred}})

Node features: {nodes}. A graph also has node_group, node_role (input 0, hidden 1, output 2),
node_position (place within the group), node_mask (whether a node feature is there) and edge_block
(which weight an edge belongs to). No group of networks ({group}) is in two splits.
"""


def export_ogb(
    zoo: Zoo, path: str | Path, *, target: str | None = None, metric: str | None = None
) -> Path:
    """Write a zoo as an OGB data set, which :func:`load_ogb` reads.

    The arrays of all networks are made in memory, some 30 bytes per weight.

    Args:
        path: folder to make; its name, of letters, digits, dashes, underscores, is the data set's.
        target: fact that is to be predicted; default the zoo's. One with names is a
            classification, one without a regression.
        metric: ``"acc"``, ``"kendall"``, ``"r2"`` or ``"mse"``; default ``"acc"`` for a
            classification and ``"kendall"`` for a regression.

    Raises:
        InvalidGraphError: if there is no such fact, or a target is no number.
        DataFileError: if the folder holds something already.
        ValueError: if there is no such metric, or the name is not as said.
    """
    path = Path(path)
    fact = zoo.manifest.fact(zoo.manifest.target if target is None else target)
    if fact.is_text:
        raise InvalidGraphError(f"fact {fact.name!r} is a text; expected a number or a class.")
    metric = metric or ("acc" if fact.values else "kendall")
    if metric not in METRICS:
        raise ValueError(f"metric is {metric!r}; expected one of {', '.join(METRICS)}.")
    if not path.name or not all(c.isascii() and (c.isalnum() or c in "-_") for c in path.name):
        raise ValueError(
            f"the folder is called {path.name!r}; expected letters, digits, dashes, underscores."
        )
    if path.exists():
        raise DataFileError(f"{path} is there already; choose another folder.")
    labels = zoo.facts[fact.name]
    if not bool(torch.isfinite(labels.double()).all()):
        raise InvalidGraphError(
            f"fact {fact.name!r} is not a number for every network; keep those for which it is, "
            "with 'nngraph zoo filter'."
        )
    columns = list(dict.fromkeys(name for a in zoo.architectures for name in a.column_names))
    meta = {
        "format": "nngraph.ogb", "num tasks": 1, "num classes": len(fact.values) or -1,
        "task type": "multiclass classification" if fact.values else "regression",
        "eval metric": metric, "target": fact.name, "version": 1, "split": zoo.manifest.group,
        "download_name": path.name, "url": "none", "add_inverse_edge": "False",
        "has_node_attr": "True", "has_edge_attr": "True",
        "additional node files": ",".join([*_NODE, "node_mask"]),
        "additional edge files": ",".join(_EDGE), "is hetero": "False", "binary": "True",
        "node features": columns,
    }  # fmt: skip
    # Made beside its place, so that it is there whole or not at all.
    work = path.parent / f"{TEMPORARY}{path.name}"
    shutil.rmtree(work, ignore_errors=True)
    try:
        raw, splits = work / "raw", work / "split" / zoo.manifest.group
        for folder in (raw, splits):
            folder.mkdir(parents=True)
        arrays: dict[str, Any] = _arrays(zoo, columns)
        np.savez_compressed(raw / "data.npz", **arrays)
        np.savez_compressed(raw / "graph-label.npz", graph_label=labels.unsqueeze(1).numpy())
        split = {name: zoo.indices(ours) for name, ours in _OGB_SPLITS.items()}
        torch.save(split, splits / "split_dict.pt")
        (work / "RELEASE_v1.txt").write_text(f"# Release note for {path.name}\n\n### v1\n")
        (work / _META).write_text(json.dumps(meta, indent=1) + "\n")
        about = {
            "name": path.name, "count": len(zoo), "target": fact.name, "metric": metric,
            "task": meta["task type"], "nodes": ", ".join(columns), "group": zoo.manifest.group,
        }  # fmt: skip
        (work / "README.md").write_text(_README.format(**about))
        work.rename(path)
    except OSError as error:
        raise DataFileError(f"{path} cannot be written: {error.strerror or error}.") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return path


def _arrays(zoo: Zoo, columns: list[str]) -> dict[str, np.ndarray[Any, Any]]:
    """Return the arrays of all networks one after another, under OGB's names."""
    kinds = zoo.architecture_index
    nodes = torch.tensor([a.num_nodes for a in zoo.architectures], dtype=torch.int64)[kinds]
    edges = torch.tensor([a.num_edges for a in zoo.architectures], dtype=torch.int64)[kinds]
    taps = max((a.num_taps for a in zoo.architectures), default=1)
    all_nodes, all_edges = int(nodes.sum()), int(edges.sum())
    found: dict[str, Tensor] = {
        "edge_index": torch.empty(2, all_edges, dtype=torch.int64),
        "edge_feat": torch.zeros(all_edges, taps),
        "node_feat": torch.zeros(all_nodes, len(columns)),
        "node_mask": torch.zeros(all_nodes, len(columns), dtype=torch.int64),
        **{name: torch.empty(all_nodes, dtype=torch.int64) for name in _NODE},
        **{name: torch.empty(all_edges, dtype=torch.int64) for name in _EDGE},
    }
    first_node, first_edge = nodes.cumsum(0) - nodes, edges.cumsum(0) - edges
    for numbers, stack in zoo.stacks():
        architecture = stack.architecture
        rows = first_node[numbers].unsqueeze(1) + torch.arange(architecture.num_nodes)
        places = first_edge[numbers].unsqueeze(1) + torch.arange(architecture.num_edges)
        which = torch.tensor([columns.index(name) for name in architecture.column_names])
        index = (rows.unsqueeze(-1), which)
        found["node_feat"][index] = stack.x.float()
        found["node_mask"][index] = STRUCTURE["x_mask"](architecture).to(torch.int64)
        found["edge_feat"][places, : stack.edge_attr.shape[-1]] = stack.edge_attr.float()
        for names, group in ((_NODE, rows), (_EDGE, places)):
            for name in names:
                found[name][group] = STRUCTURE[name](architecture)
        for end in (0, 1):
            found["edge_index"][end, places] = STRUCTURE["edge_index"](architecture)[end]
    counts = {"num_nodes_list": nodes, "num_edges_list": edges}
    return {name: value.numpy() for name, value in {**found, **counts}.items()}


def ogb_meta(path: str | Path) -> dict[str, Any]:
    """Return the ``meta_dict`` with which OGB's ``PygGraphPropPredDataset`` reads an export."""
    path = Path(path).resolve()
    try:
        meta = json.loads(read_bounded(path / _META, 2**20))
    except (ValueError, RecursionError) as error:
        raise DataFileError(f"{path / _META} is no export of a zoo: {error}") from None
    if not isinstance(meta, dict) or meta.get("format") != "nngraph.ogb":
        raise DataFileError(f"{path / _META} is no export of a zoo for OGB.")
    # Absolute, since OGB's reader downloads what it does not find under a relative one.
    return {**meta, "dir_path": str(path)}


def load_ogb(path: str | Path) -> Any:
    """Read an export with OGB's own ``PygGraphPropPredDataset``; its split by ``get_idx_split()``.

    The first reading processes the files, and keeps the result beside them.

    Raises:
        DataFileError: if the folder holds no export.
        MissingDependencyError: if ogb is not installed.
    """
    meta = ogb_meta(path)
    # Importing ogb starts a thread that looks for updates on the network, unless this is there.
    sys.modules.setdefault("outdated", None)  # type: ignore[arg-type]
    with optional_package("the data sets are read by ogb", "'nngraph[ogb]'."):
        from ogb.graphproppred import PygGraphPropPredDataset
    from numpy._core.multiarray import scalar
    from torch_geometric.data.data import DataEdgeAttr, DataTensorAttr
    from torch_geometric.data.storage import GlobalStorage

    # OGB's file of processed graphs holds these beside tensors; torch refuses unknown classes. Only
    # those that are not allowed already: what is allowed here for once is forbidden afterwards.
    needed = (DataEdgeAttr, DataTensorAttr, GlobalStorage, scalar, np.dtype, np.dtypes.Int64DType)
    known = torch.serialization.get_safe_globals()
    allowed = [name for name in needed if name not in known]
    # Its reader tells its progress with print(); a library is silent.
    silence = io.StringIO()
    with (
        torch.serialization.safe_globals(allowed),
        contextlib.redirect_stdout(silence),
        contextlib.redirect_stderr(silence),
    ):
        return PygGraphPropPredDataset(Path(path).name, meta_dict=meta)
