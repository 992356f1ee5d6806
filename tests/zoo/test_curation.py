from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nngraph.errors import DataFileError, InvalidGraphError
from nngraph.graph import Architecture
from nngraph.testing import random_stack, structured_architectures
from nngraph.zoo import (
    Fact,
    ImageSource,
    Origin,
    SplitPolicy,
    Zoo,
    append_networks,
    create_zoo,
    filter_zoo,
    find_problems,
    merge_zoos,
    select,
)
from nngraph.zoo.store.splits import split_of_groups

MakeZoo = Callable[..., Zoo]


def contents(folder: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in folder.iterdir()}


def other_source() -> ImageSource:
    images = torch.rand(6, 4, 5, 1, generator=torch.Generator().manual_seed(5))
    return ImageSource("other", images, torch.arange(6) % 3, ("a", "b", "c"))


# -- merge ---------------------------------------------------------------------------------------


def test_a_merged_zoo_holds_the_networks_of_all_parts(make_zoo: MakeZoo, tmp_path: Path):
    one, two = make_zoo("one"), make_zoo("two", source=other_source(), widths=[2, 5, 1])
    merged = merge_zoos(tmp_path / "all", [one, two])
    assert (len(merged), len(merged.architectures)) == (20 + 12, 2)
    assert torch.equal(merged.labels, torch.cat([one.labels, two.labels]))
    assert torch.equal(merged.split, torch.cat([one.split, two.split]))
    first, second = merged.stacks()
    assert torch.equal(first[1].edge_attr, one.stack().edge_attr)
    assert torch.equal(second[1].x, two.stack().x)
    assert second[0].tolist() == list(range(20, 32))
    # Image 3 of one source is not image 3 of the other.
    assert len(torch.unique(merged.group_keys())) == 10 + 6
    assert find_problems(merged.path) == []
    assert merged.manifest.history[-1]["operation"] == "merge"
    assert contents(merge_zoos(tmp_path / "all", [one, two]).path) == contents(merged.path)
    with pytest.raises(InvalidGraphError, match="have 2 architectures"):
        _ = merged.architecture
    with pytest.raises(InvalidGraphError, match=r"ask for zoo\.stacks"):
        merged.stack()


def test_more_fits_of_the_same_images_join_their_groups(make_zoo: MakeZoo, tmp_path: Path):
    one, two = make_zoo("one"), make_zoo("two", steps=6)
    merged = merge_zoos(tmp_path / "all", [one, two])
    assert len(torch.unique(merged.group_keys())) == 10
    assert find_problems(merged.path) == []


def test_what_must_not_be_merged_is_refused(make_zoo: MakeZoo, tmp_path: Path):
    one = make_zoo("one")
    cases: list[tuple[Any, str]] = [
        ([one, make_zoo("copy")], "holds the same networks as"),
        ([one, make_zoo("leak", seed=7)], "would leak test networks into training"),
        ([one, make_zoo("named", source=ImageSource(
            "tiny", torch.rand(10, 4, 5, 1), torch.arange(10) % 2, ("x", "y"),
        ))], "differ in facts"),
    ]  # fmt: skip
    for parts, match in cases:
        with pytest.raises(DataFileError, match=match):
            merge_zoos(tmp_path / "all", parts)
        assert not (tmp_path / "all").exists()
    with pytest.raises(InvalidGraphError, match="no zoos to merge"):
        merge_zoos(tmp_path / "all", [])


def test_a_damaged_part_is_not_copied_and_a_merge_goes_on(make_zoo: MakeZoo, tmp_path: Path):
    one, two = make_zoo("one"), make_zoo("two", source=other_source())
    shard = two.path / "shard-00001.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-3] + bytes([whole[-3] ^ 64]) + whole[-2:])
    with pytest.raises(DataFileError, match=r"two.shard-00001"):
        merge_zoos(tmp_path / "all", [Zoo.open(one.path), two])
    assert len(Zoo.open(tmp_path / "all", partial=True)) == 20 + 8
    shard.write_bytes(whole)
    assert len(merge_zoos(tmp_path / "all", [one.path, two.path])) == 32
    assert find_problems(tmp_path / "all") == []


# -- filter --------------------------------------------------------------------------------------


