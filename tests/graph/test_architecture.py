import copy
import json
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nngraph.errors import ArchitectureError
from nngraph.graph import (
    ACTIVATIONS,
    Activation,
    Architecture,
    ChainLayer,
    NeuronGroup,
    Parameter,
    chain_layers,
)
from nngraph.graph.layout import Slab
from nngraph.graph.spaces import Factor, Space
from nngraph.testing import random_architectures, structured_architectures

STRUCTURED = [pytest.param(a, id=name) for name, a in structured_architectures()]
ARCHITECTURES = [*(pytest.param(a, id=name) for name, a in random_architectures()), *STRUCTURED]

numbers = st.floats(-100, 100, allow_nan=False)
#: Those that torch takes no number of any size for; their own tests say more.
PARTICULAR = ("celu", "hardtanh", "softshrink")
activations = st.sampled_from(sorted(set(ACTIVATIONS) - set(PARTICULAR))).flatmap(
    lambda name: st.fixed_dictionaries(
        {}, optional=dict.fromkeys(ACTIVATIONS[name].options, numbers)
    ).map(lambda options: Activation(name, **options))
)


@st.composite
def mlps(draw):
    depth = draw(st.integers(1, 5))
    return Architecture.mlp(
        draw(st.lists(st.integers(1, 9), min_size=depth + 1, max_size=depth + 1)),
        draw(st.lists(activations, min_size=depth, max_size=depth)),
        draw(st.lists(st.booleans(), min_size=depth, max_size=depth)),
    )


@given(mlps())
@settings(max_examples=60, deadline=None)
def test_json_round_trip_gives_an_equal_architecture(architecture):
    back = Architecture.from_json(architecture.to_json())
    assert back == architecture
    assert hash(back) == hash(architecture)
    assert back.to_json() == architecture.to_json()


@pytest.mark.parametrize("architecture", STRUCTURED)
def test_structured_architectures_come_back_from_json(architecture):
    assert Architecture.from_json(architecture.to_json()) == architecture


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_copies_and_pickles_are_equal(architecture):
    for other in (copy.deepcopy(architecture), pickle.loads(pickle.dumps(architecture))):
        assert other == architecture
        assert hash(other) == hash(architecture)


def test_where_things_land_by_hand():
    architecture = Architecture.mlp([2, 3, 1], "tanh", bias=[True, False], names=["a", "b"])
    assert architecture.widths == (2, 3, 1)
    assert architecture.node_starts == (0, 2, 5, 6)
    assert (architecture.num_nodes, architecture.num_edges) == (6, 9)
    assert [p.name for p in architecture.parameters] == ["a.weight", "a.bias", "b.weight"]
    assert [(b.source, b.target, b.start, b.stop, b.shape) for b in architecture.blocks] == [
        (0, 1, 0, 6, (3, 2)), (1, 2, 6, 9, (1, 3))
    ]
    assert [(c.group, c.start, c.stop) for c in architecture.columns] == [(1, 2, 5)]
    assert architecture.spaces == {"hidden.1": 3}
    assert architecture.is_chain
    assert [g.role for g in architecture.groups] == ["input", "hidden", "output"]


@pytest.mark.parametrize(
    ("further", "fault"),
    [
        (Parameter("skip", (3, 2), (2, 0)), r"'skip' of shape \(3, 2\) leads from 'input' to 'out"),
        (Parameter("gain", (3,), (1,), "factor"), "'gain' is neither the weight nor the bias"),
        (Parameter("shift", (2,), (0,), "bias"), "'shift' is neither the weight nor the bias"),
        (Parameter("wide", (3, 2), (1, None), "bias"), "'wide' is neither the weight nor the bias"),
        (Parameter("steps", (), integer="int64"), "'steps' is no whole weight or bias"),
    ],
    ids=lambda value: value.name if isinstance(value, Parameter) else "",
)
def test_what_is_no_chain_says_why(further: Parameter, fault: str):
    chain = Architecture.mlp([2, 3, 3], bias=[False, True])
    other = Architecture(chain.groups, (*chain.parameters, further))
    assert chain.is_chain
    assert not other.is_chain
    with pytest.raises(ArchitectureError, match=f"not a chain of affine maps.*: {fault}.*Take one"):
        chain_layers(other, "Take one.")


def test_a_chain_has_a_weight_for_each_of_its_layers():
    plain = Architecture.mlp([2, 3, 3, 1], ["tanh", "relu"], bias=[True, False, True])
    assert chain_layers(plain) == (
        ChainLayer("0.weight", "0.bias", Activation("tanh")),
        ChainLayer("1.weight", None, Activation("relu")),
        ChainLayer("2.weight", "2.bias", Activation("identity")),
    )
    short = Architecture(plain.groups, plain.parameters[:-2])
    with pytest.raises(ArchitectureError, match="no weight leads to the group 'output'"):
        chain_layers(short)


