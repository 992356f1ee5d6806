"""Running the user's own module on other parameters, in double precision, and leaving no trace."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from converters.inspection import evaluating, named_tensors
from converters.symmetry.located import map_tensors, returned_tensors
from converters.symmetry.memory import Contradiction, Memory, Twins, widen
from converters.symmetry.modes import SizeGuard, TooLarge, UnknownSizes, in_double
from converters.symmetry.snapshot import Snapshot
from converters.symmetry.spec import PermutationSpec
from nngraph.errors import ArchitectureError, NNGraphError, NonFiniteError, UnsupportedModuleError


class ForwardFailed(UnsupportedModuleError):
    """The forward raised an error on these parameters."""


class Network:
    """A module and one input, to be run on parameters that are given.

    The module itself is run, in evaluation mode, and no copy: closures, replaced forwards, hooks
    and lists that hold ``self`` would point from a copy to the original. Its tensors are exchanged
    for the while of each run, and everything that it holds is put back. Inputs are never written
    to, and a spec of another module is refused.
    """

    def __init__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any],
        spec: PermutationSpec,
    ) -> None:  # fmt: skip
        self.module, self.args, self.kwargs = module, args, dict(kwargs)
        self.tensors = named_tensors(module)
        _check(self.tensors, spec)
        self.snapshot = Snapshot(module, ())
        reached = self.snapshot.seen.values()
        generators = [value for value in reached if isinstance(value, torch.Generator)]
        self.generators = [(generator, generator.get_state()) for generator in generators]
        self.memory = Memory([v for v in reached if isinstance(v, Tensor)], self.tensors)
        self.parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
        # Where the module keeps each tensor, and its name there.
        self.registers: dict[str, tuple[dict[str, Any], str]] = {}
        for name in self.tensors:
            path, _, own = name.rpartition(".")
            owner = module.get_submodule(path)
            register = owner._parameters if name in self.parameters else owner._buffers
            self.registers[name] = register, own
        self.parallel = [m for m in module.modules() if isinstance(m, nn.DataParallel)]
        self.writes: set[str] | None = None
        self.guard: Callable[[], SizeGuard] | None = SizeGuard
        #: called before each forward, to set what is put back after it
        self.prepare: Callable[[], None] = lambda: None
        #: its tensors by every name, in double precision
        self.state = self.coherent(
            {name: widen(tensor.detach()).clone() for name, tensor in self.tensors.items()}
        )

    def coherent(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return values that agree where tensors share memory: there, the last ones given."""
        return Twins(self.memory, state, check=False).named

    def run(self, state: Mapping[str, Tensor]) -> list[Tensor]:
        """Return every output with these parameters, flattened; complex numbers as pairs.

        Raises ``Contradiction`` if tensors that share memory differ there, or ``ForwardFailed``.
        """
        guard = self.guard() if self.guard else None
        try:
            outputs = self._run(state, guard)
        except UnknownSizes:
            measured = SizeGuard(measure=True)
            self._run(self.state, measured)
            self.guard = lambda: SizeGuard(False, measured.entries, measured.operations)
            return self.run(state)
        if guard is not None and not guard.depends:
            self.guard = None  # sizes that depend on no numbers stay what they are
        return outputs

    def _run(self, state: Mapping[str, Tensor], guard: SizeGuard | None) -> list[Tensor]:
        self.prepare()
        held = () if self.writes is None else self.parameters - self.writes
        twins = Twins(self.memory, state, held)
        args, kwargs = map_tensors(twins.given, (self.args, self.kwargs))
        try:
            with self._exchanged(twins), torch.no_grad(), in_double(twins), guard or nullcontext():
                returned = self.module(*args, **kwargs)
            outputs = list(map(_flat, returned_tensors(returned)))
        except (UnknownSizes, NNGraphError):
            raise
        except Exception as error:  # whatever the user's forward does on other numbers
            raise ForwardFailed(_told(error)) from error
        if self.writes is None:
            # A forward that writes to its parameters gets copies of them from now on.
            self.writes = {n for n, t in twins.named.items() if not _equal(t, state[n])}
        return outputs

    @contextmanager
    def _exchanged(self, twins: Twins) -> Iterator[None]:
        try:
            with evaluating(self.module):
                for name, (register, own) in self.registers.items():
                    value = twins.named[name]
                    if name in self.parameters:
                        value = nn.Parameter(value, self.tensors[name].requires_grad)
                    register[own] = value
                for child in self.parallel:
                    child.device_ids = []  # it then calls its module, and no copies of it
                yield
        finally:
            self.snapshot.put_back()
            for generator, state in self.generators:
                generator.set_state(state)


class Draw:
    """A network with one set of parameters, and its outputs there; those must be comparable."""

    def __init__(self, network: Network, state: Mapping[str, Tensor]) -> None:
        self.network = network
        self.state = dict(state)
        self.reference = network.run(self.state)
        if not any(len(output) for output in self.reference):
            raise ArchitectureError("the module gives no numbers to compare.")
        if any(len(output) and not output.isfinite().any() for output in self.reference):
            raise NonFiniteError(
                "the outputs of the network are not finite, so that nothing can be compared; "
                "check its weights and the example inputs."
            )

    def change(self, state: Mapping[str, Tensor]) -> float:
        """Return by how much outputs change; infinite where the forward fails."""
        try:
            outputs = self.network.run({**self.state, **state})
        except (Contradiction, ForwardFailed):
            return float("inf")
        return relative_change(self.reference, outputs)


