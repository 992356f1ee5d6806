"""Probes: networks of any kind run as their modules, held against the modules one by one."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.data import Batch

from converters import to_graph
from nngraph.errors import ArchitectureError
from nngraph.graph import (
    Activation,
    Architecture,
    NeuralGraph,
    NeuralGraphStack,
    Parameter,
    to_batch,
)
from nngraph.graph.relabelling import Symmetry
from nngraph.nn import (
    MODELS,
    ChainRunner,
    Features,
    Hook,
    Metanetwork,
    ModuleRunner,
    Probes,
    input_features,
)
from nngraph.nn.probes.probes import GeneratedInputs, LearnedInputs
from nngraph.testing import random_architectures, random_parameters, random_stack
from nngraph.zoo import ClassifierSpec, Zoo, classifier_of, load_digits_images, runner_of, train_zoo

SHAPE = (6, 5, 2)
SPECS = {
    "mlp": ClassifierSpec(SHAPE, 3, (6, 5)),
    "mlp with all": ClassifierSpec(SHAPE, 3, (6, 6, 4), (), "tanh", True, True),
    "cnn": ClassifierSpec(SHAPE, 3, (4, 5), (3, 1), "gelu"),
    "cnn with all": ClassifierSpec(SHAPE, 3, (4, 4, 4, 6), (3, 5, 3, 1), "silu", True, True),
    "one layer, fewer outputs": ClassifierSpec(SHAPE, 2, (1,), (5,), "sigmoid", True),
}
of_specs = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)


def hooks_of(spec: ClassifierSpec) -> dict[str, Hook]:
    maps = {f"hidden.{i}.map": Hook(f"layers.{i}") for i in range(len(spec.widths)) if spec.norm}
    return {**maps, **{f"hidden.{i}": Hook(f"activations.{i}") for i in range(len(spec.widths))}}


def runner(*specs: ClassifierSpec) -> ModuleRunner:
    return ModuleRunner(
        {spec.architecture(): spec.module().double() for spec in specs},
        (2, 6, 5),
        {spec.architecture(): hooks_of(spec) for spec in specs},
    )


def stack_of(spec: ClassifierSpec, count: int = 3, seed: int = 0) -> NeuralGraphStack:
    values = random_parameters(spec.architecture(), seed, lead=(count,))
    # Running variances are positive.
    values = {k: v.abs() + 0.1 if k.endswith("var") else v for k, v in values.items()}
    return NeuralGraphStack.from_parameters(spec.architecture(), values)


def module_of(spec: ClassifierSpec, graph: NeuralGraph) -> nn.Module:
    module = spec.module().double()
    module.load_state_dict(graph.parameters())
    return module.eval()


def images(count: int = 5) -> Tensor:
    return torch.randn(count, 2, 6, 5, dtype=torch.float64)


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    assert found.shape == expected.shape
    error = float((found - expected).detach().abs().max() / expected.detach().abs().max())
    assert error < tolerance


def joined(features: Features, levels: list[Tensor]) -> Tensor:
    """Responses in the order of the nodes, by hand."""
    topology = features.topology
    out = torch.full((*features.x.shape[:-1], levels[0].shape[-1]), torch.nan).double()
    for level, values in enumerate(levels):
        rows = torch.nonzero(topology.nodes.level == level).squeeze(1)
        out[..., rows, :] = values.detach()
    return out


# -- the runner is the module ---------------------------------------------------------------------


@of_specs
def test_answers_are_those_of_the_modules_one_by_one(spec: ClassifierSpec):
    networks, inputs = stack_of(spec), images()
    features = input_features(networks)
    found = runner(spec).outputs(features, inputs, spec.classes).view(3, spec.classes, 5)
    for n, graph in enumerate(networks):
        close(found[n], module_of(spec, graph)(inputs).T)


@of_specs
def test_responses_are_the_means_of_the_modules_own_activations(spec: ClassifierSpec):
    networks, inputs = stack_of(spec), images()
    features = input_features(networks)
    found = joined(features, runner(spec).responses(features, inputs))
    for n, graph in enumerate(networks):
        module, expected = module_of(spec, graph), []
        value = inputs if spec.convolutional else inputs.flatten(1)
        expected.append(value)
        for i, layer in enumerate(spec.layers):
            mapped = module.layers[i](value)
            if spec.norm:
                expected.append(mapped)
                mapped = module.norms[i](mapped)
            value = module.activations[i](mapped + value if layer.residual else mapped)
            expected.append(value)
        expected.append(module(inputs))
        means = [v.flatten(2).mean(2) if v.dim() > 2 else v for v in expected]
        close(found[n], torch.cat(means, 1).T)


def test_a_chain_is_the_same_by_both_runners():
    for name, architecture in random_architectures():
        if name not in ("several-outputs", "mixed-biases", "depth-six"):
            continue
        networks, width = random_stack(architecture, 3, 0), architecture.widths
        groups = architecture.groups[1:]
        hooks = {group.name: Hook(f"functions.{i}") for i, group in enumerate(groups)}
        module = Chain(architecture).double()
        features, inputs = input_features(networks), torch.randn(4, width[0]).double()
        by_module = ModuleRunner({architecture: module}, (width[0],), {architecture: hooks})
        by_pass = ChainRunner(width[0])
        close(
            joined(features, by_module.responses(features, inputs)),
            joined(features, by_pass.responses(features, inputs)),
        )
        close(by_module.outputs(features, inputs, 4), by_pass.outputs(features, inputs, 4))


class Function(nn.Module):
    def __init__(self, activation: Activation) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, value: Tensor) -> Tensor:
        return self.activation(value)


class Chain(nn.Module):
    """Maps named as an architecture's are, ``"0"``, ``"1"``, ..., and their functions."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        bias = {p.name for p in architecture.parameters}
        for i, (inputs, outputs) in enumerate(pairwise(architecture.widths)):
            self.add_module(str(i), nn.Linear(inputs, outputs, f"{i}.bias" in bias))
        self.functions = nn.ModuleList(Function(g.activation) for g in architecture.groups[1:])

    def forward(self, value: Tensor) -> Tensor:
        for i, function in enumerate(self.functions):
            value = function(self.get_submodule(str(i))(value))
        return value


