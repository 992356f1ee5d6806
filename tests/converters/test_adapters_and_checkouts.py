"""Adapters of peft, checkouts of Hugging Face, and what its hub names, as networks of a zoo."""

from __future__ import annotations

import fnmatch
import json
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from converters import import_zoo
from nngraph.errors import DataFileError, InvalidGraphError, MissingDependencyError
from nngraph.zoo import find_problems

Q = "base_model.model.layers.0.q_proj"
CONV = "base_model.model.conv"
SIX_AXES = (("A", 2, 5), ("B", 4, 2))


def factors(rank: int, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        f"{Q}.lora_A.weight": (rank, 5), f"{Q}.lora_B.weight": (4, rank),
        f"{CONV}.lora_A.weight": (rank, 3, 3, 3), f"{CONV}.lora_B.weight": (6, rank, 1, 1),
    }  # fmt: skip
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def adapter(folder: Path, tensors: dict[str, Tensor], rank: int, form: str = "safetensors") -> None:
    folder.mkdir(parents=True)
    told = {"peft_type": "LORA", "r": rank, "lora_alpha": 16, "base_model_name_or_path": "base"}
    (folder / "adapter_config.json").write_text(json.dumps(told))
    if form == "bin":
        torch.save(tensors, folder / "adapter_model.bin")
    else:
        save_file(tensors, folder / "adapter_model.safetensors")


@pytest.fixture
def adapters(tmp_path: Path) -> Path:
    """Four adapters of two ranks; what a trainer leaves beside one of them."""
    root = tmp_path / "adapters"
    for i in range(4):
        rank = 2 + i % 2
        adapter(root / f"run_{i}", factors(rank, i), rank, "bin" if i == 3 else "safetensors")
    torch.save({"state": {}}, root / "run_0" / "optimizer.pt")
    rows = "\n".join(f"run_{i},0.{i}" for i in range(4))
    (tmp_path / "facts.csv").write_text(f"run,score\n{rows}")
    return root


def test_adapters_of_several_ranks_are_one_zoo(adapters: Path, tmp_path: Path):
    zoo = import_zoo(
        tmp_path / "zoo", adapters, facts=str(tmp_path / "facts.csv"), columns=["score", "r"]
    )
    assert [len(zoo), len(zoo.architectures), find_problems(zoo.path)] == [4, 2, []]
    assert "files beside the weights of a checkout: run_0/optimizer.pt" in str(zoo.manifest.recipe)
    for number in range(4):
        i = round(float(zoo.fact("score")[number]) * 10)
        rank, found = 2 + i % 2, zoo.network(number)
        assert int(zoo.fact("r")[number]) == rank
        assert all(torch.equal(found.parameters()[n], v) for n, v in factors(rank, i).items())
        # A bottleneck without bias for each layer: only its rank may be relabelled.
        groups = found.architecture.groups
        assert [group.size for group in groups if group.role == "hidden"] == [rank, rank]
        assert [group.size for group in groups if group.role == "input"] == [3, 5]
        assert {group.activation.name for group in groups} == {"identity"}
        assert not any(p.column == "bias" for p in found.architecture.parameters)


@pytest.mark.parametrize("axes", [1, 3])
def test_factors_of_other_convolutions_are_chains_too(tmp_path: Path, axes: int):
    window = (3,) * axes
    own = {
        f"{CONV}.lora_A.weight": torch.randn(2, 5, *window),
        f"{CONV}.lora_B.weight": torch.randn(4, 2, *(1 for _ in window)),
    }
    adapter(tmp_path / "a" / "one", own, 2)
    zoo = import_zoo(tmp_path / "zoo", tmp_path / "a")
    assert [group.size for group in zoo.architecture.groups] == [5, 2, 4]
    found = zoo.network(0).parameters()
    assert all(torch.equal(found[name], value) for name, value in own.items())


