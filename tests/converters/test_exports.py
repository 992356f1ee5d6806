"""What is exported of a zoo and imported again is the zoo that it was."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import nn

from converters import export_checkpoints, export_huggingface, import_zoo, to_architecture
from nngraph.errors import DataFileError, InvalidGraphError, MissingDependencyError
from nngraph.graph import Architecture
from nngraph.testing import random_stack
from nngraph.zoo import (
    Fact,
    Origin,
    Zoo,
    append_networks,
    create_zoo,
    filter_zoo,
    find_problems,
)

NAMES = ("plain", "with, comma", 'with "quotes"', "7", "007", "1e3", "true", " ä ", "")


class Tied(nn.Module):
    """A network with a tied weight, and a buffer of whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.norm = nn.Embedding(5, 4), nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.embedding(words)).relu())


@pytest.fixture(params=["float32", "float64", "bfloat16"])
def zoo(request: pytest.FixtureRequest, tmp_path: Path) -> Zoo:
    """Networks of two architectures and origins; facts of every kind, with what is not known."""
    facts = (Fact("kind", "int64", NAMES), Fact("run"), Fact("acc", "float32"))
    path, dtype = tmp_path / "zoo", getattr(torch, request.param)
    create_zoo(path, facts, group="run", target="acc", dtype=request.param)
    tied = to_architecture(Tied().eval(), torch.zeros(3, dtype=torch.long))
    plain = Architecture.mlp([2, 3, 1])
    for number, architecture in enumerate((plain, tied, plain)):
        values = random_stack(architecture, 3, number).parameters()
        values = {k: v.to(dtype) if v.is_floating_point() else v for k, v in values.items()}
        told = {
            "kind": torch.arange(3) + 3 * number, "run": torch.tensor([1, 2, 2**60 + number]),
            "acc": torch.tensor([0.1, float("nan"), 1 / 3 * 10 ** (8 * number)]),
        }  # fmt: skip
        origin = Origin(f"{number % 2}" * 64, {"source": "ours", "seed": number % 2})
        append_networks(path, architecture, values, told, origin)
    return filter_zoo(tmp_path / "some", path, torch.arange(9) != 4, ["no fifth"])


def contents(path: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in path.iterdir()}


@pytest.mark.parametrize("form", ["checkpoints", "parquet", "jsonl", "zoo"])
def test_export_and_import_give_the_zoo_back(zoo: Zoo, tmp_path: Path, form: str):
    out = tmp_path / "out"
    if form == "checkpoints":
        assert export_checkpoints(zoo, out) == out
    elif form == "zoo":
        out = zoo.path
    else:
        if form == "parquet":
            pytest.importorskip("pyarrow")
        export_huggingface(zoo, out, form)  # type: ignore[arg-type]
        assert find_problems(out) == []
    back = import_zoo(tmp_path / "back", out)
    assert contents(back.path) == contents(zoo.path)
    assert find_problems(back.path) == []
    assert not list(tmp_path.glob(".nngraph*"))