def test_different_architectures_differ():
    one = Architecture.mlp([2, 3, 1], "relu")
    for other in (
        Architecture.mlp([2, 3, 1], "tanh"),
        Architecture.mlp([2, 4, 1], "relu"),
        Architecture.mlp([2, 3, 1], "relu", bias=False),
        Architecture.mlp([2, 3, 1], "relu", names=["a", "b"]),
        Architecture.mlp([2, 3, 1], ["relu", "relu"]),
    ):
        assert other != one


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([3],), "at least two numbers"),
        (([3, 0, 1],), "size 0"),
        (([3, True],), "size True"),
        (([3, 2.0],), "size 2.0"),
        (([3, 2, 1], "swish"), "unknown activation 'swish'"),
        (([3, 2, 1], ["relu"] * 3), "3 activations"),
        (([3, 2, 1], "relu", [True]), "1 bias"),
        (([3, 2, 1], "relu", True, ["a", "a"]), "'a.weight'"),
        (([3, 2, 1], "relu", True, ["a"]), "1 names"),
        (([3, 2**41, 1],), "size 2199023255552"),
    ],
)
def test_malformed_mlps_are_refused(arguments, message):
    with pytest.raises(ArchitectureError, match=message):
        Architecture.mlp(*arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "relu", "slope": 1.0}, "no option 'slope'"),
        ({"name": "sine", "w0": float("nan")}, "finite"),
        ({"name": "sine", "w0": "30"}, "finite"),
        ({"name": "sine", "w0": True}, "finite"),
    ],
)
def test_malformed_activations_are_refused(options, message):
    with pytest.raises(ArchitectureError, match=message):
        Activation(**options)


def _edited(path, value):
    data = Architecture.mlp([2, 3, 1], Activation("sine", w0=30)).to_dict()
    *parents, last = path
    inner = data
    for key in parents:
        inner = inner[key]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return json.dumps(data)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "JSON"),
        ("{", "JSON"),
        ("[" * 100_000, "JSON"),
        ("[]", "expected an object"),
        ("null", "expected an object"),
        ("{}", "lacks the field"),
        (_edited(["format"], "other"), "format 'other'"),
        (_edited(["version"], 2), "version 2"),
        (_edited(["version"], "1"), "version '1'"),
        (_edited(["groups"], ...), "lacks the field 'groups'"),
        (_edited(["extra"], 1), "unknown field 'extra'"),
        (_edited(["groups"], {}), "expected a list"),
        (_edited(["groups"], []), "no neuron groups"),
        (_edited(["groups", 0], 3), r"groups\[0\]"),
        (_edited(["groups", 0, "size"], -1), "size -1"),
        (_edited(["groups", 0, "size"], "2"), "size '2'"),
        (_edited(["groups", 0, "size"], 2.0), "size 2.0"),
        (_edited(["groups", 0, "size"], 10**30), "size 10"),
        (_edited(["groups", 0, "size"], 5), "axis 1 has size 2"),
        (_edited(["groups", 0, "name"], "output"), "called 'output'"),
        (_edited(["groups", 0, "name"], None), "name is None"),
        (_edited(["groups", 0, "role"], "boss"), "role 'boss'"),
        (_edited(["groups", 0, "role"], []), "role"),
        (_edited(["groups", 0, "space"], "hidden.1"), "one size"),
        (_edited(["groups", 0, "space"], 3), "space 3"),
        (_edited(["groups", 1, "activation"], "sine"), "expected an object"),
        (_edited(["groups", 1, "activation", "name"], []), "expected a string"),
        (_edited(["groups", 1, "activation", "w0"], None), "finite"),
        (_edited(["groups", 1, "activation", "w1"], 1), "no option 'w1'"),
        (_edited(["groups", 1, "activation", "name"], "__class__"), "unknown activation"),
        (_edited(["parameters", 0, "name"], 0), "expected a string"),
        (_edited(["parameters", 0, "name"], ""), "not empty"),
        (_edited(["parameters", 0, "name"], "1.weight"), "called '1.weight'"),
        (_edited(["parameters", 0, "shape"], [3]), "names 2 axes"),
        (_edited(["parameters", 0, "shape"], [2, 3]), "axis 0 has size 2"),
        (_edited(["parameters", 0, "shape"], [3, -2]), "size -2"),
        (_edited(["parameters", 0, "shape"], "32"), "expected a list"),
        (_edited(["parameters", 0, "axes"], [1, 9]), "names group 9"),
        (_edited(["parameters", 0, "axes"], [1, -3]), "names group -3"),
        (_edited(["parameters", 0, "axes"], [1, "0"]), "names group '0'"),
        (_edited(["parameters", 0, "axes"], [1, None]), "block of edges"),
        (_edited(["parameters", 1, "axes"], [None]), "column of node features"),
        (_edited(["parameters", 0, "column"], "bias"), "column of node features"),
        (_edited(["parameters", 1, "column"], None), "block of edges"),
        (_edited(["parameters", 1, "column"], 1), "expected a name or null"),
        (_edited(["parameters", 1, "axes"], [2]), "axis 0 has size 3"),
    ],
)
def test_malformed_json_is_refused(text, message):
    with pytest.raises(ArchitectureError, match=message):
        Architecture.from_json(text)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