def test_gradients_reach_the_inputs_and_the_weights():
    spec = SPECS["cnn with all"]
    networks, inputs = stack_of(spec, 2), images(3).requires_grad_()
    leaf = networks.edge_attr.clone().requires_grad_()
    changed = NeuralGraphStack(networks.architecture, networks.x, leaf, None, networks.integers)
    weights = torch.randn(2, 9, dtype=torch.float64)
    (runner(spec).outputs(input_features(changed), inputs, 3) * weights).sum().backward()
    expected = torch.zeros_like(inputs)
    for n, graph in enumerate(networks):
        module, own = module_of(spec, graph), inputs.detach().clone().requires_grad_()
        (module(own).T.flatten() * weights[n]).sum().backward()
        expected += own.grad
        block = next(b for b in networks.architecture.blocks if b.parameter.name == "head.weight")
        close(leaf.grad[n, block.start : block.stop, 0], module.head.weight.grad.flatten())
    close(inputs.grad, expected)


def test_networks_in_parts_that_fit_the_cache(monkeypatch: pytest.MonkeyPatch):
    spec = SPECS["cnn"]
    networks, inputs = stack_of(spec, 5), images()
    whole = runner(spec).outputs(input_features(networks), inputs, 3)
    monkeypatch.setattr("nngraph.nn.probes.running._CPU_RUNS", 10)
    close(runner(spec).outputs(input_features(networks), inputs, 3), whole, 1e-13)


# -- batches --------------------------------------------------------------------------------------


