from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch_geometric.loader import DataLoader

from nngraph.datasets import Evaluator, export_ogb, load_ogb, ogb_meta
from nngraph.errors import DataFileError, InvalidGraphError
from nngraph.testing import random_stack, structured_architectures
from nngraph.zoo import Fact, Origin, Zoo, append_networks, create_zoo


@pytest.fixture(scope="module")
def exported(mixed_zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_ogb(mixed_zoo, tmp_path_factory.mktemp("ogb") / "tiny-inrs")


@pytest.fixture(scope="module")
def dataset(exported: Path) -> Any:
    return load_ogb(exported)


def test_stock_ogb_reads_every_network(dataset: Any, mixed_zoo: Zoo):
    assert type(dataset).__module__.startswith("ogb.graphproppred")
    assert len(dataset) == len(mixed_zoo)
    assert (dataset.num_classes, dataset.num_tasks, dataset.eval_metric) == (4, 1, "acc")
    for number in (0, 29, 30, 89):
        graph, wanted = dataset[number], mixed_zoo.network(number)
        assert torch.equal(graph.x, wanted.x)
        assert torch.equal(graph.edge_attr, wanted.edge_attr)
        assert torch.equal(graph.edge_index, wanted.edge_index)
        assert torch.equal(graph.node_mask.bool(), wanted.x_mask)
        for name in ("node_group", "node_role", "node_position", "edge_block"):
            assert torch.equal(graph[name], wanted[name])
        assert graph.y.tolist() == [[int(mixed_zoo.labels[number])]]
        assert graph.num_nodes == wanted.num_nodes
    batch = next(iter(DataLoader(dataset, batch_size=32)))
    assert batch.num_graphs == 32


def test_the_splits_are_those_of_the_zoo(dataset: Any, mixed_zoo: Zoo):
    split = dataset.get_idx_split()
    for name, ours in (("train", "train"), ("valid", "val"), ("test", "test")):
        assert torch.equal(split[name], mixed_zoo.indices(ours))


def test_it_is_read_again_from_another_place(exported: Path, dataset: Any, tmp_path: Path):
    import shutil

    shutil.copytree(exported, tmp_path / "moved")
    again = load_ogb(tmp_path / "moved")
    assert torch.equal(again[3].edge_attr, dataset[3].edge_attr)
    # Nothing in it says where it was made.
    for file in exported.rglob("*"):
        if file.is_file() and file.suffix in (".json", ".md", ".txt"):
            assert str(exported.parent) not in file.read_text()


def test_networks_of_any_kind_are_exported_for_regression(tmp_path: Path):
    facts = (Fact("run"), Fact("accuracy", "float32"))
    create_zoo(tmp_path / "zoo", facts, group="run", target="accuracy")
    for i, (_, architecture) in enumerate(structured_architectures()):
        values = random_stack(architecture, 3, i).to(torch.float32).parameters()
        told = {"run": torch.arange(3) + 3 * i, "accuracy": torch.arange(3) / 10 + i}
        append_networks(tmp_path / "zoo", architecture, values, told, Origin("a" * 64, {}))
    zoo = Zoo.open(tmp_path / "zoo")
    dataset = load_ogb(export_ogb(zoo, tmp_path / "all-kinds"))
    assert (dataset.eval_metric, dataset.task_type) == ("kendall", "regression")
    columns = ogb_meta(tmp_path / "all-kinds")["node features"]
    for number in range(0, len(zoo), 2):
        graph, wanted = dataset[number], zoo.network(number)
        kept = [columns.index(name) for name in wanted.architecture.column_names]
        assert torch.equal(graph.x[:, kept], wanted.x)
        assert torch.equal(graph.node_mask[:, kept].bool(), wanted.x_mask)
        assert torch.equal(graph.edge_attr[:, : wanted.edge_attr.shape[1]], wanted.edge_attr)
        assert float(graph.edge_attr[:, wanted.edge_attr.shape[1] :].abs().sum()) == 0
        assert torch.equal(graph.edge_index, wanted.edge_index)
        assert graph.y.item() == pytest.approx(float(zoo.target[number]))


def test_what_cannot_be_exported_is_refused(mixed_zoo: Zoo, exported: Path, tmp_path: Path):
    with pytest.raises(DataFileError, match="is there already"):
        export_ogb(mixed_zoo, exported)
    with pytest.raises(InvalidGraphError, match="no fact 'mood'"):
        export_ogb(mixed_zoo, tmp_path / "a", target="mood")
    with pytest.raises(ValueError, match="metric is 'f1'"):
        export_ogb(mixed_zoo, tmp_path / "a", metric="f1")
    with pytest.raises(ValueError, match="expected letters, digits"):
        export_ogb(mixed_zoo, tmp_path / "a b")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DataFileError, match=r"meta\.json is missing"):
        load_ogb(tmp_path)
    (tmp_path / "meta.json").write_text("[]")
    with pytest.raises(DataFileError, match="is no export of a zoo"):
        load_ogb(tmp_path)