def test_a_filtered_zoo_holds_what_meets_the_conditions(make_zoo: MakeZoo, tmp_path: Path):
    zoo = make_zoo()
    keep = select(zoo, ["label!=b", "view=1"])
    assert torch.equal(keep, (zoo.labels != 1) & (zoo.view == 1))
    part = filter_zoo(tmp_path / "part", zoo, keep, ["label!=b", "view=1"], shard_size=3)
    numbers = torch.nonzero(keep).squeeze(1)
    assert torch.equal(part.stack().edge_attr, zoo.stack(numbers).edge_attr)
    for name in zoo.facts:
        assert torch.equal(part.facts[name], zoo.facts[name][numbers])
    assert part.manifest.history[-1]["where"] == ["label!=b", "view=1"]
    assert [shard.count for shard in part.shards] == [3, 3, 1]
    again = filter_zoo(tmp_path / "part", zoo, keep, ["label!=b", "view=1"], shard_size=3)
    assert contents(again.path) == contents(part.path)
    with pytest.raises(DataFileError, match="made with other settings: "):
        filter_zoo(tmp_path / "part", zoo, ~keep, shard_size=3)


def test_conditions_are_understood_or_refused(make_zoo: MakeZoo):
    zoo = make_zoo()
    median = float(zoo.psnr.median())
    assert torch.equal(select(zoo, [f"psnr >= {median}"]), zoo.psnr >= median)
    assert select(zoo, ["split=val"]).sum() == 4
    assert select(zoo, ["architecture=0", "parameters<32"]).all()
    assert select(zoo, []).all()
    for wrong, match in (
        ("psnr", "is not understood"),
        ("psnr>=good", "expected a number"),
        ("split=dev", "expected one of train, val, test"),
        ("colour=3", "the zoo has no fact 'colour'"),
        ("__class__=3", "is not understood"),
    ):
        with pytest.raises(InvalidGraphError, match=match):
            select(zoo, [wrong])


def test_nothing_is_no_zoo(make_zoo: MakeZoo, tmp_path: Path):
    zoo = make_zoo()
    with pytest.raises(InvalidGraphError, match="no network is kept"):
        filter_zoo(tmp_path / "none", zoo, torch.zeros(20, dtype=torch.bool))
    with pytest.raises(InvalidGraphError, match=r"expected bool of shape \(20,\)"):
        filter_zoo(tmp_path / "none", zoo, torch.ones(3, dtype=torch.bool))
    assert not (tmp_path / "none").exists()


# -- append --------------------------------------------------------------------------------------

SMALL, WIDE = Architecture.mlp([2, 3, 1]), Architecture.mlp([2, 4, 1], "tanh")
FACTS = (Fact("run"), Fact("accuracy", "float32"))
ORIGIN = Origin("a" * 64, {"made": "by hand"})


def networks(architecture: Architecture, count: int, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {p.name: torch.randn(count, *p.shape, generator=generator)
            for p in architecture.parameters}  # fmt: skip


def facts(runs: list[int]) -> dict[str, torch.Tensor]:
    return {"run": torch.tensor(runs), "accuracy": torch.tensor(runs) / 10}


def test_networks_are_appended_and_keep_the_splits_of_their_groups(tmp_path: Path):
    policy = SplitPolicy((0.5, 0.25, 0.25), 3)
    empty = create_zoo(tmp_path, FACTS, group="run", target="accuracy", policy=policy)
    assert (len(empty), empty.complete, empty.class_names) == (0, True, ())
    runs = list(range(40))
    first = networks(SMALL, 40, 0)
    append_networks(tmp_path, SMALL, first, facts(runs), ORIGIN)
    append_networks(tmp_path, WIDE, networks(WIDE, 3, 1), facts([7, 41, 7]), ORIGIN)
    other = Origin("b" * 64, {})
    zoo = append_networks(tmp_path, SMALL, networks(SMALL, 2, 2), facts([7, 8]), other)
    assert len(zoo) == 45
    assert find_problems(tmp_path) == []
    assert torch.equal(zoo.split[:40], split_of_groups(torch.arange(40), policy))
    assert zoo.split[40] == zoo.split[42] == zoo.split[7]
    assert len(torch.unique(zoo.group_keys())) == 41 + 2
    stack = zoo.stack(torch.arange(40))
    assert torch.equal(stack.parameters()["0.weight"], first["0.weight"])
    torch.testing.assert_close(stack.y, torch.arange(40) / 10)
    assert [len(numbers) for numbers, _ in zoo.stacks()] == [42, 3]


def test_the_split_of_a_group_depends_on_nothing_else():
    policy = SplitPolicy((0.7, 0.2, 0.1), 1)
    split = split_of_groups(torch.arange(20_000), policy)
    shares = torch.bincount(split) / 20_000
    torch.testing.assert_close(shares, torch.tensor([0.7, 0.2, 0.1]), rtol=0, atol=0.02)
    chosen = torch.tensor([5, 19_999, 3])
    assert torch.equal(split_of_groups(chosen, policy), split[chosen])
    other = split_of_groups(torch.arange(20_000), SplitPolicy((0.7, 0.2, 0.1), 2))
    assert 0.3 < float((other != split).double().mean()) < 0.6
    assert split_of_groups(torch.arange(9), SplitPolicy((1, 0, 0), 0)).tolist() == [0] * 9


def test_an_append_that_does_not_fit_changes_nothing(tmp_path: Path):
    create_zoo(tmp_path, FACTS, group="run", target="accuracy")
    append_networks(tmp_path, SMALL, networks(SMALL, 2, 0), facts([0, 1]), ORIGIN)
    before = contents(tmp_path)
    good = networks(SMALL, 2, 1)
    cases: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        ({}, facts([0]), "no networks to append"),
        (good, {"run": torch.arange(2)}, "fact 'accuracy' is missing"),
        (good, {**facts([1, 2]), "mood": torch.arange(2)}, "fact 'mood' is unknown"),
        (good, facts([1, 2, 3]), r"of shape \(3,\); expected int64 of shape \(2,\)"),
        (good, {**facts([1, 2]), "run": torch.ones(2)}, "expected int64"),
        (good, facts([-1, 2]), "ranges from -1"),
        ({k: v.double() for k, v in good.items()}, facts([1, 2]), "holds float32. Convert them"),
        ({**good, "0.weight": torch.ones(2, 3, 3)}, facts([1, 2]), "has shape"),
    ]
    for parameters, told, match in cases:
        with pytest.raises(InvalidGraphError, match=match):
            append_networks(tmp_path, SMALL, parameters, told, ORIGIN)
    assert contents(tmp_path) == before