def mixed() -> list[NeuralGraph]:
    """Two networks of every kind, none next to the other of its kind."""
    return [stack_of(spec, 1, seed)[0] for seed in (0, 1) for spec in SPECS.values()]


def test_mixed_batches_are_run_network_by_network():
    graphs, inputs, run = mixed(), images(), runner(*SPECS.values())
    batch = input_features(to_batch(graphs))
    assert batch.topology.num_graphs == len(graphs)
    single = [input_features(graph) for graph in graphs]
    close(
        run.outputs(batch, inputs, 4), torch.cat([run.outputs(one, inputs, 4) for one in single])
    )
    close(
        joined(batch, run.responses(batch, inputs)),
        torch.cat([joined(one, run.responses(one, inputs)) for one in single]),
    )


SMALL = {
    "probe": {"probes": 4, "hidden": 8},
    "message-passing": {
        "probes": 4, "hidden": 8, "channels": 6, "messages": 4, "edge_channels": 2,
    },
}  # fmt: skip


def build(name: str, specs: list[ClassifierSpec], **options: object) -> Metanetwork:
    torch.manual_seed(0)
    several = [spec.architecture() for spec in specs]
    model = MODELS[name](several, 2, runner=runner(*specs), **{**SMALL[name], **options})
    return model.double()


@pytest.mark.parametrize("generator", [False, True], ids=["free", "generated"])
def test_the_probe_network_reads_any_network(generator: bool):
    check(build("probe", list(SPECS.values()), generator=generator))


def test_message_passing_takes_probes_of_any_network():
    model = build("message-passing", list(SPECS.values()))
    assert model.traits.takes_runner
    assert model.traits.access == "with probes"
    check(model)


def check(model: Metanetwork) -> None:
    """Invariant, one code for all batches, every parameter learns; after training too."""
    graphs = mixed()
    batch = to_batch(graphs)
    model.fit_statistics(batch)
    relabellings = [Symmetry(graph.architecture).sample(i) for i, graph in enumerate(graphs)]
    moved = to_batch([r.act_on_graph(g) for r, g in zip(relabellings, graphs, strict=True)])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(2):
        model.eval()
        answers = model(batch)
        assert answers.shape == (len(graphs), 2)
        assert len(torch.unique(answers[:, 0])) == len(graphs)
        close(model(moved), answers)
        close(torch.cat([model(graph) for graph in graphs]), answers)
        stack = stack_of(SPECS["cnn with all"])
        close(model(stack), model(to_batch(list(stack))))
        close(model(stack), torch.cat([model(graph) for graph in stack]))
        # The images of one kernel exchanged between neurons make another network.
        other = graphs[2].parameters()
        other["layers.1.weight"] = other["layers.1.weight"].roll(1, 0)
        assert not torch.allclose(model(graphs[2].with_parameters(other)), answers[2:3], rtol=1e-6)
        model.train()
        optimizer.zero_grad()
        model(batch).square().sum().backward()
        still = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()}
        # ... which maps parameters of input neurons; these networks have none.
        assert still <= {"encoder.ordered.first.weight"}
        optimizer.step()


