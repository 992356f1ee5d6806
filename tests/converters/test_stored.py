"""Checkpoints with their specs: what comes out of a file goes back into one, all of it."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file, save_model
from torch import nn

from converters import load_spec, mlp_spec, open_network, permutation_spec, symmetry_spec
from converters.stored.writing import write_safetensors
from nngraph.errors import ArchitectureError, DataFileError, InvalidGraphError


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Embedding(7, 4), nn.LayerNorm(4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        return self.head(self.norm(self.embed(tokens)))


@pytest.fixture
def net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2)
        ).eval()


@pytest.fixture
def spec(net):
    return permutation_spec(net, torch.zeros(1, 2, 2, 2))


def same(one, other):
    return one.keys() == other.keys() and all(
        torch.equal(value, other[name]) and value.dtype == other[name].dtype
        for name, value in one.items()
    )


def sharded(folder, state, files=2):
    folder.mkdir()
    names = list(state)
    places = {n: f"part-{i % files}.safetensors" for i, n in enumerate(names)}
    for file in set(places.values()):
        save_file({n: state[n] for n in names if places[n] == file}, folder / file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    return places


def test_any_form_comes_out_under_the_same_names(net, spec, tmp_path):
    state = {**net.state_dict(), "ema.decay": torch.tensor(3, dtype=torch.int16)}
    state["0.weight"] = state["0.weight"].to(torch.bfloat16)
    save_file(state, tmp_path / "a.safetensors")
    torch.save({"epoch": 1, "model": state}, tmp_path / "a.ckpt")
    torch.save(state, tmp_path / "a.bin")
    places = sharded(tmp_path / "a", state)
    kinds = ("a.safetensors", "a.ckpt", "a.bin", "a", "a/model.safetensors.index.json")
    for number, name in enumerate(kinds):
        stored = open_network(tmp_path / name, spec)
        assert (stored.copied, stored.missing) == (("ema.decay",), ())
        assert stored.names == {n: n for n in net.state_dict()}
        stored.write(tmp_path / f"{number}.safetensors")
        assert same(load_file(tmp_path / f"{number}.safetensors"), state)
        stored.write(tmp_path / str(number))
        again = open_network(tmp_path / str(number), spec)
        assert same(again.checkpoint.tensors, state)
        assert again.checkpoint.files == (places if number > 2 else {})


def test_what_is_changed_is_written_and_nothing_else(net, spec, tmp_path):
    state = {f"module.{name}": value for name, value in net.state_dict().items()}
    save_file({**state, "module.0.odd": torch.arange(3)}, tmp_path / "a.safetensors")
    stored = open_network(tmp_path / "a.safetensors", spec)
    moved = spec.permute(stored.tensors, spec.sample(2))
    stored.write(tmp_path / "b.safetensors", lambda name, value: moved[name])
    written = load_file(tmp_path / "b.safetensors")
    assert torch.equal(written.pop("module.0.odd"), torch.arange(3))
    assert same(written, {f"module.{name}": value for name, value in moved.items()})
    assert not same(written, state)
    # Other sizes are told beforehand, and a file is never other than its header says.
    stored.write(
        tmp_path / "c.safetensors", lambda n, v: v[:2] if n == "0.bias" else v, {"0.bias": (2,)}
    )
    assert load_file(tmp_path / "c.safetensors")["module.0.bias"].shape == (2,)
    with pytest.raises(AssertionError):
        stored.write(tmp_path / "d.safetensors", lambda n, v: v[:2] if n == "0.bias" else v)
    assert sorted(path.name[0] for path in tmp_path.iterdir()) == ["a", "b", "c"]


def test_tied_tensors_stay_tied(tmp_path):
    module = Tied()
    spec = permutation_spec(module, torch.zeros(1, 3, dtype=torch.long))
    save_model(module, str(tmp_path / "one.safetensors"))
    save_file({n: v.clone() for n, v in module.state_dict().items()}, tmp_path / "two.safetensors")
    for name, count in (("one", 3), ("two", 4)):
        stored = open_network(tmp_path / f"{name}.safetensors", spec)
        moved = spec.permute(stored.tensors, spec.sample(1))
        assert len(moved) == 3
        stored.write(tmp_path / "out.safetensors", lambda name, value, moved=moved: moved[name])
        with safe_open(tmp_path / "out.safetensors", "pt") as file:
            assert len(file.keys()) == count
        again = open_network(tmp_path / "out.safetensors", spec)
        assert same(again.tensors, moved)
        assert not torch.equal(moved["embed.weight"], module.embed.weight)
    untied = {**module.state_dict(), "head.weight": module.head.weight + 1}
    save_file({name: value.detach().clone() for name, value in untied.items()},
              tmp_path / "untied.safetensors")  # fmt: skip
    with pytest.raises(InvalidGraphError, match="are one tensor in the spec, and have different"):
        open_network(tmp_path / "untied.safetensors", spec)


def test_what_does_not_fit_is_refused_by_name(net, spec, tmp_path):
    state = net.state_dict()
    for odd, told in (
        ({"0.weight": torch.zeros(3, 3, 1, 1)}, "'0.weight' has shape"),
        ({"1.running_var": torch.zeros(4)}, "'1.running_var' has shape"),
        ({"0.scale": torch.zeros(3)}, "'0.scale'"),
    ):
        save_file({**state, **odd}, tmp_path / "odd.safetensors")
        with pytest.raises(InvalidGraphError, match=told):
            open_network(tmp_path / "odd.safetensors", spec)
    save_file({n: v for n, v in state.items() if n != "4.bias"}, tmp_path / "less.safetensors")
    with pytest.raises(InvalidGraphError, match=r"less.safetensors.*'4.bias' \(2,\) is missing"):
        open_network(tmp_path / "less.safetensors", spec)
    save_file(
        {n: v for n, v in state.items() if not n.startswith("1.num")}, tmp_path / "old.safetensors"
    )
    assert open_network(tmp_path / "old.safetensors", spec).missing == ("1.num_batches_tracked",)


def test_an_mlp_needs_no_spec(tmp_path):
    net = nn.Sequential(nn.Linear(2, 5), nn.ReLU(), nn.Linear(5, 4, bias=False), nn.ReLU(),
                        nn.Linear(4, 3))  # fmt: skip
    torch.save(net.state_dict(), tmp_path / "net.pt")
    stored = open_network(tmp_path / "net.pt")
    derived = permutation_spec(net, torch.zeros(1, 2))
    assert stored.spec.parameters.keys() == derived.parameters.keys()
    for name in derived.parameters:
        ties = [{f.space is None for s in axis for f in s} for axis in derived.parameters[name]]
        own = [{f.space is None for s in axis for f in s} for axis in stored.spec.parameters[name]]
        assert own == ties
    x = torch.randn(6, 2)
    moved = stored.spec.permute(net.state_dict(), stored.spec.sample(0))
    torch.testing.assert_close(torch.func.functional_call(net, moved, (x,)), net(x))
    with pytest.raises(InvalidGraphError, match="no MLP can be inferred"):
        mlp_spec({"0.weight": torch.zeros(3, 2, 1, 1)})


def test_specs_in_files(net, spec, tmp_path):
    maps = symmetry_spec(net, torch.zeros(1, 2, 2, 2))
    for found in (spec, maps):
        (tmp_path / "spec.json").write_text(found.to_json())
        assert load_spec(tmp_path / "spec.json") == found
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    assert open_network(tmp_path / "net.safetensors", maps).spec == maps.permutations


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda d: [], "no permutation spec"),
        (lambda d: d["spaces"][0].update(size=2**40), "which has 1099511627776"),
        (lambda d: d["spaces"].append(
            {"name": "x", "size": 2**50, "within": [], "fixed": False}
        ), "is not counted whole"),
        (lambda d: d["spaces"][0].update(within=[d["spaces"][0]["name"]] * 9),
         "is not counted whole"),
        (lambda d: d["parameters"]["4.bias"][0][0][0].update(size="2"), "'2'"),
    ],
)  # fmt: skip
def test_hostile_specs_are_refused(spec, tmp_path, change, told):
    data = json.loads(spec.to_json())
    data = [] if change(data) == [] else data
    (tmp_path / "spec.json").write_text(json.dumps(data))
    with pytest.raises(ArchitectureError, match=told):
        load_spec(tmp_path / "spec.json")


def test_files_that_are_no_specs_are_told(tmp_path):
    for text, told in (("{", "no JSON"), ("[" * 99_999, "no JSON")):
        (tmp_path / "spec.json").write_text(text)
        with pytest.raises(DataFileError, match=told):
            load_spec(tmp_path / "spec.json")
    with pytest.raises(DataFileError, match="cannot be read"):
        load_spec(tmp_path / "missing.json")


def test_every_dtype_is_written_as_the_format_has_it(tmp_path):
    kinds = (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool)
    state = {str(kind): torch.arange(3).to(kind) for kind in kinds}
    state |= {"scalar": torch.tensor(2.5), "none": torch.zeros(0, 3), "turned": torch.ones(2, 3).T}
    write_safetensors(tmp_path / "a.safetensors", state, lambda name: state[name], {"a": "b"})
    assert same(load_file(tmp_path / "a.safetensors"), state)
    with pytest.raises(DataFileError, match="cannot hold the tensor 'c' of"):
        write_safetensors(
            tmp_path / "c.safetensors", {"c": torch.zeros(1, dtype=torch.complex128)},
            lambda name: torch.zeros(1), {},
        )  # fmt: skip
    with pytest.raises(DataFileError, match="could not be written"):
        write_safetensors(tmp_path / "no" / "a.safetensors", {}, lambda name: torch.zeros(1), {})


def test_a_folder_that_is_there_is_not_written_into(net, spec, tmp_path):
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    stored = open_network(tmp_path / "net.safetensors", spec)
    (tmp_path / "there").mkdir()
    with pytest.raises(DataFileError, match="is there already"):
        stored.write(tmp_path / "there")