# -- the evaluator -------------------------------------------------------------------------------


def column(*values: float) -> np.ndarray[Any, Any]:
    return np.array(values, dtype=float).reshape(-1, 1)


@pytest.mark.parametrize(
    ("metric", "true", "predicted", "expected"),
    [
        ("acc", column(0, 1, 2, 2), column(0, 1, 1, 2), 0.75),
        ("mse", column(1, 2), column(2, 4), 2.5),
        ("r2", column(1, 2, 3), column(1, 2, 4), 1 - 1 / 2),
        ("r2", column(1, 2, 3), column(2, 2, 2), 0.0),
        # Of 6 pairs 5 are in order and 1 is not.
        ("kendall", column(1, 2, 3, 4), column(1, 3, 2, 4), 4 / 6),
        # tau-b: 4 in order, 1 tie among the predictions only: (4 - 1) / sqrt(6 * 5).
        ("kendall", column(1, 2, 3, 4), column(2, 1, 3, 3), 3 / np.sqrt(30)),
    ],
)
def test_metrics_are_those_worked_out_by_hand(
    metric: str, true: Any, predicted: Any, expected: float
):
    found = Evaluator(metric).eval({"y_true": true, "y_pred": predicted})
    assert found == {metric: pytest.approx(expected)}
    tensors = {"y_true": torch.tensor(true), "y_pred": torch.tensor(predicted)}
    assert Evaluator(metric).eval(tensors) == found


def test_tasks_are_averaged_and_missing_labels_left_out():
    true = np.array([[1.0, 5.0], [2.0, np.nan], [3.0, 5.0]])
    predicted = np.array([[1.0, 5.0], [2.0, 9.0], [6.0, 7.0]])
    found = Evaluator("mse", 2).eval({"y_true": true, "y_pred": predicted})
    assert found["mse"] == pytest.approx((9 / 3 + 4 / 2) / 2)
    constant = Evaluator("kendall").eval({"y_true": column(1, 2), "y_pred": column(3, 3)})
    assert np.isnan(constant["kendall"])


def test_the_contract_is_ogbs():
    import sys

    sys.modules.setdefault("outdated", None)  # type: ignore[arg-type]  # looks for updates
    from ogb.graphproppred import Evaluator as Theirs

    pair = {"y_true": column(0, 1, 2, 2), "y_pred": column(0, 1, 1, 2)}
    theirs = Theirs("ogbg-ppa")
    assert theirs.eval(pair) == Evaluator("acc").eval(pair)
    ours = Evaluator("acc")
    assert (ours.eval_metric, ours.num_tasks) == (theirs.eval_metric, theirs.num_tasks)
    assert "y_true" in ours.expected_input_format
    assert "acc" in ours.expected_output_format
    for wrong in ({"y_pred": pair["y_pred"]}, {**pair, "y_true": [1, 2]},
                  {**pair, "y_true": column(1)}, {**pair, "y_true": column(*[np.nan] * 4)}):
        with pytest.raises(InvalidGraphError):
            ours.eval(wrong)
    with pytest.raises(ValueError, match="metric is 'auc'"):
        Evaluator("auc")


def test_reading_an_export_leaves_what_torch_may_load_as_it_was(exported):
    before = set(map(str, torch.serialization.get_safe_globals()))
    assert any("GlobalStorage" in name for name in before)
    load_ogb(exported)
    assert set(map(str, torch.serialization.get_safe_globals())) == before