def test_probes_that_share_a_generator_still_are_learned_in_the_inputs():
    # ... of a chain as well, where they are points.
    architecture = Architecture.mlp([2, 5, 1], "tanh")
    networks = random_stack(architecture, 4, 0)
    model = MODELS["probe"](architecture, 1, probes=6, hidden=8, generator=True).double()
    before = model.probes.inputs()
    assert before.shape == (6, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(networks).square().sum().backward()
    optimizer.step()
    assert not torch.allclose(model.probes.inputs(), before.detach())


@pytest.mark.parametrize("shape", [(2,), (784,), (1, 28, 28), (3, 9, 6), (2, 1, 1)], ids=str)
def test_inputs_start_in_the_range_of_the_data(shape: tuple[int, ...]):
    free, made = LearnedInputs(300, shape)(), GeneratedInputs(300, shape)()
    assert free.shape == made.shape == (300, *shape)
    expected = 0.9 / 3**0.5 if len(shape) == 1 else 1.0
    for inputs in (free, made):
        assert 0.6 * expected < float(inputs.detach().std()) < 1.4 * expected


def test_a_generator_makes_a_space_of_as_few_dimensions_as_its_latents():
    made = GeneratedInputs(40, (1, 12, 12), latent=5).double()().detach().flatten(1)
    assert int(torch.linalg.matrix_rank(made - made.mean(0))) == 5


# -- where groups show by themselves --------------------------------------------------------------


def small_cnn(last: int = 3) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(True), nn.Conv2d(4, 5, 3),
        nn.ReLU(True),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, last),
    ).double().eval()  # fmt: skip


def test_a_converted_module_is_run_without_a_word_on_its_groups():
    modules = [small_cnn() for _ in range(3)]
    inputs = images()
    graphs = [to_graph(module, inputs[:1]) for module in modules]
    run = ModuleRunner({graphs[0].architecture: small_cnn()}, (2, 6, 5))
    assert run.hooks[graphs[0].architecture] == {
        "0": Hook("0"), "1": Hook("1"), "3": Hook("3"), "7": Hook("7", -1),
    }  # fmt: skip
    features = input_features(Batch.from_data_list(graphs))
    outputs = run.outputs(features, inputs, 3).view(3, 3, 5)
    responses = joined(features, run.responses(features, inputs))
    for n, module in enumerate(modules):
        close(outputs[n], module(inputs).T)
        parts = [inputs, module[0](inputs), module[:2](inputs), module[:4](inputs)]
        expected = [part.mean((2, 3)) for part in parts] + [module(inputs)]
        close(responses[n], torch.cat(expected, 1).T)


def test_neurons_along_the_last_axis_and_modules_called_twice():
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.mix, self.head = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, tokens: Tensor) -> Tensor:  # [P, T, 3]
            value = torch.tanh(self.embed(tokens))
            return self.head(torch.tanh(self.mix(torch.tanh(self.mix(value)))).mean(1))

    module, inputs = Tokens().double().eval(), torch.randn(4, 6, 3).double()
    graph = to_graph(module, inputs)
    run = ModuleRunner({graph.architecture: module}, (6, 3))
    features = input_features(graph)
    close(run.outputs(features, inputs, 2).view(2, 4), module(inputs).T)
    responses = joined(features, run.responses(features, inputs))
    first = module.mix(torch.tanh(module.embed(inputs)))
    twice = (first + module.mix(torch.tanh(first))).mean(1) / 2
    name = next(g for g, hook in run.hooks[graph.architecture].items() if hook.module == "mix")
    index = [group.name for group in graph.architecture.groups].index(name)
    starts = graph.architecture.node_starts
    close(responses[starts[index] : starts[index + 1]], twice.T)


def test_tied_weights_and_buffers_that_no_state_dict_holds():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
            self.b.weight = self.a.weight
            self.register_buffer("shift", torch.ones(3), persistent=False)

        def forward(self, value: Tensor) -> Tensor:
            return self.b(torch.tanh(self.a(value + self.shift)))

    modules, inputs = [Tied().double() for _ in range(2)], torch.randn(4, 3).double()
    graphs = [to_graph(module, inputs) for module in modules]
    assert any(parameter.aliases for parameter in graphs[0].architecture.parameters)
    run = ModuleRunner({graphs[0].architecture: Tied()}, (3,))
    for module, graph in zip(modules, graphs, strict=True):
        close(run.outputs(input_features(graph), inputs, 3).view(3, 4), module(inputs).T)


# -- zoos -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    train, test = load_digits_images().divide()
    path: Path = tmp_path_factory.mktemp("zoos") / "wild"
    return train_zoo(
        path, train, test, recipe="wild", count=16, steps=(2, 3), checkpoints=2, max_test=20,
        threads=1, progress=False,
    )  # fmt: skip


