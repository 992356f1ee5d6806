"""Scales, signs and linear maps: as many as the judge says, proven, and noticed if wrong."""

from __future__ import annotations

from dataclasses import replace

import group_cases
import pytest
import random_layers  # noqa: F401  (registers its steps)
import random_steps  # noqa: F401  (registers its steps)
import torch
from random_programs import RandomProgram
from symmetry_programs import difference, run_rules
from torch import nn

from converters import symmetry_spec, verify
from converters.symmetry import SCALING_RULES, PermutationSpec, SymmetryElement, SymmetrySpec
from converters.symmetry.groups.derive import find_maps
from converters.symmetry.groups.exponents import Exponents
from converters.symmetry.naming import Namer
from converters.symmetry.program import Program
from nngraph.basis import null_space
from nngraph.errors import ArchitectureError

#: those of the cases that are tried here; ``benchmarks/completeness.py`` tries all
TRIED = [
    "MLP of relu", "MLP of tanh", "MLP of the identity", "depthwise with batch norm", "GLU of ReLU",
    "attention in one matrix", "grouped-query attention", "attention with RoPE", "RMS norm",
    "RMS norm without weight", "RMS norm by hand", "LoRA", "tied linear autoencoder",
    "RNN of ReLU", "embedding",
]  # fmt: skip


@pytest.mark.parametrize("name", TRIED)
def test_as_much_is_derived_as_the_jacobian_says_and_it_holds(name: str):
    module, inputs = group_cases.build(name)
    spec, found = symmetry_spec(module, inputs[:3]), null_space(module, inputs)
    assert found.gap > 1e6
    assert found.dimension - spec.dimension == group_cases.MISSED.get(name, (0, ""))[0]
    report = verify(spec, module, inputs[:3])
    assert report.holds, str(report)
    assert report.worst < 1e-12
    assert SymmetrySpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize("name", ["residual CNN", "attention in one matrix", "RMS norm"])
def test_elements_are_a_group(name: str):
    module, inputs = group_cases.build(name)
    spec, state = symmetry_spec(module, inputs[:3]), module.state_dict()
    one, other = spec.sample(1), spec.sample(2)

    def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
        return all(torch.allclose(found[n], expected[n], rtol=1e-10, atol=1e-12) for n in expected)

    both = spec.act(spec.act(state, one), other)
    assert same(spec.act(state, spec.compose(other, one)), both)
    assert not same(spec.act(state, spec.compose(one, other)), both)
    assert same(spec.act(spec.act(state, one), spec.invert(one)), state)
    assert same(spec.act(state, spec.identity()), state)
    assert not same(spec.act(state, one), state)
    assert 1 < one.condition < 5


def test_a_wrong_power_a_wrong_kind_and_a_place_left_out_are_noticed():
    module, inputs = group_cases.build("attention in one matrix")
    spec = symmetry_spec(module, inputs[:3])
    (maps,) = [m for m in spec.generators if m.kind == "linear" and "qk" in m.space]
    (sign,) = [m for m in spec.generators if m.kind == "sign"]
    wrong = [
        replace(maps, powers=tuple(p._replace(power=1) for p in maps.powers)),
        replace(maps, powers=maps.powers[:-1]),
        replace(sign, kind="positive_scale"),
    ]
    for each in wrong:
        report = verify(replace(spec, generators=(each,)), module, inputs[:3])
        assert report.status == "fails", str(report)


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3)])
def test_states_of_gated_layers_change_their_signs_where_tanh_makes_them(
    kind: type[nn.RNNBase], gates: int
):
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.out = kind(3, 4, num_layers=2, batch_first=True), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(self.layer(x)[0][:, -1])

    module, inputs = Last().eval(), torch.randn(2, 5, 3)
    spec = symmetry_spec(module, inputs)
    assert [maps.kind for maps in spec.generators] == ["sign", "sign"]
    rows = {p.number for maps in spec.generators for p in maps.powers if p.axis == 0}
    assert rows == {2}
    assert verify(spec, module, inputs, samples=1).holds
    wrong = [replace(m, powers=tuple(p._replace(number=p.number and gates - 3) for p in m.powers))
             for m in spec.generators]  # fmt: skip
    assert not verify(replace(spec, generators=tuple(wrong)), module, inputs, samples=1).holds