def test_a_shard_without_its_entry_is_replaced_by_the_next_append(tmp_path: Path):
    """What an append leaves behind that was killed before it wrote the manifest."""
    create_zoo(tmp_path, FACTS, group="run", target="accuracy")
    (tmp_path / "shard-00000.safetensors").write_bytes(b"all of a shard, but not in the manifest")
    (problem,) = find_problems(tmp_path)
    assert "shard-00000.safetensors is not in the manifest" in problem
    zoo = append_networks(tmp_path, SMALL, networks(SMALL, 2, 0), facts([0, 1]), ORIGIN)
    assert len(zoo) == 2
    assert find_problems(tmp_path) == []


@pytest.mark.skipif(os.name != "posix", reason="needs flock")
@pytest.mark.parametrize("writer", ["append", "merge", "filter"])
def test_every_writer_refuses_a_second_one(make_zoo: MakeZoo, tmp_path: Path, writer: str):
    import fcntl

    writers: dict[str, Callable[[], Zoo]] = {
        "append": lambda: append_networks(
            out, SMALL, networks(SMALL, 1, 0), facts([0]), ORIGIN
        ),
        "merge": lambda: merge_zoos(out, [zoo]),
        "filter": lambda: filter_zoo(out, zoo, zoo.labels == 0),
    }
    zoo = make_zoo()
    out = tmp_path / "out"
    create_zoo(out, FACTS, group="run", target="accuracy")
    descriptor = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(DataFileError, match="written by another process"):
            writers[writer]()
    finally:
        os.close(descriptor)


def test_a_zoo_of_other_facts_is_not_mistaken(tmp_path: Path):
    create_zoo(tmp_path, FACTS, group="run", target="accuracy")
    create_zoo(tmp_path, FACTS, group="run", target="accuracy")
    with pytest.raises(DataFileError, match="target is 'accuracy' there and 'run' here"):
        create_zoo(tmp_path, FACTS, group="run", target="run")
    with pytest.raises(InvalidGraphError, match="the group is the fact 'walk'"):
        create_zoo(tmp_path / "new", FACTS, group="walk", target="run")


@pytest.mark.parametrize(
    ("name", "architecture"), structured_architectures(), ids=lambda value: str(value)[:16]
)
def test_networks_that_are_no_mlps_are_stored_too(
    tmp_path: Path, name: str, architecture: Architecture
):
    """Convolutions, norms, counters, residuals, concatenations and heads come back bit for bit."""
    stack = random_stack(architecture, 5, 0)
    values = stack.parameters()
    create_zoo(tmp_path, FACTS, group="run", target="accuracy", dtype="float64")
    zoo = append_networks(tmp_path, architecture, values, facts([0, 1, 2, 3, 4]), ORIGIN)
    assert find_problems(tmp_path) == []
    assert zoo.architecture == architecture
    for found in (Zoo.open(tmp_path).stack(torch.tensor([3])), zoo.network(3)):
        for key, value in found.parameters().items():
            assert torch.equal(value.reshape(values[key][3].shape), values[key][3])
            assert value.dtype == values[key].dtype