def test_a_zoo_says_how_its_networks_run(zoo: Zoo):
    run = runner_of(zoo)
    inputs = torch.randn(3, *run.input_shape, dtype=torch.float64)
    assert len(zoo.architectures) == 2
    for numbers, stack in zoo.stacks():
        stack = stack.to(torch.float64)
        hidden = [g.name for g in stack.architecture.groups if g.role == "hidden"]
        assert set(run.hooks[stack.architecture]) == set(hidden)
        found = run.outputs(input_features(stack), inputs, 10).view(len(stack), 10, 3)
        for n, number in enumerate(numbers.tolist()):
            close(found[n], classifier_of(zoo, number).double()(inputs).T)


def test_the_states_of_a_run_are_in_one_split(zoo: Zoo):
    by_run = {int(run): zoo.split[zoo.fact("run") == run] for run in zoo.fact("run").unique()}
    assert len(by_run) == 16
    assert all(len(split) == 2 and len(split.unique()) == 1 for split in by_run.values())


# -- errors ---------------------------------------------------------------------------------------


def test_what_cannot_be_run_is_said():
    spec, other = SPECS["cnn"], SPECS["mlp"]
    architecture = spec.architecture()
    for name in ("probe", "message-passing"):
        with pytest.raises(ArchitectureError, match=r"runner=nngraph.zoo.runner_of\(zoo\)"):
            MODELS[name](architecture, 1, probes=3)
    with pytest.raises(ArchitectureError, match="the runner has no module; expected one of the 1"):
        runner(spec).responses(input_features(stack_of(other)), images())
    with pytest.raises(ArchitectureError, match="3 outputs; the model was built for 2"):
        runner(spec).outputs(input_features(stack_of(spec)), images(), 2)
    with pytest.raises(ArchitectureError, match="not a chain of affine maps"):
        Probes(Architecture.mlp([2, 3, 1]), 4)(input_features(stack_of(spec)))
    plain = Architecture.mlp([2, 3, 1])
    scaled = Architecture(plain.groups, (*plain.parameters, Parameter("s", (3,), (1,), "factor")))
    with pytest.raises(ArchitectureError, match="not a chain"):
        Probes(scaled, 4)


def test_modules_that_do_not_fit_are_refused():
    spec = SPECS["cnn"]
    architecture = spec.architecture()
    with pytest.raises(ArchitectureError, match=r"module has a parameter '0\.bias', the arch"):
        ModuleRunner({architecture: small_cnn()}, (2, 6, 5))
    less = nn.ModuleDict({"layers": spec.module().layers})
    with pytest.raises(ArchitectureError, match=r"architecture has a parameter 'head\.bias', the"):
        ModuleRunner({architecture: less}, (2, 6, 5))
    with pytest.raises(ArchitectureError, match="does not run on inputs of shape"):
        ModuleRunner({architecture: spec.module()}, (1, 6, 5))
    for hook in (Hook("layers.0", 2), Hook("nowhere"), Hook("layers.0", 0), Hook("layers.0", 7)):
        hooks = {architecture: {"hidden.0": hook}}
        with pytest.raises(ArchitectureError, match="shall show the 4 neurons of the group"):
            ModuleRunner({architecture: spec.module()}, (2, 6, 5), hooks)
    graph = to_graph(small_cnn(), images(1))
    truncated = nn.Sequential(*small_cnn()[:6], nn.Identity(), Silent(5, 3).double())
    with pytest.raises(ArchitectureError, match=r"answers 2 inputs with shape \(2, 5, 1, 1\)"):
        ModuleRunner({graph.architecture: truncated}, (2, 6, 5))


class Silent(nn.Linear):
    """Has the parameters of a linear map and returns its input."""

    def forward(self, value: Tensor) -> Tensor:
        return value
