"""What ``inspect`` and ``convert`` do with networks that can be run."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, Namespace

from converters import permutation_spec, save_graph, spec_spaces, to_graph, verify
from converters.symmetry import PermutationSpec, Verification
from nngraph.cli import text
from nngraph.cli.common import tell
from nngraph.cli.modules import read_module
from nngraph.graph import NeuralGraph

__all__ = ["check_options", "convert_module", "inspect_module"]


def check_options(options: Namespace) -> None:
    """Refuse options for networks that can be run, where only weights are given."""
    for name in ("verify", "maximal", "strict"):
        if options.get(name):
            raise ArgumentError(
                None,
                f"--{name} runs or traces the network, and {options.file} holds weights only; "
                "expected an .onnx file or package.module:factory",
            )
    if options.inputs:
        raise ArgumentError(None, f"--inputs is for networks that can be run; {options.file} is "
                            "a file of weights")  # fmt: skip


def inspect_module(options: Namespace) -> int:
    """Describe a network that can be run: its graph, its symmetry, and the proof of it."""
    _, data, report = _converted(options, options.maximal)
    data["path"] = options.file

    def words() -> str:
        return _words(data) + (f"\n\n{report}" if report else "")

    tell(options, data, words)
    return 0 if report is None or report.holds else 1


def convert_module(options: Namespace) -> int:
    """Write the graph of a network that can be run; not without the proof that was asked for."""
    graph, data, report = _converted(options, False)
    failed = report is not None and not report.holds
    if not failed:
        save_graph(graph, Path(options.out))
    data = {"file": options.file, "out": None if failed else options.out, **data}
    architecture = graph.architecture
    size = f"{architecture.num_nodes:,} neurons, {architecture.num_edges:,} edges"

    def words() -> str:
        proof = "" if report is None else f"\n{report}"
        if failed:
            assert report is not None
            why = "the proof fails" if report.status == "fails" else "it is not proven"
            return f"{options.out} was not written: {why}{proof}"
        spaces = f"{len(data['spaces'])} neuron spaces, {size}"
        lost = "".join(f"\n  fixed: {line['text']}" for line in data["fixed"])
        return f"{options.out}: {spaces}{lost}{proof}"

    tell(options, data, words)
    return 1 if failed else 0


def _converted(
    options: Namespace, maximal: bool
) -> tuple[NeuralGraph, dict[str, Any], Verification | None]:
    for name in ("activation", "w0", "architecture"):
        if options.get(name):
            raise ArgumentError(
                None, f"--{name} is for files of weights; {options.file} has its own"
            )
    module, inputs = read_module(options.file, options.inputs or [], options.output)
    spec = permutation_spec(module, inputs, strict=options.strict)
    graph = to_graph(module, inputs, strict=options.strict, allow_nonfinite=True)
    report = None
    if options.verify or maximal:
        report = verify(graph, module, inputs, maximal=maximal)
    data = {
        "kind": "onnx" if options.file.endswith(".onnx") else "module",
        **_described(graph, spec),
        "verification": None if report is None else _plain(report),
    }
    return graph, data, report


def _described(graph: NeuralGraph, spec: PermutationSpec) -> dict[str, Any]:
    architecture = graph.architecture
    names = [group.name for group in architecture.groups]
    spaces = {of_spec: name for name, of_spec in spec_spaces(architecture, spec).items()}
    values = [v for v in graph.parameters().values() if v.is_floating_point()]
    return {
        "neurons": architecture.num_nodes,
        "edges": architecture.num_edges,
        "parameters": sum(p.numel for p in architecture.parameters if p.integer is None),
        "dtype": str(values[0].dtype).removeprefix("torch.") if values else None,
        "log10_order": spec.log10_order,
        "groups": [
            {
                "name": g.name, "size": g.size, "role": g.role, "activation": str(g.activation),
                "spaces": [f.space for f in g.factors if f.space is not None],
            }
            for g in architecture.groups
        ],
        "spaces": [
            {
                "name": spaces.get(s.name, s.name), "size": s.size, "within": list(s.within),
                "fixed": s.fixed,
                "ties": [f"{name}[{axis}]" for name, axis in spec.ties(s.name)],
            }
            for s in spec.spaces
        ],
        "blocks": [
            {
                "parameter": None if b.identity else b.parameter.name,
                "source": names[b.source], "target": names[b.target],
                "parts": b.parts, "rows": b.rows, "columns": b.columns, "taps": b.taps,
            }
            for b in architecture.blocks
        ],
        "fixed": [{**asdict(report), "text": str(report)} for report in spec.reports],
        "definition": architecture.to_dict(),
    }  # fmt: skip


def _plain(report: Verification) -> dict[str, Any]:
    runs = getattr(report, "runs", None)
    return {
        "holds": report.holds,
        "status": report.status,
        "spaces": [
            {
                "name": c.space, "status": c.status, "reason": c.reason, "tried": c.tried,
                "idle": c.idle, "loose": c.loose, "unseen": c.unseen,
            }
            for c in report.checks
        ],
        "worst": report.worst if report.worst < float("inf") else None,
        "tolerance": report.tolerance,
        "missed": None if report.missed is None else [str(missed) for missed in report.missed],
        "incomplete": report.incomplete,
        "ran": runs is not None,
        "runs": runs if runs is not None and runs < float("inf") else None,
        "text": str(report),
    }  # fmt: skip


def _words(data: dict[str, Any]) -> str:
    head = {
        "kind": data["kind"],
        "size": f"{data['neurons']:,} neurons, {data['edges']:,} edges, "
        f"{data['parameters']:,} parameters, {data['dtype']}",
        "symmetry": f"{len(data['spaces'])} neuron spaces, about 10^{data['log10_order']:.1f} "
        "relabellings",
    }
    groups = [
        [g["name"], str(g["size"]), g["role"], g["activation"], " x ".join(g["spaces"]) or "-"]
        for g in data["groups"]
    ]
    blocks = [
        [b["parameter"] or "(added)", b["source"], b["target"],
         " x ".join(str(b[key]) for key in ("parts", "rows", "columns", "taps"))]
        for b in data["blocks"]
    ]  # fmt: skip
    spaces = [
        f"  {s['name']}  {s['size']}" + (", fixed" if s["fixed"] else "")
        + (f", within {', '.join(s['within'])}" if s["within"] else "")
        + f"\n    {', '.join(s['ties'])}"
        for s in data["spaces"]
    ]
    lost = [f"  {line['text']}" for line in data["fixed"]]
    return "\n".join(
        [
            data["path"], text.pairs(head), "",
            text.table(("group", "neurons", "role", "activation", "spaces"), groups), "",
            text.table(("block", "from", "to", "parts x rows x columns x taps"), blocks), "",
            "spaces, and the axes that each ties", *(spaces or ["  none"]),
            *(["", "freedom that was lost", *lost] if lost else []),
        ]
    )  # fmt: skip
