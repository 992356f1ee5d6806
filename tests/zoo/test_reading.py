"""Reading networks one by one from mapped shards, and finding what is wrong with a zoo."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import pytest
import torch

from nngraph.errors import DataFileError, InvalidGraphError
from nngraph.zoo import Zoo, find_problems

MakeZoo = Callable[..., Zoo]


def flip(zoo: Zoo, shard: int, from_end: int) -> None:
    path = zoo.path / zoo.manifest.shards[shard].file
    data = bytearray(path.read_bytes())
    data[-from_end] ^= 16
    path.write_bytes(bytes(data))


def test_one_network_is_that_of_the_stack(make_zoo: MakeZoo):
    zoo = make_zoo()
    stack = zoo.stack()
    for number in (0, 7, 8, 19):
        graph = zoo.network(number)
        assert graph.network.tolist() == [number]
        assert torch.equal(graph.y, zoo.labels[number : number + 1])
        for name, value in graph.parameters().items():
            assert torch.equal(value, stack.parameters()[name][number])
        assert graph.validate()
    for wrong in (-1, 20):
        with pytest.raises(InvalidGraphError, match=rf"network {wrong} is asked for; expected 0"):
            zoo.network(wrong)


def test_nothing_that_is_done_to_a_network_reaches_the_file(make_zoo: MakeZoo):
    zoo = make_zoo()
    before = [(zoo.path / shard.file).read_bytes() for shard in zoo.shards]
    zoo.network(3).parameters()["0.weight"].fill_(7)
    zoo.stack().x.fill_(7)
    assert [(zoo.path / shard.file).read_bytes() for shard in zoo.shards] == before
    assert find_problems(zoo.path) == []


def test_a_shard_is_checked_when_it_is_first_touched(make_zoo: MakeZoo):
    zoo = make_zoo()
    flip(zoo, 1, 60)
    fresh = Zoo.open(zoo.path)
    fresh.network(0)
    with pytest.raises(DataFileError, match=r"shard-00001\.safetensors has SHA-256"):
        fresh.network(8)
    with pytest.raises(DataFileError, match=r"shard-00001"):
        fresh.network(9)
    hasty = Zoo.open(zoo.path, verify_on_read=False)
    assert hasty.network(8).num_nodes == zoo.architecture.num_nodes


def test_a_zoo_is_pickled_without_its_maps(make_zoo: MakeZoo):
    zoo = make_zoo()
    zoo.stack()
    data = pickle.dumps(zoo)
    again = pickle.loads(data)
    assert torch.equal(again.stack().edge_attr, zoo.stack().edge_attr)
    assert len(data) < len(pickle.dumps(zoo.facts)) + 6000


def test_all_that_is_wrong_is_named(make_zoo: MakeZoo):
    zoo = make_zoo()
    assert find_problems(zoo.path) == []
    flip(zoo, 0, 60)
    shard = zoo.path / zoo.manifest.shards[2].file
    shard.write_bytes(shard.read_bytes()[:-1])
    (zoo.path / "shard-00007.safetensors").write_bytes(b"?")
    found = find_problems(zoo.path)
    assert len(found) == 3
    assert "shard-00002.safetensors declares" in found[0]
    assert "shard-00000.safetensors has SHA-256" in found[1]
    assert "shard-00007.safetensors is not in the manifest" in found[2]
    with pytest.raises(DataFileError, match="shard-00000"):
        zoo.verify()


def test_facts_have_names(make_zoo: MakeZoo):
    zoo = make_zoo()
    assert torch.equal(zoo.fact("psnr"), zoo.psnr)
    assert torch.equal(zoo.target, zoo.labels)
    with pytest.raises(InvalidGraphError, match="no fact 'loss'; it has label, image"):
        zoo.fact("loss")
