"""Where a module shows what the neurons of its network answer: at the outputs of submodules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nngraph.errors import ArchitectureError
from nngraph.graph import Architecture

#: Modules whose outputs count neurons along the last axis; those of all others along axis 1.
_NEURONS_LAST = (nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.Embedding, nn.MultiheadAttention)


@dataclass(frozen=True)
class Hook:
    """Where a module shows what the neurons of a group answer: an axis of a submodule's output.

    Axis 0 counts the inputs.
    """

    module: str
    axis: int = 1


@contextmanager
def watched(
    module: nn.Module, names: Iterable[str], see: Callable[[str, Tensor], None]
) -> Iterator[None]:
    """Hand the output of each call of some submodules to ``see``; of several the first tensor."""

    def hook(name: str) -> Callable[..., None]:
        def forward_hook(_module: nn.Module, _inputs: object, output: object) -> None:
            first = output[0] if isinstance(output, (tuple, list)) else output
            if isinstance(first, Tensor):
                see(name, first)

        return forward_hook

    handles = [module.get_submodule(n).register_forward_hook(hook(n)) for n in set(names)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def neuron_means(value: Tensor, axis: int) -> Tensor:
    """Average over all places: ``[P, ...]`` with d neurons along an axis -> ``[d, P]``."""
    value = value.movedim(axis, 0)
    return value.reshape(*value.shape[:2], -1).mean(-1)


def check_parameters(architecture: Architecture, module: nn.Module) -> None:
    """Check that a module's parameters are those of an architecture, by their names."""
    names = {name for p in architecture.parameters for name in (p.name, *p.aliases)}
    if differing := sorted(names ^ set(module.state_dict())):
        sides = ("architecture", "module")
        has, lacks = sides if differing[0] in names else reversed(sides)
        raise ArchitectureError(
            f"the module {type(module).__name__} is to run networks of the architecture "
            f"{architecture}: the {has} has a parameter {differing[0]!r}, the {lacks} has none; "
            "expected the module that a graph of the architecture was converted from."
        )


def find_hooks(
    architecture: Architecture,
    module: nn.Module,
    input_shape: tuple[int, ...],
    given: Mapping[str, Hook] | None = None,
) -> dict[str, Hook]:
    """Run a module once, and return where the groups of its architecture show, by name.

    By default each is looked for at the submodule with its last parameter. What does not run, does
    not answer with a number per output neuron or is said to show and does not, is refused.
    """
    hooks = _owners(architecture, module) if given is None else given
    shapes: dict[str, tuple[int, ...]] = {}
    there = {name for name, _ in module.named_modules()} & {s.module for s in hooks.values()}
    where = f"the module {type(module).__name__} of the architecture {architecture}"
    like = next(module.parameters(), torch.empty(()))
    inputs = torch.zeros(2, *input_shape, dtype=like.dtype, device=like.device)
    def see(name: str, value: Tensor) -> None:
        shapes[name] = tuple(value.shape)

    try:
        with torch.no_grad(), watched(module, there, see):
            answers = module(inputs)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise ArchitectureError(
            f"{where} does not run on inputs of shape {input_shape}: {error!s:.300}"
        ) from None
    outputs = sum(group.size for group in architecture.groups if group.role == "output")
    is_tensor = isinstance(answers, Tensor)
    if not is_tensor or answers.dim() < 2 or len(answers) != 2 or answers[0].numel() != outputs:
        got = f"shape {tuple(answers.shape)}" if is_tensor else type(answers).__name__
        raise ArchitectureError(
            f"{where} answers 2 inputs with {got}; expected one number for each of its {outputs} "
            "output neurons."
        )
    sizes = {group.name: group.size for group in architecture.groups}
    found = {}
    for name, hook in hooks.items():
        shape = shapes.get(hook.module, ())
        inside = -len(shape) < hook.axis < len(shape) and hook.axis != 0
        if inside and shape[hook.axis] == sizes.get(name):
            found[name] = hook
        elif given is not None:
            raise ArchitectureError(
                f"{where} shall show the {sizes.get(name, 'unknown')} neurons of the group "
                f"{name!r} along axis {hook.axis} of the output of {hook.module!r}, which has "
                f"shape {shape}; expected an axis of as many entries that is not the first."
            )
    return found


def _owners(architecture: Architecture, module: nn.Module) -> dict[str, Hook]:
    """Return the submodule with the last parameter of each group, and the axis of its neurons."""
    weights = [(b.parameter, b.target) for b in architecture.blocks if not b.identity]
    found = {}
    for parameter, group in [*weights, *((c.parameter, c.group) for c in architecture.columns)]:
        owner = parameter.name.rpartition(".")[0]
        last = isinstance(module.get_submodule(owner), _NEURONS_LAST)
        found[architecture.groups[group].name] = Hook(owner, -1 if last else 1)
    return found
