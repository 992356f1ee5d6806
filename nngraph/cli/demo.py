"""The demo: networks fitted, turned into graphs, read by metanetworks, relabelled, and drawn."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from converters import to_graph, to_module, to_state_dict
from nngraph import drawing
from nngraph.cli import text
from nngraph.cli.common import at_least, picked
from nngraph.cli.options.training import Demo
from nngraph.cli.relabelled import Relabelled, compare_relabelled
from nngraph.errors import DataFileError
from nngraph.files import write_atomically
from nngraph.graph import NeuralGraphStack, Symmetry, forward
from nngraph.nn import MODELS
from nngraph.tasks import Predict, Report, TrainSettings, build_task, load_run, train
from nngraph.zoo import ImageSource, Zoo, fit_zoo, load_digits_images, pixel_coordinates, render

#: A graph runs as its network if their outputs differ by at most this, relative to the largest.
TOLERANCE = 1e-12
#: Test networks that are converted and run for that check.
_CHECKED = 100


@dataclass(frozen=True)
class _Contestant:
    """A model of the demo: where its run is, what it is called, and how it is trained."""

    folder: str
    label: str
    model: str
    epochs: int
    options: dict[str, Any] = field(default_factory=dict)
    motion: bool = True
    relabel: bool = False


@dataclass(frozen=True)
class _Plan:
    """How much the demo does."""

    count: int
    views: int
    steps: int
    warmup_steps: int
    contestants: tuple[_Contestant, ...]


#: Epochs and not seconds, so that the same seed gives the same figures on a slow machine.
_CONTESTANTS = (
    _Contestant("symmetric", "symmetric message passing", "symmetric", 20),
    # No state on edges and half of the channels: a third of the time.
    _Contestant(
        "message-passing", "message passing", "message-passing", 16,
        {"channels": 64, "messages": 32, "edge_channels": 0},
    ),
    # On the weights as they are: it learns the training networks by heart, and no more.
    _Contestant("flat", "flat MLP", "flat", 12, motion=False),
    _Contestant("flat-relabel", "flat MLP, augmented", "flat", 12, relabel=True),
    _Contestant("probe", "probes only", "probe", 10),
)  # fmt: skip
_SMALL: dict[str, dict[str, Any]] = {
    "symmetric": {"channels": [8, 8], "messages": 8},
    "message-passing": {"channels": 8, "messages": 4, "edge_channels": 0},
    "probe": {"probes": 8},
}
_FULL = _Plan(1797, views=4, steps=150, warmup_steps=100, contestants=_CONTESTANTS)
_QUICK = _Plan(
    120, views=2, steps=20, warmup_steps=2,
    contestants=tuple(
        replace(each, epochs=2, options={**_SMALL.get(each.model, {}), "hidden": 16})
        for each in _CONTESTANTS
    ),
)  # fmt: skip


@dataclass(frozen=True)
class _Outcome:
    """What came of a contestant."""

    contestant: _Contestant
    report: Report
    relabelled: Relabelled
    relabelled_training: Relabelled
    curve: tuple[list[float], list[float]]

    def to_dict(self) -> dict[str, Any]:
        return {
            **picked(self.contestant, "label", "folder"),
            **self.report.to_dict(),
            "relabelled": self.relabelled.to_dict(),
            "relabelled_training": self.relabelled_training.to_dict(),
        }


def demo(options: Demo) -> int:
    """Run the demo."""
    at_least(0, seed=options.seed)

    def say(line: str) -> None:
        print(line, file=sys.stderr if options.json else sys.stdout, flush=True)

    out = options.out or ("out/demo-quick" if options.quick else "out/demo")
    result = run_demo(
        Path(out), seed=options.seed, quick=options.quick, say=say, progress=not options.quiet
    )
    if options.json:
        print(json.dumps(result, indent=2, allow_nan=False))
    return 0 if result["ok"] else 1


def check_graphs_run(networks: NeuralGraphStack, points: torch.Tensor) -> tuple[float, bool]:
    """Turn networks into modules, these into graphs, and run both on ``[P, d_0]``, in float64.

    Return the largest difference of outputs, relative to a network's largest, and whether every
    weight came back bit for bit.
    """
    networks, points = networks.to(torch.float64), points.to(torch.float64)
    worst, same = 0.0, True
    with torch.no_grad():
        for network in networks:
            module = to_module(network)
            graph = to_graph(module)
            expected = module(points)
            error = (forward(graph, points) - expected).abs().max() / expected.abs().max()
            worst = max(worst, float(error))
            back, weights = to_state_dict(graph), to_state_dict(network)
            same &= list(back) == list(weights)
            same &= all(torch.equal(back[name], value) for name, value in weights.items())
    return worst, same


def run_demo(
    out: Path, *, seed: int = 0, quick: bool = False, say: Callable[[str], None],
    progress: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """Run the demo; called again after an interruption it goes on where it was.

    Return all that was found, as plain data; ``"ok"`` says whether graphs run as their networks and
    no invariant model changed a prediction. ``say`` is given each line for people.
    """
    begin = time.perf_counter()
    plan = _QUICK if quick else _FULL
    drawing.new_figure(1, 1)  # a missing matplotlib is told now, and not after minutes
    images = load_digits_images()

    say(f"[1/5] {plan.views} networks for each of {plan.count:,} digits, each from its own start")
    zoo = fit_zoo(
        out / "zoo", images, count=plan.count, views=plan.views, steps=plan.steps, seed=seed,
        progress=progress,
    )  # fmt: skip
    info = zoo.info()
    say(
        f"      {len(zoo):,} networks {zoo.architecture} of "
        f"{info['architectures'][0]['parameters']:,} weights, "
        f"{info['facts']['psnr']['mean']:.1f} dB on average"
    )

    say("[2/5] Networks as graphs")
    test = zoo.stack("test")
    checked = test[:_CHECKED]
    error, same = check_graphs_run(checked, pixel_coordinates(*zoo.image_shape[:2]))
    graphs_run = same and error <= TOLERANCE
    say(
        f"      {len(checked)} test networks to modules, to graphs of "
        f"{zoo.architecture.num_nodes} nodes and {zoo.architecture.num_edges:,} edges, and back: "
        f"weights {'equal bit for bit' if same else 'DIFFER'}\n"
        "      graphs run by message passing against the modules, float64: largest relative error "
        f"{error:.1e} ({'ok' if error <= TOLERANCE else 'TOO LARGE'}, at most {TOLERANCE:.0e})"
    )

    say(f"[3/5] Metanetworks learn to name the digit ({info['splits']['train']:,} networks)")
    outcomes = [_train(each, plan, zoo, out, seed, progress) for each in plan.contestants]
    say(_accuracy_words(outcomes, len(test), zoo))

    say("[4/5] The neurons of every network relabelled at random, float64")
    say(_relabelled_words(outcomes, zoo))
    invariant = all(o.relabelled.holds and o.relabelled_training.holds for o in outcomes)

    say("[5/5] Figure")
    path = _draw(out, zoo, images, outcomes)
    say(f"      {path}")

    result = {
        "ok": graphs_run and invariant,
        "out": str(out), "seed": seed, "quick": quick, "figure": str(path), "zoo": info,
        "graphs_run": {
            "networks": len(checked), "largest_relative_error": error, "tolerance": TOLERANCE,
            "weights_equal": same, "holds": graphs_run,
        },
        "test_networks": len(test),
        "models": [outcome.to_dict() for outcome in outcomes],
        "predictions_unchanged": invariant,
        "seconds": round(time.perf_counter() - begin, 1),
    }  # fmt: skip
    write_atomically(out / "report.json", (json.dumps(result, indent=2) + "\n").encode())
    claims = {
        "a graph does not run as its network": graphs_run,
        "relabelling changed a prediction of a model that claims invariance": invariant,
    }
    verdict = (
        "graphs run as their networks, and relabelling changed no prediction of an invariant model"
        if result["ok"]
        else "FAILED: " + " and ".join(words for words, holds in claims.items() if not holds)
    )
    say(f"Done in {text.duration(time.perf_counter() - begin)}: {verdict}.")
    return result


def _train(
    contestant: _Contestant, plan: _Plan, zoo: Zoo, out: Path, seed: int, progress: bool
) -> _Outcome:
    settings = TrainSettings(
        zoo=str(zoo.path), warmup_steps=plan.warmup_steps, seed=seed,
        **picked(contestant, "model", "options", "epochs", "motion", "relabel"),
    )  # fmt: skip
    folder = out / "runs" / contestant.folder
    report = train(settings, folder, progress)
    model, _ = load_run(folder)
    task = build_task(settings, zoo)
    assert isinstance(task, Predict)
    # One network of each training image: enough to see who has learned them by heart.
    test, seen = (
        compare_relabelled(task, model, zoo.stacks(networks), seed)
        for networks in ("test", _first_views(zoo, "train"))
    )
    return _Outcome(contestant, report, test, seen, _curve(folder / "metrics.jsonl"))


def _first_views(zoo: Zoo, split: str) -> torch.Tensor:
    """Return the numbers of one network of each image of a split."""
    numbers = zoo.indices(split)
    return numbers[zoo.view[numbers] == 0]


def _curve(path: Path) -> tuple[list[float], list[float]]:
    """Return CPU seconds and validation accuracy after each epoch."""
    try:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        seconds, accuracy = ([float(r[k]) for r in rows] for k in ("cpu_seconds", "val_accuracy"))
        return seconds, accuracy
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataFileError(
            f"{path} cannot be read as metrics of a run: {error!r}. Delete its folder to train "
            "again."
        ) from None


# -- words and pictures --------------------------------------------------------------------------


def _by_access(
    head: Sequence[str], outcomes: Sequence[_Outcome], row: Callable[[_Outcome], list[str]]
) -> str:
    """Return a table of all outcomes, by access: only models that may use the same are compared."""
    rows: list[list[str]] = []
    for access in dict.fromkeys(outcome.report.access for outcome in outcomes):
        rows.append([access, *[""] * (len(head) - 1)])
        rows += [
            [f"  {outcome.contestant.label}", *row(outcome)]
            for outcome in outcomes
            if outcome.report.access == access
        ]
    return text.table(head, rows, indent="      ")


def _accuracy_words(outcomes: Sequence[_Outcome], networks: int, zoo: Zoo) -> str:
    held_out = len(torch.unique(zoo.image[zoo.indices("test")]))
    table = _by_access(
        ("model", "parameters", "epochs", "CPU", "training", "test"),
        outcomes,
        lambda o: [
            f"{o.report.parameters:,}", str(o.report.epochs), text.duration(o.report.cpu_seconds),
            text.percent(o.relabelled_training.before), text.percent(o.report.test["accuracy"]),
        ],
    )  # fmt: skip
    return (
        f"{table}\n      test: all {networks:,} networks of {held_out} images of which no network "
        "was in training\n      training: one network of each training image; augmented: images "
        "moved and neurons relabelled at random\n      each with its parameters of the best epoch "
        "on validation networks"
    )


def _relabelled_words(outcomes: Sequence[_Outcome], zoo: Zoo) -> str:
    order = Symmetry(zoo.architecture).log10_order()
    table = _by_access(
        ("model", "same answers", "change", "test", "after", "training", "after"),
        outcomes,
        lambda o: [
            text.percent(o.relabelled.unchanged), f"{o.relabelled.largest_change:.0e}",
            *(
                text.percent(accuracy)
                for found in (o.relabelled, o.relabelled_training)
                for accuracy in (found.before, found.after)
            ),
        ],
    )  # fmt: skip
    return (
        f"      one of 10^{order:.0f} relabellings each; every network still draws the same "
        f"image\n{table}\n"
        "      same answers: of test networks; change: largest, relative to the largest answer\n"
        "      accuracy on test and training networks, before and after the relabelling"
    )


def _draw(out: Path, zoo: Zoo, images: ImageSource, outcomes: Sequence[_Outcome]) -> Path:
    # The first test network of each class; a few images may lack a class.
    test = _first_views(zoo, "test")
    numbers = torch.cat([test[zoo.labels[test] == label][:1] for label in range(zoo.num_classes)])
    networks = zoo.stack(numbers)
    height, width = zoo.image_shape[:2]
    drawn = len(numbers) // 3
    invariant = [o for o in outcomes if MODELS[o.contestant.model].traits.invariant]
    weights_only = [o for o in invariant if o.report.access != "with probes"]
    best = max(weights_only, key=lambda outcome: outcome.report.val["accuracy"])
    return drawing.draw_demo(
        out / "demo.png",
        originals=images.targets(zoo.image[numbers]).double().numpy(),
        reconstructions=render(networks, height, width).double().numpy(),
        enlargements=render(networks, 8 * height, 8 * width).double().numpy(),
        psnr=float(zoo.psnr.mean()),
        graph=networks[drawn],
        graph_label=f"it draws a {zoo.class_names[int(zoo.labels[numbers[drawn]])]}",
        curves={f"{o.contestant.label} ({o.report.access})": o.curve for o in outcomes},
        confusion=torch.tensor(best.report.details["confusion"]).numpy(),
        class_names=best.report.details["class_names"],
        model=best.contestant.label,
        accuracy=best.report.test["accuracy"],
    )