def test_checkpoints_are_state_dicts_that_modules_load(zoo: Zoo, tmp_path: Path):
    out = export_checkpoints(zoo, tmp_path / "out")
    with (out / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(zoo)
    for number, row in enumerate(rows):
        state = torch.load(out / row["file"], weights_only=True)
        known = zoo.network(number).parameters()
        assert all(torch.equal(state[name], value) for name, value in known.items())
        if "head.weight" in state:
            Tied().load_state_dict(state)
            assert state["head.weight"].data_ptr() == state["embedding.weight"].data_ptr()
    kinds = zoo.manifest.fact("kind").values
    assert [row["kind"] for row in rows] == [kinds[number] for number in zoo.fact("kind")]
    assert rows[0]["acc"] == "0.1"
    assert rows[1]["acc"] == ""


def test_a_data_card_says_what_there_is(zoo: Zoo, tmp_path: Path):
    out = export_huggingface(zoo, tmp_path / "mine", "jsonl")
    rows = [json.loads(line) for line in (out / "facts.jsonl").read_text().splitlines()]
    with safe_open(out / rows[-1]["shard"], "pt") as shard:
        name = next(iter(zoo.network(len(zoo) - 1).parameters()))
        found = shard.get_tensor(name)[rows[-1]["row"]]
    assert torch.equal(found, zoo.network(len(zoo) - 1).parameters()[name])
    assert (rows[0]["kind"], rows[0]["acc"], rows[1]["acc"]) == ("plain", 0.1, None)
    card = (out / "README.md").read_text()
    assert card.startswith("---\npretty_name: mine\n")
    for words in ("8 neural networks", "2-3-1 relu", "`kind` | one of 9", '"seed": 1', "no fifth"):
        assert words in card


def test_exports_that_were_changed_are_refused(zoo: Zoo, tmp_path: Path):
    out = export_checkpoints(zoo, tmp_path / "out")

    def refused(match: str, kind: Any = DataFileError, **options: Any) -> None:
        with pytest.raises(kind, match=match):
            import_zoo(tmp_path / "back", out, **options)

    refused("says itself what its networks are; leave out architecture, target", InvalidGraphError,
            architecture=Architecture.mlp([2, 3, 1]), target="acc")  # fmt: skip
    with pytest.raises(DataFileError, match="is there already"):
        export_checkpoints(zoo, out)
    (out / "networks" / "000002.pt").write_bytes(b"")
    refused("000002.pt is empty")
    table, told = out / "table.csv", out / "nngraph.export.json"
    text, described = table.read_text(), json.loads(told.read_text())
    table.write_text(text.replace("plain", "fancy"))
    refused("table.csv was changed since it was exported. Delete nngraph.export.json")
    import hashlib

    for old, new, match in (
        ("networks/000001.pt", "../../etc/passwd", "outside of the folder"),
        ("networks/000001.pt", "/etc/passwd", "outside of the folder"),
        ("plain", "fancy", "'kind' is not as it was exported"),
        ("0.1", "much", "'acc' is not as it was exported"),
        ("acc", "akk", "'acc' is not as it was exported"),
        ("\n", ",\n", "has rows that are not as long"),
    ):
        changed = text.replace(old, new, 1)
        table.write_text(changed)
        digest = hashlib.sha256(changed.encode()).hexdigest()
        told.write_text(json.dumps({**described, "sha256": digest}))
        refused(match)
    for change in ({"version": 2}, {"manifest": {}}, {"sha256": None}):
        told.write_text(json.dumps({**described, **change}))
        refused(r"is no export of a zoo|was changed since")
    told.unlink()  # a folder as any other
    table.write_text(text)
    with pytest.raises(DataFileError, match=r"000002.pt is empty"):
        import_zoo(tmp_path / "plain", out, facts=table)


def test_a_frame_has_a_row_for_each_network(zoo: Zoo, monkeypatch: pytest.MonkeyPatch):
    pandas = pytest.importorskip("pandas")
    frame = zoo.frame()
    assert list(frame.columns) == [*zoo.facts, "architecture"]
    kinds = [NAMES[number] for number in zoo.fact("kind")]
    assert frame["kind"].isna().tolist() == [kind == "" for kind in kinds]
    assert frame["kind"].dropna().tolist() == [kind for kind in kinds if kind]
    assert frame["acc"].isna().tolist() == zoo.fact("acc").isnan().tolist()
    assert frame["run"].tolist() == zoo.fact("run").tolist()
    good = frame.query("acc > 0.2 and architecture == 0").index
    wanted = (zoo.fact("acc") > 0.2) & (zoo.architecture_index == 0)
    assert good.tolist() == wanted.nonzero().flatten().tolist()
    assert isinstance(frame["split"].dtype, pandas.CategoricalDtype)
    import sys

    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingDependencyError, match="pip install pandas"):
        zoo.frame()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependencyError, match="pip install pyarrow; or choose"):
        export_huggingface(zoo, zoo.path.parent / "out")
    assert not (zoo.path.parent / "out").exists()
