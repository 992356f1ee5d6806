r"""The proof of a spec on the network itself: relabelled parameters, the same outputs.

For each free space alone, and for all together, random relabellings :math:`g` are applied to the
parameters and the outputs compared, :math:`f(g \theta, x) = f(\theta, x)`, in float64. Weights that
a fresh network has in special places (zero biases, unit scales) would let a wrong relabelling pass,
so the check runs on parameters that are shaken first. And it says for each space by how much the
outputs move when only *one* of the axes that it ties is relabelled: a check that nothing could fail
proves nothing.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from converters.inspection import evaluating
from converters.symmetry.arguments import as_arguments, map_tensors
from converters.symmetry.derive import Derivation
from converters.symmetry.missed import Missed, search_missed
from converters.symmetry.relabelling import identity, permute_axes, sample
from converters.symmetry.spec import PermutationSpec, Space
from nngraph.errors import ArchitectureError, NonFiniteError

__all__ = ["SpaceCheck", "Verification", "verify"]

TOLERANCE = 1e-9


@dataclass(frozen=True)
class SpaceCheck:
    """What was found for one space.

    Args:
        space: its name.
        size: number of its neurons.
        ties: (parameter, axis) pairs that it ties.
        error: largest relative change of the outputs under its relabellings.
        power: largest relative change when only one of those axes is relabelled; ``None`` if it
            ties a single one.
    """

    space: str
    size: int
    ties: tuple[tuple[str, int], ...]
    error: float
    power: float | None


@dataclass(frozen=True)
class Verification:
    """The result of :func:`verify`.

    Args:
        checks: one per free space.
        error: largest relative change of the outputs when all spaces are relabelled together.
        tolerance: what counts as unchanged.
        missed: symmetry that the spec forbids; ``None`` if it was not searched for.
    """

    checks: tuple[SpaceCheck, ...]
    error: float
    tolerance: float
    missed: tuple[Missed, ...] | None = None

    @property
    def holds(self) -> bool:
        """Whether every relabelling left the outputs unchanged."""
        return all(error <= self.tolerance for error in (self.error, *self._errors()))

    def _errors(self) -> Iterator[float]:
        return (check.error for check in self.checks)

    @property
    def power(self) -> float | None:
        """Smallest change of all when one axis alone is relabelled: what a mistake would show."""
        powers = [check.power for check in self.checks if check.power is not None]
        return min(powers, default=None)

    @property
    def worst(self) -> float:
        """Largest relative change of all."""
        return max(self.error, *self._errors()) if self.checks else self.error

    def __str__(self) -> str:
        lines = [
            f"{'holds' if self.holds else 'FAILS'}: {len(self.checks)} spaces, all together "
            f"{self.error:.1e}, worst {self.worst:.1e} (at most {self.tolerance:.0e})"
        ]
        width = max((len(check.space) for check in self.checks), default=0)
        for check in self.checks:
            power = "" if check.power is None else f", one axis alone {check.power:.1e}"
            mark = "" if check.error <= self.tolerance else "  <- changes the function"
            ties = ", ".join(f"{name}[{axis}]" for name, axis in check.ties)
            lines.append(
                f"  {check.space:<{width}} {check.size:>6}  {check.error:.1e}{power}{mark}  {ties}"
            )
        if self.missed is not None:
            lines.append(f"missed symmetry: {len(self.missed)}")
            lines += [f"  {missed}" for missed in self.missed]
        return "\n".join(lines)


def verify(
    subject: PermutationSpec | Derivation,
    module: nn.Module,
    example_inputs: Any,
    *,
    kwargs: Mapping[str, Any] | None = None,
    samples: int = 3,
    seed: int = 0,
    shake: bool = True,
    maximal: bool = False,
    alone: int | None = None,
    tolerance: float = TOLERANCE,
) -> Verification:
    """Check on a network that a spec's relabellings do not change its function.

    Args:
        subject: the spec, or the derivation that holds it.
        module: the network; a copy in float64 and evaluation mode is run.
        example_inputs: one tensor, or a tuple of positional arguments.
        kwargs: keyword arguments of its forward.
        samples: relabellings per check, each on parameters that are shaken differently.
        seed: seed of the relabellings and of the shaking.
        shake: run on parameters with noise added, since zeros and ones hide mistakes.
        maximal: also search for symmetry that the spec misses; for small networks, as it runs the
            network a few times for each pair of neurons it tries.
        alone: number of spaces, drawn at random, to check alone; every one by default. All
            together are checked in any case.
        tolerance: largest change of the outputs, relative to their largest entry, that counts as
            none.

    Raises:
        ArchitectureError: if the spec is not of this module.
        NonFiniteError: if the outputs are not finite, so that nothing can be compared.
    """
    spec = subject.spec if isinstance(subject, Derivation) else subject
    args = as_arguments(example_inputs)

    def run_with(seeds: range) -> list[Runner]:
        return [Runner(module, args, kwargs or {}, spec, s if shake else None) for s in seeds]

    runners = run_with(range(seed, seed + samples))
    generator = torch.Generator().manual_seed(seed)

    def change(names: Sequence[str] | None) -> float:
        return max(
            runner.change(spec.permute(runner.state, sample(spec, generator, names)))
            for runner in runners
        )

    def power(space: Space, ties: Sequence[tuple[str, int]]) -> float | None:
        if len(ties) < 2:
            return None
        moved = _moved(sample(spec, generator, (space.name,)), space.name)
        relabelling = identity(spec) | moved
        return max(
            runner.change(runner.state | permute_axes(spec, runner.state, relabelling, {tie}))
            for runner in runners for tie in (ties[0], ties[-1])
        )

    checks = []
    for space in _drawn(spec.free_spaces, alone, generator):
        ties = spec.ties(space.name)
        error = change((space.name,))
        checks.append(SpaceCheck(space.name, space.size, ties, error, power(space, ties)))
    missed = None
    if maximal:
        more = range(seed + samples, seed + 3 * samples)
        missed = search_missed(spec, runners, lambda: run_with(more), generator, tolerance)
    return Verification(tuple(checks), change(None), tolerance, missed)


def _drawn(
    spaces: Sequence[Space], count: int | None, generator: torch.Generator
) -> Sequence[Space]:
    if count is None or count >= len(spaces):
        return spaces
    chosen = torch.randperm(len(spaces), generator=generator)[:count].sort()[0]
    return [spaces[i] for i in chosen.tolist()]


def _moved(relabelling: dict[str, Tensor], space: str) -> dict[str, Tensor]:
    """Return the relabelling of one space, and a cyclic shift where it moves nothing by chance."""
    index = relabelling[space]
    still = torch.equal(index, torch.arange(index.shape[-1]).expand(index.shape))
    return {space: index.roll(1, -1) if still else index}


class Runner:
    """Runs a module on one input with parameters that are given.

    Args:
        module: copied to float64.
        args: positional inputs.
        kwargs: keyword inputs.
        spec: which tensors it has.
        seed: of the noise that is added to its parameters; ``None`` for none.
    """

    def __init__(
        self,
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        spec: PermutationSpec,
        seed: int | None,
    ) -> None:
        if any(t.device.type == "meta" for t in module.state_dict().values() if _is_tensor(t)):
            raise ArchitectureError(
                "the module is on the meta device and has no weights; expected one that can run. "
                "Use module.to_empty(device='cpu') and fill them."
            )
        self.module = copy.deepcopy(module).double()
        self.args, self.kwargs = map_tensors(_double, (args, dict(kwargs)))
        tensors = {k: v for k, v in self.module.state_dict().items() if _is_tensor(v)}
        known = {n for name in spec.parameters for n in (name, *spec.aliases.get(name, ()))}
        if set(tensors) != known:
            raise ArchitectureError(
                f"the spec names {len(known)} tensors and the module has {len(tensors)}; they "
                f"differ in {sorted(set(tensors) ^ known)[:5]}. Derive the spec of this module."
            )
        for name in spec.parameters:
            if tuple(tensors[name].shape) != spec.shape(name):
                raise ArchitectureError(
                    f"tensor {name!r} has shape {tuple(tensors[name].shape)} in the module and "
                    f"{spec.shape(name)} in the spec. Derive the spec of this module."
                )
        self.state = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        if seed is not None:
            _shake(self.state, spec, seed)
        # A forward may write to its buffers, so that each run gets copies of them.
        self.buffers = {n for n, _ in self.module.named_buffers(remove_duplicate=False)}
        own = self.module.named_buffers(remove_duplicate=False)
        self.hidden = {n: b.clone() for n, b in own if n not in tensors}
        self.reference = self.run(self.state)
        if not any(len(output) for output in self.reference):
            raise ArchitectureError("the module gives no floating-point outputs to compare.")
        for output in self.reference:
            if not bool(torch.isfinite(output).any()):
                raise NonFiniteError(
                    "the outputs of the network are not finite, so that nothing can be compared; "
                    "check its weights and the example inputs."
                )

    def run(self, state: Mapping[str, Tensor]) -> list[Tensor]:
        """Return all floating-point outputs with these parameters, flattened."""
        # A forward that draws random numbers draws the same each time.
        with evaluating(self.module), torch.no_grad(), _wide(), torch.random.fork_rng([]):
            torch.manual_seed(0)
            given = {n: t.clone() if n in self.buffers else t for n, t in state.items()}
            given |= {n: t.clone() for n, t in self.hidden.items()}
            result = torch.func.functional_call(
                self.module, given, self.args, self.kwargs, tie_weights=False
            )
        leaves = [leaf for leaf in _outputs(result) if isinstance(leaf, Tensor)]
        return [leaf.double().flatten() for leaf in leaves if leaf.numel()]

    def change(self, state: Mapping[str, Tensor]) -> float:
        """Return by how much outputs change, relative to the largest entry of each output."""
        worst = 0.0
        for before, after in zip(self.reference, self.run(state), strict=True):
            finite = torch.isfinite(before)
            if not torch.equal(finite, torch.isfinite(after)):
                return float("inf")
            if not bool(finite.any()):
                continue
            scale = float(before[finite].abs().max()) or 1.0
            worst = max(worst, float((after - before)[finite].abs().max()) / scale)
        return worst


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)


def _double(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def _outputs(value: Any) -> list[Any]:
    """Return the leaves of what a forward returned, fields of unregistered records included."""
    leaves = pytree.tree_leaves(value)
    return [
        item for leaf in leaves
        for item in (pytree.tree_leaves(vars(leaf)) if hasattr(leaf, "__dict__")
                     and not isinstance(leaf, (Tensor, nn.Module)) else [leaf])
    ]


def _shake(state: dict[str, Tensor], spec: PermutationSpec, seed: int) -> None:
    """Move floating-point tensors off special values, in place.

    Buffers that cannot be relabelled are tables, and stay. Those that can are statistics: they are
    multiplied by positive numbers, so that a variance stays one.
    """
    generator = torch.Generator().manual_seed(seed + 1)
    for name in spec.parameters:
        tensor = state[name]
        if not tensor.is_floating_point():
            continue
        noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        if name in spec.buffers:
            if any(map(spec.is_free, spec.parameters[name])):
                offset = 0.1 * noise if name.endswith("mean") else 0.0
                tensor.mul_(torch.exp(0.2 * noise)).add_(offset)
        else:
            spread = float(tensor.std()) if tensor.numel() > 1 else 0.0
            # At least what keeps the size of features through a layer: with the tiny weights of a
            # fresh attention layer, its softmax would hardly see a mistake.
            least = 0.3 if tensor.dim() < 2 else (tensor[0].numel() or 1) ** -0.5
            tensor.add_(max(spread, least) * noise)
    for name, others in spec.aliases.items():
        for other in others:
            state[other] = state[name]


@contextlib.contextmanager
def _wide() -> Iterator[None]:
    """Let a forward that asks for float32 (a norm that upcasts) have float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _Widen():
            yield
    finally:
        torch.set_default_dtype(before)


_NARROW = (torch.float32, torch.float16, torch.bfloat16)


class _Widen(TorchFunctionMode):
    """Replaces narrow floating-point types in arguments by float64."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in ("float", "half", "bfloat16") and args and isinstance(args[0], Tensor):
            return args[0].double()
        if name in ("finfo", "__get__"):
            return func(*args, **kwargs)
        widened = [torch.float64 if _narrow(a) else a for a in args]
        kwargs = {key: torch.float64 if _narrow(a) else a for key, a in kwargs.items()}
        return func(*widened, **kwargs)


def _narrow(value: object) -> bool:
    return isinstance(value, torch.dtype) and value in _NARROW
