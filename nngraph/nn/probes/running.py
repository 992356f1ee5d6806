"""Running the networks that are read: as message passes, or as the modules they came from."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.functional import pad

from nngraph import kernels
from nngraph.errors import ArchitectureError
from nngraph.graph import Alike, Architecture, Topology, join_networks, join_nodes, split_networks
from nngraph.nn.common.levels import at_inputs, at_outputs, check_most
from nngraph.nn.features import Features
from nngraph.nn.probes.hooks import Hook, check_parameters, find_hooks, neuron_means, watched

#: Networks times inputs that are run at once on a CPU: what they compute then stays in its cache.
#: 64 networks of three convolutions at 64 images take 2.4 times as long all at once.
_CPU_RUNS = 512


class Runner(ABC):
    """How the networks of a batch are run, all at once, at inputs that they share.

    Differentiable in the inputs and in the weights.
    """

    input_shape: tuple[int, ...]

    @abstractmethod
    def responses(self, features: Features, inputs: Tensor) -> list[Tensor]:
        """Return what every neuron answers to inputs ``[P, *input_shape]``.

        Per level ``[*, n_l, P]``, of the neurons ``topology.levels[l].nodes``; the mean of its
        answers for a neuron that has many, as a channel of a convolution does.
        """

    def outputs(self, features: Features, inputs: Tensor, size: int) -> Tensor:
        """Return the answers of the networks side by side, ``[networks, size * P]``.

        A network with fewer than ``size`` outputs has 0 at the others; more are refused.
        """
        responses = self.responses(features, inputs)
        topology = features.topology
        return at_outputs(topology, [(i, responses[i]) for i in topology.output_levels], size)


class ChainRunner(Runner):
    r"""Chains of affine maps, run as message passes with the raw weights.

    .. math::
        h_i(p) = a_{g(i)}\Big(b_i + \sum_{j \to i} w_{ij} h_j(p)\Big), \qquad
        h_{\text{input}}(p) = u_p

    One channel per input; networks of different widths, depths and activations run side by side.

    Args:
        inputs: most input neurons d_0 of a network; one with fewer reads the first of an input.
    """

    def __init__(self, inputs: int) -> None:
        self.input_shape = (inputs,)

    def responses(self, features: Features, inputs: Tensor) -> list[Tensor]:
        topology = features.topology
        if not topology.chains:
            other = next(a for a in topology.architectures if not a.is_chain)
            raise ArchitectureError(
                f"a network of the architecture {other} is to be run, which is not a chain of "
                "affine maps; expected MLPs, or a ModuleRunner that has the networks' modules."
            )
        values = at_inputs(topology, inputs.T).expand(*features.x.shape[:-2], -1, -1)
        levels = [_activated(topology, 0, values)]
        for level in range(1, len(topology.levels)):
            values = kernels.propagate_level(topology, level, features.weight, levels[-1])
            values = values + kernels.take(features.bias, topology.levels[level].nodes)
            levels.append(_activated(topology, level, values))
        return levels


def _activated(topology: Topology, level: int, values: Tensor) -> Tensor:
    """Apply the activations of a level's neurons."""
    for activation, rows in topology.levels[level].activations:
        if rows is None:
            return activation(values)
        values = values.index_copy(-2, rows, activation(values.index_select(-2, rows)))
    return values