class Product(nn.Module):
    """The change of one layer, with its factors under the names of peft."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.lora_A = nn.Linear(5, rank, bias=False)
        self.lora_B = nn.Linear(rank, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.lora_B(F.relu(self.lora_A(x)))


def test_a_module_that_is_given_counts(tmp_path: Path):
    for i in range(2):
        own = {name: v for name, v in factors(3, i).items() if "q_proj" in name}
        adapter(tmp_path / "a" / str(i), own, 3)
    zoo = import_zoo(
        tmp_path / "zoo", tmp_path / "a", module=lambda r: Product(int(r)),
        inputs=torch.zeros(1, 5),
    )  # fmt: skip
    assert str(zoo.architecture) == "5-3-4 relu"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({f"{Q}.lora_magnitude_vector": torch.ones(4)}, "1 tensors beside its low-rank factors"),
        ({f"{Q}.lora_B.weight": torch.ones(4, 9)}, r"expected A \(rank, in\) and B \(out, rank\)"),
        ({"k_proj.lora_A.weight": torch.ones(2, 5)}, "factors of 'k_proj'"),
        (
            {f"k.lora_{x}.weight": torch.ones(n, m, 1, 1, 1, 1) for x, n, m in SIX_AXES},
            "factors of 'k'",
        ),
    ],
    ids=["dora", "ranks", "half", "axes"],
)
def test_adapters_of_which_no_architecture_can_be_told(
    tmp_path: Path, change: dict[str, Tensor], words: str
):
    adapter(tmp_path / "a" / "odd", {**factors(2, 0), **change}, 2)
    with pytest.raises(InvalidGraphError, match=f"odd/adapter_model.safetensors: .*{words}"):
        import_zoo(tmp_path / "zoo", tmp_path / "a")


def test_adapters_of_other_kinds_are_named(tmp_path: Path):
    adapter(tmp_path / "a" / "scales", {f"{Q}.ia3_l": torch.ones(5, 1)}, 1)
    with pytest.raises(InvalidGraphError, match="1 tensors beside its low-rank factors, such as "):
        import_zoo(tmp_path / "zoo", tmp_path / "a")


def mlp(seed: int) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)).state_dict()


def checkout(folder: Path, seed: int) -> None:
    folder.mkdir(parents=True)
    save_file(mlp(seed), folder / "model.safetensors")
    torch.save(mlp(seed), folder / "pytorch_model.bin")
    torch.save({"lr": 1}, folder / "training_args.bin")
    (folder / "config.json").write_text(json.dumps({"seed": seed}))


def test_checkouts_and_the_cache_of_the_hub_are_networks(tmp_path: Path):
    cache = tmp_path / "nets" / "models--a--b"
    checkout(tmp_path / "nets" / "first", 0)
    checkout(tmp_path / "nets" / "first" / "checkpoint-5", 1)
    checkout(cache / "snapshots" / "123", 2)
    checkout(cache / "snapshots" / "456", 3)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("456")
    zoo = import_zoo(tmp_path / "zoo", tmp_path / "nets", columns=["seed"])
    assert zoo.fact("seed").tolist() == [1, 0, 3]
    for number, seed in enumerate((1, 0, 3)):
        assert torch.equal(zoo.network(number).parameters()["0.weight"], mlp(seed)["0.weight"])
    one = import_zoo(tmp_path / "one", cache, columns=["seed"])
    assert one.fact("seed").tolist() == [3]


def test_a_cached_repository_of_many_networks_is_entered(tmp_path: Path):
    repository = tmp_path / "hub" / "models--a--many"
    blobs, kept = repository / "blobs", repository / "snapshots" / "123"
    blobs.mkdir(parents=True)
    kept.mkdir(parents=True)
    for seed in range(2):
        names = list(mlp(seed))
        parts = {f"{seed}-0000{i}-of-00002.safetensors": names[2 * i - 2 : 2 * i] for i in (1, 2)}
        for part, own in parts.items():
            save_file({name: mlp(seed)[name] for name in own}, blobs / f"blob of {part}")
            (kept / part).symlink_to(f"../../blobs/blob of {part}")
        placed = {name: part for part, own in parts.items() for name in own}
        (kept / f"{seed}.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))
    for source in (repository, tmp_path / "hub"):
        zoo = import_zoo(tmp_path / f"zoo {source.name}", source)
        found = [zoo.network(number).parameters() for number in range(len(zoo))]
        assert len(found) == 2
        assert all(torch.equal(found[i]["2.bias"], mlp(i)["2.bias"]) for i in range(2))
    # Of several revisions none is taken by chance.
    checkout(repository / "snapshots" / "456", 3)
    with pytest.raises(DataFileError, match="has 2 snapshots and no main one"):
        import_zoo(tmp_path / "zoo", tmp_path / "hub")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """A hub of one repository, which notes what it is asked for."""
    calls: list[tuple[Any, ...]] = []
    package = types.ModuleType("huggingface_hub")
    there = tmp_path / "there"
    for i in range(3):
        (there / "nets").mkdir(parents=True, exist_ok=True)
        torch.save(mlp(i), there / "nets" / f"{i}.pt")
    (there / "setup.py").write_text("raise SystemExit")
    (there / "README.md").write_text("# nets")
    (there / "known.csv").write_text("file,score\n0.pt,5\n1.pt,6\n2.pt,7\n")

    def snapshot_download(repository: str, **options: Any) -> str:
        calls.append((repository, options.get("revision"), options.get("repo_type")))
        local = tmp_path / f"local_{len(calls)}"
        for file in filter(Path.is_file, there.rglob("*")):
            name = file.relative_to(there).as_posix()
            if any(fnmatch.fnmatch(name, pattern) for pattern in options["allow_patterns"]):
                (local / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, local / name)
        return str(local)

    def hf_hub_download(repository: str, name: str, **options: Any) -> str:
        calls.append((repository, options.get("revision"), name))
        return str(there / name)

    package.hf_hub_download = hf_hub_download  # type: ignore[attr-defined]
    package.snapshot_download = snapshot_download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", package)
    return calls


def test_what_the_hub_names_is_fetched_and_nothing_else(
    hub: list[tuple[Any, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for n, address in enumerate((
        "hf://owner/nets", "hf://owner/nets/nets@refs/pr/1", "hf://datasets/owner/nets@v1/nets"
    )):  # fmt: skip
        zoo = import_zoo(tmp_path / f"zoo_{n}", address)
        assert (len(zoo), zoo.manifest.recipe["source"]) == (3, address)
    assert hub == [
        ("owner/nets", None, None), ("owner/nets", "refs/pr/1", None),
        ("owner/nets", "v1", "dataset"),
    ]  # fmt: skip
    there = {file.name for n in (1, 2, 3) for file in (tmp_path / f"local_{n}").rglob("*.*")}
    assert there == {"0.pt", "1.pt", "2.pt", "known.csv"}
    known = import_zoo(
        tmp_path / "known", "hf://owner/nets", facts="hf://owner/nets/known.csv@v2"
    )  # fmt: skip
    assert (hub[-1], known.fact("score").tolist()) == (("owner/nets", "v2", "known.csv"), [5, 6, 7])
    with pytest.raises(DataFileError, match="has no files ending in"):
        import_zoo(tmp_path / "zoo", "hf://owner/nets/elsewhere")
    for odd in ("hf://owner", "hf://owner/nets/../x", "hf://a/b//etc", "hf://a/b@1/c@2"):
        with pytest.raises(DataFileError, match="is no address"):
            import_zoo(tmp_path / "zoo", odd)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingDependencyError, match=r"nngraph\[hub\]"):
        import_zoo(tmp_path / "zoo", "hf://owner/nets")
