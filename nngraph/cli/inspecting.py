"""The commands ``inspect``, ``convert`` and ``validate``: of weights, zoos and modules."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from converters import (
    Verification,
    load_graph,
    permutation_spec,
    save_graph,
    spec_spaces,
    to_graph,
    verify,
)
from converters.symmetry import PermutationSpec
from nngraph.cli import text
from nngraph.cli.common import at_least, check_out, picked, tell
from nngraph.cli.networks import (
    activations_of,
    describe,
    describe_zoo,
    is_graph_file,
    is_runnable,
    read_architecture,
    read_module,
    read_network,
)
from nngraph.cli.options.deriving import mistake
from nngraph.cli.options.networks import Convert, Inspect, Validate
from nngraph.drawing import draw_basis
from nngraph.errors import DataFileError
from nngraph.graph import Architecture, NeuralGraph
from nngraph.map_validation import MapValidation, validate_maps
from nngraph.validation import Validation, at_most, default_architecture, validate
from nngraph.zoo import Zoo


def convert(options: Convert) -> int:
    """Turn a network, or a state dict, into a graph file."""
    file, out = Path(options.file), Path(options.out)
    if is_runnable(options.file):
        return _convert_module(options)
    _check_options(options)
    if is_graph_file(file):
        raise DataFileError(f"{file} is a graph file already; expected a state dict.")
    check_out(options.out, options.file)
    graph, assumed = _weights(options, options.allow_nonfinite)
    save_graph(graph, out)
    architecture = graph.architecture
    data = {
        "file": str(file), "out": str(out), "architecture": str(architecture),
        "activations_assumed": assumed, "neurons": architecture.num_nodes,
        "edges": architecture.num_edges, "definition": architecture.to_dict(),
    }  # fmt: skip
    return tell(
        options, data,
        lambda: f"{out}: {architecture}, {architecture.num_nodes} neurons, "
        f"{architecture.num_edges} edges{_assumed(assumed)}",
    )  # fmt: skip


def _weights(options: Convert | Inspect, allow_nonfinite: bool) -> tuple[NeuralGraph, bool]:
    """Read a file of weights, and whether its activations were assumed."""
    file = Path(options.file)
    if options.architecture is None:
        return read_network(file, options.activation, options.w0, allow_nonfinite)
    if options.activation or options.w0:
        raise mistake("--architecture has its own activations; leave --activation out")
    architecture = read_architecture(options.architecture)
    return load_graph(file, architecture, allow_nonfinite=allow_nonfinite), False


def _assumed(assumed: bool) -> str:
    if not assumed:
        return ""
    return "\n  a state dict does not say its activations: ReLU is assumed; see --activation"


def inspect(options: Inspect) -> int:
    """Describe a network or a zoo."""
    path, assumed = Path(options.file), False
    if is_runnable(options.file):
        return _inspect_module(options)
    _check_options(options)
    if path.is_dir():
        if options.activation or options.w0 or options.architecture:
            raise mistake(
                f"{path} is a folder; --activation, --w0 and --architecture are for files."
            )
        told = describe_zoo(Zoo.open(path, partial=True))
        data = {"path": str(path), "kind": "zoo", **told}
    else:
        kind = "graph" if is_graph_file(path) else "state dict"
        graph, assumed = _weights(options, allow_nonfinite=True)
        told = describe(graph.architecture, graph.parameters())
        data = {"path": str(path), "kind": kind, "activations_assumed": assumed, **told}
    return tell(options, data, lambda: _weights_words(data) + _assumed(assumed))


def _weights_words(data: dict[str, Any]) -> str:
    symmetry = data["symmetry"]
    factors = " x ".join(f"S_{size}" for size in symmetry["spaces"].values())
    order = symmetry["order"]
    about = f"{order:,}" if order is not None else f"about 10^{symmetry['log10_order']:.1f}"
    group = f"{factors}: {about} relabellings" if factors else "trivial: no hidden neurons"
    if symmetry["sine_neurons"]:
        group += f"; besides, sign and phase of {symmetry['sine_neurons']} sine neurons"
    lines = {"kind": data["kind"], "architecture": data["architecture"]}
    if "networks" in data:
        lines["networks"] = f"{data['networks']}, statistics over {data['networks_in_statistics']}"
    lines |= {
        "size": _size_words(data),
        "layers": ", ".join(
            f"{g['name']} {g['size']}"
            + ("" if g["activation"] == "identity" else f" {g['activation']}")
            for g in data["groups"]
        ),
        "symmetry": group,
    }
    numbers, counts = ("mean", "std", "min", "max"), ("zeros", "nonfinite")
    rows = [
        [
            tensor["name"], " x ".join(map(str, tensor["shape"])),
            *(text.number(tensor[key]) for key in numbers), *(str(tensor[key]) for key in counts),
        ]
        for tensor in data["tensors"]
    ]  # fmt: skip
    table = text.table(("tensor", "shape", *numbers, *counts), rows)
    return f"{data['path']}\n{text.pairs(lines)}\n\n{table}"


def _size_words(data: dict[str, Any]) -> str:
    neurons, edges, parameters = (data[key] for key in ("neurons", "edges", "parameters"))
    return f"{neurons:,} neurons, {edges:,} edges, {parameters:,} parameters, {data['dtype']}"


def _check_options(options: Convert | Inspect) -> None:
    """Refuse options for networks that can be run, where only weights are given."""
    for name in ("verify", "maximal", "strict"):
        if getattr(options, name, None):
            raise mistake(
                f"--{name} runs or traces the network, and {options.file} holds weights only; "
                "expected an .onnx file or package.module:factory"
            )
    if options.inputs:
        raise mistake(
            f"--inputs is for networks that can be run; {options.file} is a file of weights"
        )


def _inspect_module(options: Inspect) -> int:
    """Describe a network that can be run: its graph, its symmetry, and the proof of it."""
    _, data, report = _converted(options, options.maximal)
    data["path"] = options.file
    proof = f"\n\n{report}" if report else ""
    code = 0 if report is None or report.holds else 1
    return tell(options, data, lambda: _module_words(data) + proof, code)


def _convert_module(options: Convert) -> int:
    """Write the graph of a network that can be run; not without the proof that was asked for."""
    graph, data, report = _converted(options, False)
    failed = report is not None and not report.holds
    if not failed:
        save_graph(graph, Path(options.out))
    data = {"file": options.file, "out": None if failed else options.out, **data}
    architecture = graph.architecture

    def words() -> str:
        proof = "" if report is None else f"\n{report}"
        if failed:
            assert report is not None
            why = "the proof fails" if report.status == "fails" else "it is not proven"
            return f"{options.out} was not written: {why}{proof}"
        size = f"{architecture.num_nodes:,} neurons, {architecture.num_edges:,} edges"
        lost = "".join(f"\n  fixed: {line['text']}" for line in data["fixed"])
        return f"{options.out}: {len(data['spaces'])} neuron spaces, {size}{lost}{proof}"

    return tell(options, data, words, code=1 if failed else 0)


def _converted(
    options: Convert | Inspect, maximal: bool
) -> tuple[NeuralGraph, dict[str, Any], Verification | None]:
    for name in ("activation", "w0", "architecture"):
        if getattr(options, name, None):
            raise mistake(f"--{name} is for files of weights; {options.file} has its own")
    module, inputs = read_module(options.file, options.inputs or [], options.output)
    spec = permutation_spec(module, inputs, strict=options.strict)
    graph = to_graph(module, inputs, strict=options.strict, allow_nonfinite=True)
    asked = options.verify or maximal
    report = verify(graph, module, inputs, maximal=maximal) if asked else None
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
                **picked(g, "name", "size", "role"), "activation": str(g.activation),
                "spaces": [f.space for f in g.factors if f.space is not None],
            }
            for g in architecture.groups
        ],
        "spaces": [
            {
                **picked(s, "size", "fixed"), "name": spaces.get(s.name, s.name),
                "within": list(s.within),
                "ties": [f"{name}[{axis}]" for name, axis in spec.ties(s.name)],
            }
            for s in spec.spaces
        ],
        "blocks": [
            {
                "parameter": None if b.identity else b.parameter.name,
                "source": names[b.source], "target": names[b.target],
                **picked(b, "parts", "rows", "columns", "taps"),
            }
            for b in architecture.blocks
        ],
        "fixed": [{**asdict(report), "text": str(report)} for report in spec.reports],
        "definition": architecture.to_dict(),
    }  # fmt: skip


def _plain(report: Verification) -> dict[str, Any]:
    runs = report.runs
    told = ("status", "reason", "tried", "idle", "loose", "unseen")
    return {
        **picked(report, "holds", "status", "tolerance", "incomplete", "ran"),
        "spaces": [{"name": check.space, **picked(check, *told)} for check in report.checks],
        "worst": report.worst if report.worst < float("inf") else None,
        "missed": None if report.missed is None else [str(missed) for missed in report.missed],
        "runs": runs if runs is not None and runs < float("inf") else None,
        "text": str(report),
    }


def _module_words(data: dict[str, Any]) -> str:
    head = {
        "kind": data["kind"],
        "size": _size_words(data),
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


def prove(options: Validate) -> int:
    """Hold the library against the basis and the symmetry on an architecture."""
    at_least(0, seed=options.seed)
    activation = options.activation
    if options.group == "positive_scale" and activation is None and options.network[0].isdecimal():
        activation = ["relu"]
    architecture = _architecture(options.network, activation, options.w0)
    result: MapValidation | Validation
    if options.group is None:
        result = validate(architecture, seed=options.seed)
    else:
        result = validate_maps(architecture, options.group, seed=options.seed)
    data = result.to_dict()
    if options.figure is not None:
        data["figure"] = str(draw_basis(at_most(architecture, 3), options.figure))
    drawn = "" if options.figure is None else f"\nthe basis, drawn: {options.figure}"
    return tell(options, data, lambda: f"{result}{drawn}", code=0 if result.passed else 1)


def _architecture(words: list[str], activation: list[str] | None, w0: float | None) -> Architecture:
    """Return the architecture that is named by layer sizes, a file or a zoo."""
    if all(word.isdecimal() for word in words):
        widths = [int(word) for word in words]
        if activation is None and w0 is None:
            return default_architecture(widths)
        return Architecture.mlp(widths, activations_of(activation, w0))
    if len(words) > 1:
        raise mistake(
            f"{' '.join(words)!r} is no list of layer sizes; expected whole numbers, or one file."
        )
    path = Path(words[0])
    if path.is_dir():
        return Zoo.open(path, partial=True).architecture
    return read_network(path, activation, w0, allow_nonfinite=True)[0].architecture
