"""The benchmark scripts run, and check before they time."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmark_scripts import SCRIPTS, rows
from torch import nn

from nngraph.graph import Architecture, NeuralGraph, Symmetry
from nngraph.kernels.backends import dense
from nngraph.nn import MODELS
from nngraph.testing import random_parameters
from nngraph.zoo import ImageSource, fit_zoo


@pytest.mark.parametrize("script", SCRIPTS)
def test_each_says_how_to_use_it(script: str, load: Any, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        load(script).main(["--help"])
    assert ended.value.code == 0
    assert "--out" in capsys.readouterr().out


def test_models(
    load: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    module = load("models")
    # What it does to the allocator would stay with the process of the tests.
    monkeypatch.setattr(module.harness, "keep_memory", lambda keep=True: None)
    out = tmp_path / "models.csv"
    arguments = ["--width", "4", "--batch", "3", "--repeats", "2", "--out", str(out)]
    names = ("flat", "probe")  # the profiler takes seconds for each
    module.main([*arguments, "--model", *names])
    found = rows(out)
    assert [(row["model"], row["layout"]) for row in found] == [
        (model, layout) for model in names for layout in ("stacked", "ragged")
    ]
    for row in found:
        assert float(row["agreement"]) < 1e-9
        assert 0 <= float(row["cpu_ms_q10"]) <= float(row["cpu_ms"]) <= float(row["cpu_ms_q90"])
        assert float(row["products_ms"]) > 0
        assert float(row["peak_mib"]) > 0
        assert row["torch"] == torch.__version__
        assert str(tmp_path) not in ",".join(row.values())
    assert "| probe | ragged |" in capsys.readouterr().out
    module.main([*arguments, "--model", "probe"])
    assert len(rows(out)) == len(found)  # replaced, not repeated
    small = 'message-passing:{"channels": 4, "messages": 2, "rounds": 1}'
    module.main([*arguments, "--model", small, "--layout", "mixed", "--batch", "16"])
    mixed, apart = rows(out)[len(found) :]
    assert (mixed["layout"], apart["layout"]) == ("mixed", "apart")
    assert (mixed["batch"], mixed["edges"]) == (apart["batch"], apart["edges"])
    assert int(mixed["batch"]) == 2 * len(module.MIXED)


def test_the_number_of_networks_follows_from_that_of_edges(load: Any):
    module = load("models")
    architecture = module.Architecture.mlp([2, 32, 32, 1])
    counts = [(64, None), (1000, None), (64, 10_000), (64, 10)]
    found = [len(module._networks(architecture, *given)) for given in counts]
    assert found == [64, module.MAX_EDGES // 1120, 8, 1]


def test_products_are_taken_down_with_those_of_the_backward_pass(load: Any):
    products = load("products")
    layer, x = torch.nn.Linear(3, 5), torch.randn(7, 3, requires_grad=True)
    total, stack = torch.zeros(2, 4, 4), torch.randn(2, 4, 4)

    def function() -> None:
        layer(x).sum().backward()
        total.baddbmm_(stack, stack)
        torch.zeros(0, 3) @ torch.zeros(3, 2)

    found = products.Products.of(function)
    assert found.operations == 3 * 2 * 7 * 3 * 5 + 2 * 2 * 4**3
    assert sum(found.counts.values()) == 4
    found.alone()()


def test_models_are_not_timed_when_they_disagree(load: Any, monkeypatch: pytest.MonkeyPatch):
    module = load("models")
    monkeypatch.setattr(module.harness, "keep_memory", lambda keep=True: None)
    real = MODELS["probe"].forward
    monkeypatch.setattr(
        MODELS["probe"], "forward", lambda self, networks: real(self, networks) * torch.rand(())
    )
    with pytest.raises(SystemExit, match="Nothing was timed"):
        module.main(["--model", "probe", "--width", "4", "--batch", "3"])


def test_primitives(load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    module = load("primitives")
    monkeypatch.setattr(module.harness, "keep_memory", lambda: None)
    # The profiler behind it takes seconds over so many rows.
    monkeypatch.setattr(module.harness, "peak_growth_mib", lambda function: 1.0)
    out = tmp_path / "primitives.csv"
    arguments = ["--channels", "2", "--batch", "2", "--mixed", "1", "--nodes", "5"]
    arguments += ["--stack", "2-32-32-1", "--width", "4", "--repeats", "2", "--out", str(out)]
    module.main(arguments)
    found = rows(out)
    cases = {row["case"].split(":")[0]: row["case"] for row in found}
    assert list(cases) == ["stack", "ragged", "irregular", "width"]
    for kind, case in cases.items():
        backends = {row["backend"] for row in found if row["case"] == case}
        assert backends == {"reference", "scatter"} | ({"dense"} if kind != "irregular" else set())
    for row in found:
        total = float(row["forward_ms"]) + float(row["backward_ms"])
        assert float(row["us_per_edge"]) == pytest.approx(total * 1e3 / int(row["edges"]), rel=0.02)
        assert float(row["copy_gib_per_s"]) > 0
        assert "--channels 2" in row["command"]
        if row["primitive"] != "layer":
            assert float(row["agreement"]) < 1e-9
    of = {(r["case"], r["primitive"], r["backend"]): r for r in found}
    stack = cases["stack"]
    assert float(of[stack, "propagate to target", "dense"]["times_products"]) > 0
    assert of[stack, "softmax", "dense"]["times_products"] == ""
    # The layer is the sum of its parts.
    parts = [float(of[stack, name, "dense"]["forward_ms"]) for name in module.LAYER]
    assert float(of[stack, "layer", "dense"]["forward_ms"]) == pytest.approx(sum(parts), rel=0.01)
    assert float(of[stack, "layer", "scatter"]["scatter_over_this"]) == 1


def test_primitives_are_not_timed_when_they_disagree(load: Any, monkeypatch: pytest.MonkeyPatch):
    module = load("primitives")
    real = dense.multiply_blocks
    monkeypatch.setattr(dense, "multiply_blocks", lambda *a: real(*a) * 1.001)
    case = module.Case("stack", module.Topology.of(module.Architecture.mlp([2, 3, 1])), (2,))
    with pytest.raises(SystemExit, match="multiply_blocks on stack, backend 'dense'"):
        module.check_agreement(case, 2, "cpu")


def test_equivariant(load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    module = load("equivariant")
    # What it does to the allocator would stay with the process of the tests.
    monkeypatch.setattr(module.harness, "keep_memory", lambda keep=True: None)
    out = tmp_path / "equivariant.csv"
    arguments = ["--channels", "2", "--networks", "3", "--repeats", "2", "--out", str(out)]
    module.main(["--widths", "4", "--depths", "2", "4", *arguments])
    found = rows(out)
    assert [(row["width"], row["depth"], row["edges"]) for row in found] == [
        ("4", "2", "12"), ("4", "4", "44"),
    ]  # fmt: skip
    assert all(float(row["disagreement"]) < 1e-5 for row in found)
    assert all(float(row["products_ms"]) > 0 for row in found)


def test_the_products_alone_are_those_of_the_layer(load: Any):
    module = load("equivariant")
    layer = module.EquivariantLinear(module.Architecture.mlp([2, 4, 4, 4, 1]), 3, 5)
    run, operations = module.products(layer, torch.ones(2, 44, 3), torch.ones(2, 44, 5))
    out, back, *rest = run()
    hidden = slice(8, 40)
    for k, weight in enumerate(layer.edge_weights):
        rows = slice(8 + 16 * k, 24 + 16 * k)
        torch.testing.assert_close(out[:, rows], torch.ones(2, 16, 3) @ weight.detach().mT)
        torch.testing.assert_close(back[:, rows], torch.ones(2, 16, 5) @ weight.detach())
    assert [tuple(sums.shape) for sums in rest[-2:]] == [(5, 3)] * 2
    # Two networks: a global table of 9 slots, group tables of 4, 3 and 3, and 32 edges.
    by_hand = 9 * 9 + 4 * (4 * 4 + 3 * 3 + 3 * 3) + (hidden.stop - hidden.start)
    assert operations == 6 * 2 * 3 * 5 * by_hand


def test_fit(load: Any, tmp_path: Path):
    out = tmp_path / "fit.csv"
    arguments = ["--noise", "5", "--count", "6", "--steps", "3", "--width", "4", "--threads", "1"]
    load("fit").main([*arguments, "--out", str(out)])
    (row,) = rows(out)
    assert (row["source"], row["networks"], row["steps"]) == ("noise5", "6", "3")
    assert float(row["networks_per_s"]) > 0
    assert row["command"] == (
        "python benchmarks/fit.py --noise 5 --count 6 --steps 3 --width 4 --threads 1"
    )


def small_zoo(path: Path) -> Path:
    images = torch.rand(20, 3, 3, 1, generator=torch.Generator().manual_seed(0))
    source = ImageSource("noise", images, torch.arange(20) % 2, ("even", "odd"))
    fit_zoo(
        path, source, widths=[2, 3, 3, 1], steps=2, splits=(0.5, 0.25, 0.25), threads=1,
        progress=False,
    )  # fmt: skip
    return path


def test_accuracy(load: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    zoo = small_zoo(tmp_path / "zoo")
    out = tmp_path / "accuracy.csv"
    arguments = ["--zoo", str(zoo), "--cpu-seconds", "0.01", "--out", str(out)]
    models = ["flat:{\"hidden\": 4}", "probe:{\"hidden\": 4, \"probes\": 2}"]  # fmt: skip
    load("accuracy").main([*arguments, "--model", *models, "--settings", '{"relabel": true}'])
    flat, probe = rows(out)
    assert (flat["access"], probe["access"]) == ("generic weights-only", "with probes")
    assert flat["settings"] == '{"relabel": true}'
    assert int(flat["steps"]) >= 1
    assert flat["command"] == (
        "python benchmarks/accuracy.py --zoo ZOO --model 'flat:{\"hidden\": 4}' "
        "--settings '{\"relabel\": true}' --cpu-seconds 0.01"
    )
    assert str(tmp_path) not in out.read_text()
    shown = capsys.readouterr().out
    # A table for each column.
    assert shown.index("generic weights-only: ") < shown.index("with probes: ")
    assert shown.count("| model |") == 2


def test_editing(load: Any, tmp_path: Path):
    out = tmp_path / "editing.csv"
    load("editing").main(
        ["--zoo", str(small_zoo(tmp_path / "zoo")), "--expansion", "none", "copies",
         "--options", '{"channels": 4, "messages": 4, "edge_channels": 0, "rounds": 0}',
         "--task-options", '{"copies": 2, "context": 4, "readout": {"hidden": 4}}',
         "--cpu-seconds", "0.01", "--out", str(out)]
    )  # fmt: skip
    found = rows(out)
    assert [row["expansion"] for row in found] == ["none", "copies"]
    # What is given goes before what the expansion stands for.
    assert all('"copies": 2' in row["task_options"] for row in found)
    assert {row["targets"] for row in found} == {"drawn"}
    assert all(0 < float(row["test_mse_e2"]) < 100 for row in found)
    assert "editing.py --zoo ZOO --expansion copies " in found[1]["command"]


# -- on a GPU -------------------------------------------------------------------------------------


def test_no_gpu_is_refused(load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match=r"torch sees none; run it on a machine with a GPU"):
        load("gpu").main(["--out", str(tmp_path / "gpu.csv")])
    assert not (tmp_path / "gpu.csv").exists()


def test_gpu_rows(load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """All but what asks the device: its clock and its memory."""
    module, out = load("gpu"), tmp_path / "gpu.csv"

    def times(_: Any, functions: Any, repeats: int) -> list[Any]:
        for function in functions:
            function()
        return [module.Duration(1.0, 0.5, 5.0)] * len(functions)

    monkeypatch.setattr(module.Device, "time", times)
    monkeypatch.setattr(module.Device, "peak_mib", lambda _, function: function() and 3.0)
    monkeypatch.setattr(module, "CASES", (((2, 3, 1), 2),))
    rates = module.device_rates(["bfloat16"], module.Device("cpu"), 3, size=32)
    assert rates[0] == pytest.approx(2 * 4 * 32**2 * 4 / 1e6)
    assert rates[1] == {"bfloat16": pytest.approx(2 * 32**3 / 1e9)}
    monkeypatch.setattr(module, "device_rates", lambda *_: (2.0, {"float32": 4.0}))
    made = module.parser()
    given = made.parse_args(
        ["--case", "0", "--channels", "4", "--dtype", "float32", "--backend", "reference",
         "dense", "--repeats", "5", "--out", str(out)]
    )  # fmt: skip
    module.measure(made, given, module.Device("cpu"))
    found = rows(out)
    assert [(row["backend"], row["pass"]) for row in found] == [
        (backend, name) for backend in ("reference", "dense") for name in ("forward", "backward")
    ]
    assert {row["time_ms"] for row in found} == {"1.0"}
    # By hand: e and e' of 72 numbers, nodes and blocks of 112, A of 16, in 4 bytes and 1 ms.
    assert float(found[0]["gb_per_s"]) == pytest.approx(4 * 384 / 1e6, rel=1e-3)
    assert float(found[1]["gb_per_s"]) == pytest.approx(4 * 584 / 1e6, rel=1e-3)
    assert float(found[1]["copy_share"]) == pytest.approx(4 * 292 / 1e6, rel=1e-3)
    assert float(found[0]["product_share"]) == pytest.approx(576 / 4e9, rel=1e-3)
    assert float(found[1]["tflops"]) == pytest.approx(2 * 576 / 1e9, rel=1e-3)


def test_what_does_not_fit_a_gpu_is_a_row(load: Any, monkeypatch: pytest.MonkeyPatch):
    module = load("gpu")

    def full(*_: Any) -> None:
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setattr(module, "passes", full)
    given = module.parser().parse_args(["--dtype", "float32", "--backend", "dense"])
    found = module.rows_of((2, 3, 1), 2, 4, given, (1.0, {}), module.Device("cpu"))
    assert [(row["backend"], row["out_of_memory"]) for row in found] == [("dense", True)]


def test_gpu_kernels_that_err_are_not_timed(load: Any, monkeypatch: pytest.MonkeyPatch):
    module = load("gpu")
    topology = module.Topology.of(module.Architecture.mlp([2, 16, 1]))
    given = module.draw(topology, 4, 16, torch.bfloat16, "cpu")
    assert module.check(topology, "reference", given)["error"] > 0
    real = module.update

    def wrong(topology: Any, backend: str, *given: Any) -> Any:
        edges, *rest = real(topology, "reference", *given)
        return (edges * 1.1 if backend == "dense" else edges, *rest)

    monkeypatch.setattr(module, "update", wrong)
    with pytest.raises(SystemExit, match=r"'dense': output 0 errs .* Nothing was timed"):
        module.check(topology, "dense", given)


def test_conversion(load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    module = load("conversion")
    out = tmp_path / "conversion.csv"
    arguments = ["--count", "5", "--width", "4", "--repeats", "2", "--large", "0"]
    module.main([*arguments, "--depths", "1", "2", "--out", str(out)])
    found = rows(out)
    assert [row["what"] for row in found].count("permutation_spec against depth") == 2
    assert float(found[0]["networks_per_s"]) > 0
    assert found[-2]["times_linear"] == "1.0"
    assert str(tmp_path) not in out.read_text()
    # A graph that is not the network is not timed.
    monkeypatch.setattr(module, "to_state_dict", lambda graph: {})
    with pytest.raises(SystemExit, match="Nothing was timed"):
        module.mlps(2, 3, 1)


class Clock:
    """Stands for a process: a call takes as long as it says."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def ask(self, group: str, what: str | None, calls: int = 1) -> Any:
        return ["a call"] if what is None else calls * self.seconds


