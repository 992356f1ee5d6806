"""The models there are: what each is, what it respects, and what it costs on an example."""

from __future__ import annotations

import inspect
import time
from typing import Any

import torch

from nngraph.errors import NNGraphError
from nngraph.graph import Activation, Architecture, NeuralGraphStack
from nngraph.nn import MODELS, Metanetwork

#: Networks that draw an image each, as of ``nngraph zoo fit``.
EXAMPLE = Architecture.mlp([2, 32, 32, 1], Activation("sine", w0=30.0))
#: Classes of the example.
_CLASSES = 10
#: A step is timed at least so often, and for so many seconds.
_TIMES, _SECONDS = 2, 0.2


def describe_models(
    architecture: Architecture | None = None, batch_size: int = 64
) -> list[dict[str, Any]]:
    """Return what there is to know of every model of ``nngraph.nn.MODELS``, as plain data.

    The cost is that of a training step, forward and backward with its default options, in
    milliseconds of CPU time on torch's threads: the least of some.

    Args:
        architecture: of the example; default :data:`EXAMPLE`.
        batch_size: networks of the example's step.
    """
    example = architecture or EXAMPLE
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        values = {p.name: torch.randn(batch_size, *p.shape) * 0.1 for p in example.parameters}
        networks = NeuralGraphStack.from_parameters(example, values)
        return [
            {
                "model": name,
                "about": _first_sentence(kind),
                "symmetry": kind.traits.symmetry,
                "reads": _reads(kind),
                **_cost(kind, networks),
            }
            for name, kind in MODELS.items()
        ]


def _first_sentence(kind: type[Metanetwork]) -> str:
    return " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split())


def _reads(kind: type[Metanetwork]) -> str:
    kinds = "chains of affine maps" if kind.traits.chains_only else "networks of any architecture"
    return kinds if kind.traits.many else f"{kinds}, built for one architecture"


def _cost(kind: type[Metanetwork], networks: NeuralGraphStack) -> dict[str, Any]:
    """Return access, parameters and cost on the example; why not, where a model cannot read it."""
    try:
        model = kind(networks.architecture, _CLASSES)
        model.fit_statistics(networks)
        times: list[float] = []
        while len(times) <= _TIMES or sum(times) < _SECONDS:
            start = time.process_time()
            model(networks).square().mean().backward()
            times.append(time.process_time() - start)
    except NNGraphError as error:
        return {"access": None, "parameters": None, "step_ms": None, "unfit": str(error)}
    return {
        "access": model.traits.access,
        "parameters": sum(p.numel() for p in model.parameters()),
        "step_ms": round(1000 * min(times), 2),
        "unfit": None,
    }