class ModuleRunner(Runner):
    """Networks of any kind, run as the modules they came from: all of one architecture at once.

    A module lends its ``forward``; the weights are those of the networks. The architectures of a
    batch are run one after the other, each with all of its networks in one vectorised call.

    Args:
        modules: for each architecture a module whose parameters have the architecture's names, such
            as the one that a graph was converted from. It is copied, and run in evaluation mode.
        input_shape: of one input, such as ``(C, H, W)``.
        hooks: for some architectures where their groups show, by name; by default at the output of
            the submodule with the last parameter of the group, before the activation. Groups that
            show nowhere (:attr:`hooks` has those that do) answer 0.

    Raises:
        ArchitectureError: if a module or a hook does not fit its architecture.

    Example:
        >>> from converters import to_graph
        >>> from nngraph.nn import input_features
        >>> module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
        >>> graph = to_graph(module, torch.zeros(1, 1, 8, 8))
        >>> runner = ModuleRunner({graph.architecture: module}, (1, 8, 8))
        >>> images = torch.randn(5, 1, 8, 8)
        >>> answers = runner.outputs(input_features(graph), images, 2)
        >>> torch.allclose(answers.view(2, 5).T, module(images), atol=1e-5)
        True
    """

    def __init__(
        self,
        modules: Mapping[Architecture, nn.Module],
        input_shape: Sequence[int],
        hooks: Mapping[Architecture, Mapping[str, Hook]] | None = None,
    ) -> None:
        self.input_shape = tuple(input_shape)
        self._modules: dict[Architecture, nn.Module] = {}
        #: For each architecture where its groups show, by name.
        self.hooks: dict[Architecture, dict[str, Hook]] = {}
        for architecture, module in modules.items():
            check_parameters(architecture, module)
            own = copy.deepcopy(module).eval().requires_grad_(False)
            given = None if hooks is None else hooks.get(architecture)
            self.hooks[architecture] = find_hooks(architecture, own, self.input_shape, given)
            self._modules[architecture] = own

    def responses(self, features: Features, inputs: Tensor) -> list[Tensor]:
        topology = features.topology
        parts = [
            self._neurons(part, inputs)
            for part in split_networks(topology, features.x, features.edge_attr)
        ]
        x = join_nodes(topology, parts, features.x.shape[:-2])
        return [kernels.take(x, level.nodes) for level in topology.levels]

    def outputs(self, features: Features, inputs: Tensor, size: int) -> Tensor:
        topology = features.topology
        check_most("outputs", topology.max_outputs, size)
        parts = []
        for part in split_networks(topology, features.x, features.edge_attr):
            answers, _ = self._run(part, inputs, watch=False)
            parts.append(pad(answers, (0, 0, 0, size - answers.shape[1])).flatten(1))
        return join_networks(topology, parts)

    def _neurons(self, part: Alike, inputs: Tensor) -> Tensor:
        """Return the answers of all neurons of some networks, ``[n, N, P]``."""
        answers, shown = self._run(part, inputs, watch=True)
        pieces, done = [], 0
        for group in part.architecture.groups:
            if group.role == "output":
                pieces.append(answers[:, done : done + group.size])
                done += group.size
            elif group.name in shown:
                pieces.append(shown[group.name])
            else:
                none = inputs.new_zeros(group.size, len(inputs))
                fed = _fed(inputs, none) if group.role == "input" else none
                pieces.append(fed.expand(len(answers), -1, -1))
        return torch.cat(pieces, dim=1)

    def _run(
        self, part: Alike, inputs: Tensor, watch: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return answers ``[n, d_L, P]``, and those of the groups that show, ``[n, d, P]``."""
        if part.architecture not in self._modules:
            raise ArchitectureError(
                f"a network of the architecture {part.architecture} is to be run, of which the "
                f"runner has no module; expected one of the {len(self._modules)} that it was given."
            )
        module, hooks = self._modules[part.architecture], self.hooks[part.architecture]
        hooks = hooks if watch else {}
        module.to(inputs.device, inputs.dtype)  # for buffers that no state dict holds

        def run(parameters: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
            shown: dict[str, list[Tensor]] = {group: [] for group in hooks}

            def see(name: str, value: Tensor) -> None:
                # At once: what comes next may change the value in place.
                for group, hook in hooks.items():
                    if hook.module == name:
                        shown[group].append(neuron_means(value, hook.axis))

            with watched(module, (hook.module for hook in hooks.values()), see):
                answers = functional_call(module, parameters, (inputs,))
            # A submodule that is called more than once answers with the mean of its calls.
            means = {group: torch.stack(calls).mean(0) for group, calls in shown.items()}
            return answers.flatten(1).T, means

        together = max(1, _CPU_RUNS // len(inputs)) if inputs.device.type == "cpu" else None
        found: tuple[Tensor, dict[str, Tensor]] = vmap(run, chunk_size=together)(part.parameters)
        return found


def _fed(inputs: Tensor, none: Tensor) -> Tensor:
    """Return what input neurons are fed, ``[d_0, P]``: channels, or all numbers in a row."""
    if inputs.shape[1] == len(none):
        return neuron_means(inputs, 1)
    flat = inputs.flatten(1).T
    return flat if len(flat) == len(none) else none