anything = st.recursive(
    scalars,
    lambda s: st.lists(s, max_size=3) | st.dictionaries(st.text(max_size=5), s, max_size=3),
    max_leaves=8,
)


@given(st.data(), anything)
@settings(max_examples=150, deadline=None)
def test_any_edit_of_the_json_is_read_or_refused(data, value):
    described = Architecture.mlp([2, 3, 1], Activation("sine", w0=30)).to_dict()
    inner = described
    while True:
        key = data.draw(st.sampled_from(sorted(inner) if isinstance(inner, dict)
                                        else list(range(len(inner)))))
        if not isinstance(inner[key], (dict, list)) or data.draw(st.booleans()):
            break
        inner = inner[key]
    inner[key] = value
    try:
        architecture = Architecture.from_json(json.dumps(described))
    except ArchitectureError:
        return
    assert Architecture.from_json(architecture.to_json()) == architecture


def test_two_parameters_in_one_place_are_refused():
    groups = (NeuronGroup("a", 2, "input"), NeuronGroup("b", 3, "output"))
    biases = tuple(Parameter(name, (3,), (1,), "bias") for name in ("one", "two"))
    with pytest.raises(ArchitectureError, match="same column"):
        Architecture(groups, biases)


def edges_of(parameter, *sizes, structure=(), residuals=(), spaces=None):
    spaces = spaces or [None] * len(sizes)
    groups = [NeuronGroup(f"g{i}", n, "hidden", space=s)
              for i, (n, s) in enumerate(zip(sizes, spaces, strict=True))]  # fmt: skip
    return Architecture(tuple(groups), (parameter,), residuals, structure)


HEADS = (Factor(2, "h"), Factor(2, "d"))
INNER = Space("d", 2, ("h",))
A_WEIGHT = Parameter("w", (4, 4), (1, 0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: edges_of(Parameter("w", (4, 3), slabs=(Slab("tx", 1, 0),)), 3, 4), "letters"),
        (lambda: edges_of(Parameter("w", (4, 3), slabs=(Slab("t", 1, 0),)), 3, 4), "2 factors"),
        (lambda: edges_of(Parameter("w", (4, 3), slabs=(Slab("ts", 1, 2),)), 3, 4), "group 2"),
        (lambda: edges_of(Parameter("w", (4, 3), slabs=(Slab("ts", 0, 1),)), 3, 4), "count 4 neur"),
        (
            lambda: edges_of(
                Parameter("w", (4, 3), slabs=(Slab("ts", 1, 0, window=((0, 4), (0, 4))),)), 3, 4
            ),
            "is not one of a tensor",
        ),
        (
            lambda: edges_of(
                Parameter("w", (4, 6), slabs=(Slab("tsf", 1, 0, split=((4,), (3, 3))),)), 3, 4
            ),
            "do not multiply",
        ),
        (
            lambda: edges_of(
                Parameter("w", (4, 6), slabs=(Slab("ts", 1, 0, window=((0, 4), (0, 3))),)), 3, 4
            ),
            "hold 12 entries of 24",
        ),
        (
            lambda: edges_of(
                Parameter(
                    "w",
                    (4, 6),
                    slabs=(
                        Slab("ts", 1, 0, window=((0, 4), (0, 3))),
                        Slab("ts", 1, 0, window=((0, 4), (2, 5))),
                    ),
                ),
                3, 4,
            ),
            "overlap",
        ),
        (lambda: edges_of(Parameter("n", (2,), (0,), integer="int64"), 2), "come without axes"),
        (lambda: edges_of(Parameter("n", (), integer="float32"), 2), "whole numbers of 'float32'"),
        (lambda: edges_of(A_WEIGHT, 4, 4, residuals=((0, 2),)), "two indices"),
        (lambda: edges_of(A_WEIGHT, 4, 4, residuals=((0, 1),), spaces=["a", "b"]), "not the same"),
        (lambda: edges_of(A_WEIGHT, 4, 4, spaces=[HEADS, None]), None),
        (lambda: edges_of(A_WEIGHT, 4, 4, spaces=[HEADS[:1], None]), "multiply to it"),
        (lambda: edges_of(A_WEIGHT, 4, 4, spaces=[HEADS, None], structure=(INNER,)), None),
        (
            lambda: edges_of(
                Parameter("w", (2, 2), (1, 0)), 2, 2, spaces=["d", None], structure=(INNER,)
            ),
            "no group has|no factor",
        ),
        (
            lambda: edges_of(
                A_WEIGHT, 4, 4, spaces=[HEADS, None], structure=(Space("d", 2, ("d",)),)
            ),
            "within itself",
        ),
        (
            lambda: edges_of(
                Parameter("w", (4, 1), slabs=(Slab("bt", 1, 0, split=((4,), (1,))),)),
                4, 4, spaces=["a", "b"],
            ),
            "not the same leading factors",
        ),
    ],
)  # fmt: skip
def test_what_lands_nowhere_or_twice_is_refused(make, message):
    if message is None:
        make()
        return
    with pytest.raises(ArchitectureError, match=message):
        make()