# -- parameters on which a proof is made -----------------------------------------------------------
# Zero biases and unit scales would let a wrong relabelling pass. So would noise that is too strong:
# a softmax that it saturates, or neurons that it kills, no longer see what is wrong. There are
# several strengths, therefore, and what one draw does not see is looked for in the next.

#: (share of the parameters that is kept, strength of the noise) of each draw in turn
STRENGTHS = ((1.0, 1.0), (1.0, 0.3), (0.5, 0.5), (0.0, 0.7), (0.2, 0.2), (1.0, 0.05), (0.0, 2.0))


class Draws:
    """A network on parameters that are shaken, each time in another way, made when asked for.

    Without shaking there is one, of the parameters as they are. A draw on which the outputs are not
    finite, or the forward fails, is passed over; if there is no other, that is raised.
    """

    def __init__(
        self, network: Network, spec: PermutationSpec, seed: int, shake: bool = True
    ) -> None:
        self.network, self.spec, self.seed, self.shake = network, spec, seed, shake
        self._made: list[Draw] = []
        self._source = self._draws()

    def __iter__(self) -> Iterator[Draw]:
        for number in itertools.count():
            if number == len(self._made):
                self._made += itertools.islice(self._source, 1)
            if number == len(self._made):
                return
            yield self._made[number]

    def first(self, count: int) -> list[Draw]:
        """Return so many of them, the same ones again and again if there are not enough."""
        made = list(itertools.islice(self, count))
        return list(itertools.islice(itertools.cycle(made), count))

    def _draws(self) -> Iterator[Draw]:
        if not self.shake:
            yield Draw(self.network, self.network.state)
            return
        failed: Exception | None = None
        for number, (kept, strength) in enumerate(STRENGTHS):
            state = shaken(self.network.state, self.spec, self.seed + number, kept, strength)
            try:
                draw = Draw(self.network, self.network.coherent(state))
            except (NonFiniteError, ForwardFailed) as error:
                failed = failed or error
            else:
                yield draw
        if failed is not None and not self._made:
            raise _explained(self.network, failed)


def _explained(network: Network, error: Exception) -> Exception:
    """Say whether it is the shaking that is to blame."""
    try:
        Draw(network, network.state)
    except (NonFiniteError, UnsupportedModuleError) as own:
        return own
    return type(error)(
        f"with noise added to its parameters the network cannot be run: {error} "
        "Expected a network that runs on any parameters of its kind; pass shake=False to prove it "
        "on its own parameters."
    )


def shaken(
    state: Mapping[str, Tensor], spec: PermutationSpec, seed: int, kept: float, strength: float
) -> dict[str, Tensor]:
    r"""Return tensors with noise: :math:`\theta' = a \theta + b \sigma \epsilon`.

    Here :math:`a` is the share that is ``kept``, :math:`b` the ``strength`` of the noise, and
    :math:`\sigma` the spread of a tensor's own entries, and at least what keeps the size of
    features through a layer: with the tiny weights of a fresh attention layer, its softmax would
    hardly see a mistake. Buffers that cannot be relabelled are tables, and stay. Those that can are
    statistics: they are multiplied by positive numbers, so that a variance stays one.
    """
    generator = torch.Generator().manual_seed(seed + 1)
    result = dict(state)
    for name in spec.parameters:
        tensor = state[name]
        if not tensor.is_floating_point():
            continue
        noise = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype).to(tensor)
        if name not in spec.buffers:
            result[name] = kept * tensor + strength * _spread(tensor) * noise
        elif any(map(spec.is_free, spec.parameters[name])):
            offset = 0.1 * noise if name.endswith("mean") else 0.0
            result[name] = tensor * torch.exp(0.2 * noise) + offset
        for other in spec.aliases.get(name, ()):
            result[other] = result[name]
    return result


def _spread(tensor: Tensor) -> float:
    spread = float(tensor.std()) if tensor.numel() > 1 else 0.0
    least = 0.3 if tensor.dim() < 2 else (tensor[0].numel() or 1) ** -0.5
    return max(spread, least)


def relative_change(before: list[Tensor], after: list[Tensor]) -> float:
    """Return the largest change of some outputs, relative to the largest entry of each.

    Infinite where sizes, or which entries are finite, are not the same.
    """
    if [len(output) for output in before] != [len(output) for output in after]:
        return float("inf")
    return max(map(_change, before, after), default=0.0)


def _change(before: Tensor, after: Tensor) -> float:
    finite = torch.isfinite(before)
    same = torch.equal(finite, torch.isfinite(after))
    if not same or not _equal(before[~finite], after[~finite]):
        return float("inf")
    if not bool(finite.any()):
        return 0.0
    scale = float(before[finite].abs().max()) or 1.0
    return float((after - before)[finite].abs().max()) / scale


def _equal(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal, where NaN equals NaN."""
    return one.shape == other.shape and bool(
        ((one == other) | ((one != one) & (other != other))).all()
    )


def _check(tensors: Mapping[str, Tensor], spec: PermutationSpec) -> None:
    if any(tensor.is_meta for tensor in tensors.values()):
        raise ArchitectureError(
            "the module is on the meta device and has no weights; expected one that can run. "
            "Use module.to_empty(device='cpu') and fill them."
        )
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


def _flat(tensor: Tensor) -> Tensor:
    real = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
    return real.detach().to(torch.float64, copy=True).flatten()


def _told(error: Exception) -> str:
    if isinstance(error, TooLarge):
        return f"the sizes in the network depend on its numbers, and grow without bound: {error}"
    first = (str(error).splitlines() or [""])[0]
    return f"the forward fails in double precision: {type(error).__name__}: {first}"
