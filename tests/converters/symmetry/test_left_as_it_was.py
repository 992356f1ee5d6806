"""A module that was traced is left as it was, and so is what its forward and its hooks write to."""

import collections
import functools
import random
import types

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch_geometric.data import Data

from converters.symmetry import derive, permutation_spec
from nngraph.errors import UnsupportedModuleError

GLOBAL: dict[str, object] = {}
LAST = None


class Slots:
    __slots__ = ("held",)


class Keeping(nn.Module):
    """Stores its hidden features where it is told."""

    last = None

    def __init__(self, store) -> None:
        super().__init__()
        self.a, self.b, self.store = nn.Linear(3, 4), nn.Linear(4, 2), store
        self.items, self.named, self.recent = [], {"deep": [{}]}, collections.deque(maxlen=2)
        self.calls, self.other, self.slots = 0, types.SimpleNamespace(), Slots()
        self.plain, self.count = torch.zeros(4), torch.tensor(0)
        self.register_buffer("steps", torch.tensor(0))
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x):
        hidden = self.a(x).relu()
        self.store(self, hidden)
        return self.b(hidden)


def write_global(module, hidden):
    global LAST
    LAST = hidden


@functools.cache
def remembered(size: int) -> torch.Tensor:
    return torch.arange(size)


def write_plain(module, hidden):
    module.plain[1:] = hidden[0, 1:].detach()
    module.plain.add_(1)
    module.count += 1


def write_buffers(module, hidden):
    module.steps += 1
    module.mean.copy_(0.9 * module.mean + 0.1 * hidden.mean(0).detach())


STORES = {
    "attribute": (lambda m, h: setattr(m, "hidden", h), lambda m: sorted(vars(m))),
    "attribute of a layer": (lambda m, h: setattr(m.a, "hidden", h), lambda m: sorted(vars(m.a))),
    "list": (lambda m, h: m.items.append(h), lambda m: m.items),
    "nested": (lambda m, h: m.named["deep"][0].update(h=h), lambda m: m.named),
    "deque": (lambda m, h: m.recent.append(h), lambda m: m.recent),
    "counter": (lambda m, h: setattr(m, "calls", m.calls + 1), lambda m: m.calls),
    "object": (lambda m, h: setattr(m.other, "hidden", h), lambda m: vars(m.other)),
    "slots": (lambda m, h: setattr(m.slots, "held", h), lambda m: hasattr(m.slots, "held")),
    "class": (lambda m, h: setattr(type(m), "last", h), lambda m: Keeping.last),
    "global variable": (write_global, lambda m: LAST),
    "global dict": (lambda m, h: GLOBAL.update(h=h), lambda m: GLOBAL),
    "cached function": (lambda m, h: remembered(3), lambda m: type(remembered(3))),
    "plain tensors": (write_plain, lambda m: (m.plain, m.count)),
    "buffers": (write_buffers, lambda m: (m.steps, m.mean)),
}


@pytest.mark.parametrize(("store", "read"), STORES.values(), ids=STORES)
def test_what_a_forward_writes_is_put_back(store, read):
    module = Keeping(store)
    before = repr(read(module))
    spec = permutation_spec(module, torch.randn(5, 3))
    assert repr(read(module)) == before
    assert [space.name for space in spec.free_spaces] == ["a"]


class Recorder:
    def __init__(self) -> None:
        self.found: list[object] = []

    def __call__(self, module, inputs, output) -> None:
        self.found.append(output)

    def record(self, module, inputs, output) -> None:
        self.found.append(output)


def hook_of_closure(found):
    def hook(module, inputs, output):
        found.append(output.detach())

    return hook


def hook_of_method(found):
    recorder = Recorder()
    recorder.found = found
    return recorder.record


def hook_of_object(found):
    recorder = Recorder()
    recorder.found = found
    return recorder


def hook_of_partial(found):
    return functools.partial(lambda held, module, inputs, output: held.append(output), found)