def test_against(load: Any):
    module = load("against")
    row = module.compare([Clock(0.003), Clock(0.002)], "reading", "a call", 3)
    assert (row["ratio"], row["cpu_ms"], row["cpu_ms_beside"]) == (1.5, 3.0, 2.0)
    assert row["calls"] * 0.002 >= module.TURN
    # What is timed can be called, whatever it is.
    for group in ("conversion", "reading"):
        for make in module.GROUPS[group]().values():
            make()()


def test_soundness(load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    module = load("soundness")
    out = tmp_path / "soundness.csv"
    line = ["--programs", "3", "--steps", "4", "--samples", "0", "--out", str(out)]
    module.main(line)
    (row,) = rows(out)
    assert (row["kind"], row["programs"], row["unsound"]) == ("random programs", "3", "0")
    # A claim that does not hold is counted, and is an exit code.
    monkeypatch.setattr(module, "worst_break", lambda recorder, engine: (0.1, "p0"))
    with pytest.raises(SystemExit):
        module.main(line)
    assert rows(out)[0]["unsound"] == "3"


def test_completeness(load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    module = load("completeness")
    line = ["--network", "LoRA", "--out", str(tmp_path / "completeness.csv")]
    module.main(line)
    (row,) = rows(tmp_path / "completeness.csv")
    assert (row["derived"], row["jacobian"], row["status"]) == ("4", "4", "holds")
    # A group that is too large is an exit code.
    found = replace(module.null_space(*module.build("LoRA")), rank=10_000)
    monkeypatch.setattr(module, "null_space", lambda network, inputs: found)
    with pytest.raises(SystemExit):
        module.main(line)


def test_group_coverage(load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    module = load("group_coverage")
    made = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    case = module.Case("forms", "mlp", "mlp", lambda: (made, (torch.randn(5, 3),), {}))
    broken = module.Case("forms", "none", "none", lambda: 1 / 0)
    monkeypatch.setattr(module, "cases", lambda libraries: [case, broken])
    line = ["--out", str(tmp_path / "group_coverage.csv")]
    module.main(line)
    row, other = rows(tmp_path / "group_coverage.csv")
    assert (row["dimension"], row["kinds"], row["status"]) == ("4", "positive_scale:1", "holds")
    assert "ZeroDivisionError" in other["error"]
    spec = module.symmetry_spec(made, torch.randn(5, 3))
    wrong = replace(spec, generators=(replace(spec.generators[0], kind="sign"),))
    monkeypatch.setattr(module, "symmetry_spec", lambda *_, **__: wrong)
    with pytest.raises(SystemExit):
        module.main(line)


def test_hostile(load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    module = load("hostile")
    out = tmp_path / "hostile.csv"
    monkeypatch.setattr(module, "WARM_UP", 40)
    module.main(["--mutations", "40", "--out", str(out)])
    found = rows(out)
    assert sum(int(row["mutations"]) for row in found) == 40
    assert {row["faults"] for row in found} == {"0"}
    # An error that is none of the library's is counted, and is an exit code.
    monkeypatch.setattr(module.Fuzz, "run", lambda self, seed: 1 // 0)
    with pytest.raises(SystemExit):
        module.main(["--mutations", "1", "--out", str(out)])


def test_scans(load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    module = load("scans")
    out = tmp_path / "scans.csv"
    arguments = ["--family", "batch in place", "--steps", "3", "6", "--repeats", "1"]
    module.main([*arguments, "--out", str(out)])
    first, second = rows(out)
    assert (first["steps"], first["derivation_ratio"], second["steps"]) == ("3", "", "6")
    assert float(second["derivation_ratio"]) > 0
    assert float(second["tracing_ms_per_operation"]) > 0
    assert int(second["groups"]) == int(first["groups"])
    # Another symmetry than the one that is written down is not timed.
    loop, sizes, _ = module.FAMILIES["batch in place"]
    monkeypatch.setitem(module.FAMILIES, "batch in place", (loop, sizes, [7]))
    with pytest.raises(SystemExit, match="Nothing was timed"):
        module.check("batch in place")


# -- matching and widths --------------------------------------------------------------------------


def test_alignment(load: Any, tmp_path: Path):
    module = load("alignment")
    generator = torch.Generator().manual_seed(0)
    for prefix in ("train", "t10k"):
        for name, shape, below in (("images-idx3", (60, 4, 4), 256), ("labels-idx1", (60,), 10)):
            head = struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape)
            data = torch.randint(below, shape, generator=generator, dtype=torch.uint8)
            file = tmp_path / f"{prefix}-{name}-ubyte"
            file.write_bytes(head + data.numpy().tobytes())
    out = tmp_path / "alignment.csv"
    arguments = ["--idx", str(tmp_path), "--widths", "5", "4", "--steps", "3", "--out", str(out)]
    module.main(arguments)
    none, weights, activations, sinkhorn = rows(out)
    assert [none["method"], weights["method"]] == ["none", "weights"]
    assert float(weights["distance"]) <= float(none["distance"])
    assert all(float(row["barrier"]) >= 0 for row in (none, weights, activations, sinkhorn))
    assert "--idx DIR" in weights["command"]
    assert str(tmp_path) not in weights["command"]


def test_matchings_are_not_measured_when_one_is_wrong(load: Any):
    module = load("alignment")
    architecture = Architecture.mlp([4, 6, 5, 3])
    values = random_parameters(architecture, 0)
    network = NeuralGraph.from_parameters(architecture, {n: 3 * v for n, v in values.items()})
    x = torch.randn(50, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    loss = module.data_loss(x, module.run(network, x).argmax(-1))
    module.check(network, module.match_weights, loss)
    stay = module.Alignment(Symmetry(architecture).identity())
    with pytest.raises(SystemExit, match="Nothing was measured"):
        module.check(network, lambda a, b: stay, loss)


def test_width_transfer(load: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    module = load("width_transfer")
    arguments = ["--widths", "3", "4", "--count", "64", "--fit-steps", "2", "--epochs", "1"]
    out, figure = tmp_path / "rows.csv", tmp_path / "rows.png"
    module.main([*arguments, "--out", str(out), "--figure", str(figure)])
    found = rows(out)
    assert [(row["options"], row["width"]) for row in found] == [
        (name, width) for name in module.OPTIONS for width in ("3", "4")
    ]
    assert all(0 <= float(row["accuracy"]) <= 1 for row in found)
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert "layer-wise" in capsys.readouterr().out