class PackedBiases(group_cases.Packed):
    """Queries, keys and values of one matrix, its bias joined of two and of zeros for the keys."""

    def __init__(self) -> None:
        super().__init__()
        self.q_bias, self.v_bias = nn.Parameter(torch.randn(8)), nn.Parameter(torch.randn(8))
        self.register_buffer("k_bias", torch.zeros(8), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.embed(x))
        bias = torch.cat([self.q_bias, self.k_bias, self.v_bias])
        packed = nn.functional.linear(x, self.qkv.weight, bias)
        q, k, v = packed.unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.out(torch.tanh(x + self.o(y)))


def test_parts_of_what_is_joined_keep_their_places_where_one_is_constant():
    module, inputs = PackedBiases().eval(), torch.randn(3, 5, 4)
    spec = symmetry_spec(module, inputs)
    assert [maps.kind for maps in spec.generators].count("linear") == 2
    report = verify(spec, module, inputs, samples=1)
    assert report.holds, str(report)


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
def test_heads_whose_features_are_normed_have_signs_and_no_scales(norm: type[nn.Module]):
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.norm, self.down = nn.Linear(3, 8), norm(4), nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.down((self.norm(self.up(x).unflatten(-1, (2, 4)))).flatten(-2))

    module, inputs = Normed().eval(), torch.randn(5, 3)
    spec = symmetry_spec(module, inputs)
    assert {maps.kind for maps in spec.generators if maps.space == "up"} <= {"sign"}
    assert verify(spec, module, inputs, samples=1).holds


def test_a_rule_that_lies_is_noticed_by_the_proof_and_by_the_judge(monkeypatch: pytest.MonkeyPatch):
    module, inputs = group_cases.build("MLP of gelu")
    monkeypatch.setitem(SCALING_RULES, "gelu", SCALING_RULES["neg"])
    spec = symmetry_spec(module, inputs)
    assert spec.dimension > null_space(module, inputs).dimension == 0
    assert not verify(spec, module, inputs).holds


def test_what_is_no_element_or_no_spec_is_refused():
    spec = symmetry_spec(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)),
                         torch.randn(2, 2))  # fmt: skip
    with pytest.raises(ArchitectureError, match=r"bound is 0\.5"):
        spec.sample(bound=0.5)
    element = spec.sample(0)
    with pytest.raises(ArchitectureError, match=r"maps of the shapes \[\]; expected \[\(3,\)\]"):
        spec.act({}, replace(element, maps=()))
    (maps,) = spec.generators
    place = maps.powers[0]
    for wrong, words in [
        (replace(maps, space="other"), "'other'"),
        (replace(maps, powers=(place._replace(axis=1),)), "does not count it"),
        (replace(maps, kind="linear", powers=(place._replace(power=2),)), "expected 1 or -1"),
    ]:
        with pytest.raises(ArchitectureError, match=words):
            replace(spec, generators=(wrong,))
    with pytest.raises(ArchitectureError, match="no symmetry spec"):
        SymmetrySpec.from_json("{}")


@pytest.mark.parametrize("first", range(0, 40, 8))
def test_what_is_claimed_of_random_programs_holds(first: int):
    for seed in range(first, first + 8):
        program = RandomProgram(seed, steps=6)
        engine = run_rules(program)
        names = program.program.parameters
        dims = {name: engine.values[ref].dims for name, ref in names.items()}
        namer = Namer(engine, dims)
        axes = {name: tuple(map(namer.axis, each)) for name, each in dims.items()}
        spec = PermutationSpec(namer.spaces, axes)
        known = Exponents(engine.values, names.values())
        used = {ref for operation in program.operations for ref in operation.operands}
        made = {ref for operation in program.operations for ref in operation.outputs if ref}
        known.zero(*(made - used))
        traced = Program(
            parameters=names, operations=program.operations, outputs=[*(made - used)]
        )
        symmetry = SymmetrySpec(spec, tuple(find_maps(known, traced, spec, namer)))
        state = {name: program.tensors[ref] for name, ref in names.items()}
        element = SymmetryElement(symmetry.sample(seed).maps, spec.identity())
        moved = symmetry.act(state, element)
        found = program.run({ref: moved[name] for name, ref in names.items()})
        for ref in made - used:
            assert difference(found[ref], program.tensors[ref]) < 1e-9, seed