HOOKS = [hook_of_closure, hook_of_method, hook_of_object, hook_of_partial]


@pytest.mark.parametrize("make", HOOKS)
def test_what_a_hook_stores_outside_is_put_back(make):
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    found: list[torch.Tensor] = []
    handle = module[1].register_forward_hook(make(found))
    module(torch.randn(5, 3))
    permutation_spec(module, torch.randn(5, 3))
    assert [type(value) for value in found] == [torch.Tensor]
    handle.remove()


def test_a_hook_that_changes_the_output_is_seen():
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    module[1].register_forward_hook(lambda module, inputs, output: output * torch.arange(4.0))
    assert not permutation_spec(module, torch.randn(5, 3)).free_spaces


def test_an_ordinary_run_before_with_gradients_changes_nothing():
    module = Keeping(lambda m, h: setattr(m, "hidden", h))
    module(torch.randn(5, 3))
    held = module.hidden
    assert [s.name for s in permutation_spec(module, torch.randn(5, 3)).free_spaces] == ["a"]
    assert module.hidden is held


def test_a_forward_that_fails_leaves_the_module_as_it_was():
    def store(module, hidden):
        module.hidden = hidden
        module.items.append(hidden)
        raise ValueError("no more")

    module = Keeping(store)
    with pytest.raises(UnsupportedModuleError, match=r"itself fails.*ValueError: no more"):
        permutation_spec(module, torch.randn(5, 3))
    assert not hasattr(module, "hidden")
    assert not module.items
    assert module.training


def test_settings_and_random_state_are_left_as_they_were():
    def store(module, hidden):
        random.random(), np.random.seed(0), torch.rand(2)  # noqa: NPY002
        torch.manual_seed(1)
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)

    def settings():
        return (
            random.getstate(), np.random.get_state()[1].tolist(),  # noqa: NPY002
            torch.get_rng_state().tolist(), torch.get_default_dtype(), torch.is_grad_enabled(),
        )  # fmt: skip

    module, inputs = Keeping(store), torch.randn(5, 3)
    before = settings()
    permutation_spec(module, inputs)
    assert settings() == before


def pruned() -> nn.Module:
    return prune.l1_unstructured(nn.Linear(3, 4), "weight", 0.3)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("layer", [
    lambda: nn.utils.weight_norm(nn.Linear(3, 4)), lambda: nn.utils.spectral_norm(nn.Linear(3, 4)),
    pruned, lambda: parametrizations.weight_norm(nn.Linear(3, 4)),
], ids=["weight norm", "spectral norm", "pruning", "parametrization"])
def test_weights_that_are_computed_are_left_as_they_were(layer):
    module = nn.Sequential(layer(), nn.ReLU(), nn.Linear(4, 2))
    with parametrize.cached():
        module(torch.randn(5, 3))
        before = {name: value.clone() for name, value in module.state_dict().items()}
        spec = permutation_spec(module, torch.randn(5, 3))
        assert type(module[0].weight) is torch.Tensor
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert len(spec.free_spaces) == 1


def test_inputs_are_left_as_they_were():
    class Writing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(3, 4)

        def forward(self, data, seen):
            data.x = self.a(data.x)
            seen.append(data.x)
            return data

    data, seen, x = Data(x=torch.randn(5, 3)), [], torch.randn(5, 3)
    data.x = x
    derive(Writing(), (data, seen))
    assert data.x is x
    assert not seen


def test_a_buffer_that_is_assigned_is_tied_to_its_new_value():
    class Running(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)
            self.register_buffer("mean", torch.zeros(4))

        def forward(self, x):
            hidden = self.a(x)
            self.mean = 0.9 * self.mean + 0.1 * hidden.mean(0)
            return self.b((hidden - self.mean).relu())

    for module in (Running(), nn.Sequential(Running())):
        (space,) = (spec := permutation_spec(module, torch.randn(5, 3))).free_spaces
        assert len(spec.ties(space.name)) == 4
