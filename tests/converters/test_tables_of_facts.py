"""Networks in files and what a table says of them: joined, of their own kinds, of any kind."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from converters import export_checkpoints, export_huggingface, import_zoo, to_architecture
from converters.checkpoints import read_checkpoint, read_table
from converters.populations import architectures, columns
from converters.populations.columns import ColumnChoice, fact_of
from converters.populations.joining import join_rows
from nngraph.datasets import export_ogb
from nngraph.errors import DataFileError, InvalidGraphError, NNGraphError, UnsupportedModuleError
from nngraph.graph import Architecture
from nngraph.settings import TrainSettings
from nngraph.tasks import TASKS
from nngraph.zoo import SPLITS, Fact, Zoo, find_problems, select

COUNT = 8


def mlp(width: int, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, 1))


def written(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write a table, of the kind that its ending says."""
    if path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eight networks, each in a folder of its own, saved with other things beside the weights."""
    for i in range(COUNT):
        place = tmp_path / "nets" / f"run_{i}"
        place.mkdir(parents=True)
        module = mlp(4 + i % 2, i)
        optimiser = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": []}
        held = {"model": module.state_dict(), "optimizer": optimiser, "epoch": i}
        torch.save(held, place / "a.pt")
    return tmp_path / "nets"


def rows() -> list[dict[str, Any]]:
    return [
        {"run": f"run_{i}", "Test Acc": i / 10, "depth": i, "optimiser": ("adam", "sgd")[i % 2]}
        for i in reversed(range(COUNT))
    ]


def by_run(zoo: Any, fact: str) -> dict[int, Any]:
    """Return a fact by the number of the run, which the networks' first bias tells."""
    seeds = {tuple(mlp(4 + i % 2, i)[0].bias.tolist()): i for i in range(COUNT)}
    found = {}
    for number in range(len(zoo)):
        key = tuple(zoo.network(number).parameters()["0.bias"].tolist())
        value, names = zoo.fact(fact)[number].item(), zoo.manifest.fact(fact).values
        found[seeds[key]] = names[value] if names else value
    return found


@pytest.mark.parametrize("ending", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_each_row_goes_to_its_network(folder: Path, tmp_path: Path, ending: str):
    table = written(tmp_path / f"results.{ending}", rows())
    if ending == "tsv":
        table.write_text(table.read_text().replace(",", "\t"))
    zoo = import_zoo(tmp_path / "zoo", folder, facts=str(table))
    assert by_run(zoo, "test_acc") == {i: pytest.approx(i / 10) for i in range(COUNT)}
    assert by_run(zoo, "depth") == {i: i for i in range(COUNT)}
    assert by_run(zoo, "optimiser") == {i: ("adam", "sgd")[i % 2] for i in range(COUNT)}
    dtypes = {fact.name: fact.dtype for fact in zoo.manifest.facts}
    assert dtypes["test_acc"] == "float32"
    assert dtypes["depth"] == "int64"
    assert "run" not in dtypes
    assert zoo.manifest.target == "test_acc"
    assert find_problems(zoo.path) == []


@pytest.mark.parametrize(
    ("cells", "key", "match"),
    [
        (["nets/a_1.pt", "nets/b_2.pt"], None, None),
        (["a_1.pt", "b_2.pt"], None, None),
        (["a_1", "b_2"], "cell", None),
        (["/home/me/nets/a_1.pt", "C:\\x\\nets\\b_2.pt"], None, None),
        (["./nets/a_1.pt", "nets/b_2"], None, None),
        ([1, 2], "cell", r"_(\d+)"),
        (["001", "002"], "cell", r"_(\d+)"),
        (["a", "b"], None, r"/(\w)_"),
    ],
)
def test_ways_to_name_a_network(cells: list[Any], key: str | None, match: str | None):
    table = {"other": ["x", "y"], "cell": cells}
    names = ["nets/b_2.pt", "nets/a_1.pt"]
    found, column, notes = join_rows(Path("t.csv"), table, names, key, match)
    assert (found, column, notes) == ([1, 0], "cell", ())


def test_a_whole_path_comes_before_the_end_of_another():
    names = ["a.pt", "old/a.pt", "old/b.pt", "b.bin"]
    found, _, notes = join_rows(Path("t"), {"f": ["a.pt", "old/a.pt", "b"]}, names, None, None)
    assert found == [0, 1, None, None]  # "b" is two of them, and so none
    assert notes == ("1 rows without a file: b", "2 files without a row: old/b.pt, b.bin")


def test_rows_and_files_that_are_left_over_are_counted_and_named(folder: Path, tmp_path: Path):
    table = written(tmp_path / "t.csv", [*rows()[2:], {**rows()[0], "run": "gone"}])
    zoo = import_zoo(tmp_path / "zoo", folder, facts=table)
    assert len(zoo) == COUNT - 2
    assert zoo.manifest.recipe["notes"] == [
        "1 rows without a file: gone",
        "2 files without a row: run_6/a.pt, run_7/a.pt",
        "6 tensors beside the weights: 6 under 'optimizer'",
    ]
    kept = import_zoo(tmp_path / "kept", folder, facts=table, unlisted="keep")
    found = by_run(kept, "optimiser")
    assert (len(kept), found[6], found[7], found[5]) == (COUNT, "", "", "sgd")
    assert math.isnan(by_run(kept, "test_acc")[7])
    with pytest.raises(DataFileError, match=r"no rows for 2 networks: run_6/a.pt, run_7/a.pt"):
        import_zoo(tmp_path / "no", folder, facts=table, unlisted="refuse")


def test_tables_that_do_not_fit_are_refused_in_words(folder: Path, tmp_path: Path):
    def refused(match: str, kind: type[NNGraphError] = DataFileError, **options: Any) -> None:
        with pytest.raises(kind, match=match):
            import_zoo(tmp_path / "zoo", folder, **options)

    table = written(tmp_path / "t.csv", rows())
    twice = written(tmp_path / "u.csv", [*rows(), rows()[0]])
    other = written(tmp_path / "v.csv", [{"id": f"net{i}", "acc": 1.5} for i in range(3)])
    crossed = [{"a": "run_1", "b": "run_2"}, {"a": "run_2", "b": "run_1"}]
    both = written(tmp_path / "w.csv", crossed)
    (bare := tmp_path / "bare.csv").write_text("run,acc\n")
    refused("has no rows; expected one a network", facts=bare)
    refused("columns is 'depth'; expected a list", InvalidGraphError, facts=table, columns="depth")
    refused("no row names a network. The networks are run_0/a.pt", facts=other)
    refused(r"rows 1 and 9 are both of 'run_7/a.pt', by the column 'run'", facts=twice)
    refused("the columns 'a', 'b' name networks, and not the same", facts=both)
    refused("has no column 'nr'; it has 'run'", InvalidGraphError, facts=table, key="nr")
    refused("key was given, and facts, which it is of, is missing", InvalidGraphError, key="run")
    refused("'speed', and there is no column", InvalidGraphError, facts=table, columns=["speed"])
    told = ["optimiser:number"]
    refused("says 'adam' of 'run_0/a.pt'; expected a number", facts=table, columns=told)
    refused("would be the fact 'split'", InvalidGraphError, facts=table, columns=["split=depth"])
    refused("the target is the fact 'loss'", InvalidGraphError, facts=table, target="loss")
    refused("label is 'dept', which is no column", InvalidGraphError, facts=table, label="dept")
    refused("says 'adam' of 'run_0/a.pt'; expected a split", facts=table, split="optimiser")
    refused("split is 'parts', which is no column", InvalidGraphError, facts=table, split="parts")
    refused("unlisted is 'maybe'; expected one of leave", InvalidGraphError, unlisted="maybe")
    some = [{**row, "class": "" if row["depth"] == 3 else "a"} for row in rows()]
    short = written(tmp_path / "x.csv", some)
    refused("says nothing of 'run_3/a.pt'; a label is known of every", facts=short, label="class")
    assert not (tmp_path / "zoo").exists()


KINDS = [
    ([3, 0, 7], None, ("int64", ()), [3, 0, 7]),
    ([3, -1, 7], None, ("float32", ()), [3.0, -1.0, 7.0]),
    ([0.5, None, 2], None, ("float32", ()), [0.5, math.nan, 2.0]),
    (["b", "a", "b"], None, ("int64", ("a", "b")), [1, 0, 1]),
    (["net10", "net9", None], "class", ("int64", ("net9", "net10", "")), [1, 0, 2]),
    (["x", "a", "c"], None, ("text", ("x", "a", "c")), [0, 1, 2]),  # a text each: as they come
    ([True, False, True], None, ("int64", ("false", "true")), [1, 0, 1]),
    ([True, False], None, ("int64", ("false", "true")), [1, 0]),
    ([2**63, 1, 2], "number", ("float32", ()), [2.0**63, 1.0, 2.0]),
    ([2**60, 1, 2], None, ("int64", ()), [2**60, 1, 2]),
    ([10, 9, 10], "class", ("int64", ("9", "10")), [1, 0, 1]),
    ([10, 9, 10], "text", ("text", ("10", "9")), [0, 1, 0]),
    (["two\r\nlines", "\x00", "a"], "text", ("text", ("two\nlines", "a", "")), [0, 2, 1]),
    (["two\nlines", "\x00", "a"], "class", ("int64", ("a", "two lines", "")), [1, 2, 0]),
]


@pytest.mark.parametrize(("values", "kind", "fact", "numbers"), KINDS)
def test_columns_are_facts_of_their_own_kind(
    values: list[Any], kind: str | None, fact: tuple[str, Any], numbers: list[float]
):
    found, told = fact_of(ColumnChoice("it", "it", kind), values, ["a", "b", "c"])
    assert (found.dtype, found.values) == fact
    assert told.tolist() == pytest.approx(numbers, nan_ok=True)
    assert found.problem(told) is None


NOTES = ["fine", 'a "quoted", one', "two\nlines\tand a tab", None, "\u00fc\u200d\u00b5", "fine"]


@pytest.fixture(scope="module")
def noted(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """Six networks with notes, two of them the same and one without."""
    root = tmp_path_factory.mktemp("noted")
    torch.save({**stacked(6), "score": torch.linspace(0.0, 1.0, 6)}, root / "all.pt")
    table = root / "t.jsonl"
    told = ({"note": note, "odd": f"a{i}" + i * 100 * "x"} for i, note in enumerate(NOTES))
    table.write_text("".join(json.dumps(row) + "\n" for row in told))
    return import_zoo(
        root / "zoo", root / "all.pt", facts=table, columns=["note:text", "odd", "score"]
    )


def test_texts_are_kept_and_read_again(noted: Zoo, tmp_path: Path):
    assert [noted.manifest.fact(name).dtype for name in ("note", "odd")] == ["text", "text"]
    assert noted.manifest.target == "score"
    assert noted.manifest.fact("note").values.count("fine") == 1
    frame = noted.frame()
    assert [note if isinstance(note, str) else None for note in frame["note"]] == NOTES
    assert noted.info()["facts"]["note"] == {"texts": 4}
    assert find_problems(noted.path) == []
    again = import_zoo(tmp_path / "again", export_checkpoints(noted, tmp_path / "files"))
    assert again.manifest.facts == noted.manifest.facts
    assert torch.equal(again.fact("note"), noted.fact("note"))
    hub = export_huggingface(noted, tmp_path / "hub", "jsonl")
    rows = [json.loads(line) for line in (hub / "facts.jsonl").read_text().splitlines()]
    assert [row["note"] for row in rows] == NOTES
    assert "| `note` | a text |" in (hub / "README.md").read_text()
    # Whole, however long, and chosen by what they say.
    assert [row["odd"] for row in rows][5] == "a5" + 500 * "x"
    assert select(noted, ["odd==a0"]).tolist() == [True, False, False, False, False, False]


def test_texts_are_no_targets(noted: Zoo, tmp_path: Path):
    with pytest.raises(InvalidGraphError, match="'note', a text; expected a number or a class"):
        replace(noted.manifest, target="note")
    with pytest.raises(InvalidGraphError, match="is a text, which no model tells"):
        TASKS["predict"](noted, TrainSettings(str(noted.path)), "odd")
    with pytest.raises(InvalidGraphError, match="'note' is a text"):
        export_ogb(noted, tmp_path / "ogb", target="note")
    with pytest.raises(InvalidGraphError, match="has values"):
        Fact("note", "text", ("a\x00",))


TIDY = {"file": ["a.pt", "b.pt"], "acc": [0.5, 0.25]}
UNTIDY = [
    ("file;acc\na.pt;0.5\nb.pt;0.25\n", TIDY),
    ("\ufefffile\tacc\r\na.pt\t0.5\r\nb.pt\t0.25\r\n", TIDY),
    ("file , acc\na.pt,0.5\n\nb.pt, 0.25\n", TIDY),
    ("file,acc\na.pt,NA\nb.pt,0.25\n", {**TIDY, "acc": [None, 0.25]}),
    ("file,norm\na.pt,none\nb.pt,none\n", {"file": TIDY["file"], "norm": ["none", "none"]}),
    # No decimal commas: widths look like them.
    ("file;acc;b\na.pt;0.5;8,8\nb.pt;0.25;8,4\n", {**TIDY, "b": ["8,8", "8,4"]}),
    ("file,acc,\na.pt,0.5,\nb.pt,0.25,\n", TIDY),
    ("file,ok\na.pt,True\nb.pt,FALSE\n", {"file": TIDY["file"], "ok": [True, False]}),
    ("file,run\na.pt,1_0\nb.pt,1_1\n", {"file": TIDY["file"], "run": ["1_0", "1_1"]}),
    (f"file,seed\na.pt,{2**70}\n", {"file": ["a.pt"], "seed": [2**70]}),
    ("file,a;b\na.pt,1\n", {"file": ["a.pt"], "a;b": [1]}),  # commas count where there are some
]


@pytest.mark.parametrize(("text", "found"), UNTIDY, ids=range(len(UNTIDY)))
def test_tables_that_are_less_tidy_are_read(tmp_path: Path, text: str, found: dict[str, Any]):
    for data in (text.encode(), text.removeprefix("\ufeff").encode("utf-16")):
        (tmp_path / "t.csv").write_bytes(data)
        assert read_table(tmp_path / "t.csv") == found


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (b"file,a,a\n", "has the column 'a' twice"),
        (b"file,a\nx,1\ny,1,2\n", "row 2 has 3 cells; expected 2"),
        ("file,gr\u00f6\u00dfe\n".encode("latin-1"), "by its byte 7. Save it as CSV in UTF-8"),
        (b'[{"file": "x", "a": 1, "a": 2}]', "it has 'a' twice in one row"),
        (b"PK\3\4 and more", "perhaps a spreadsheet"),
    ],
    ids=["column", "row", "encoding", "json", "spreadsheet"],
)
def test_tables_that_are_none_say_why(tmp_path: Path, text: bytes, error: str):
    (tmp_path / "t.csv").write_bytes(text)
    with pytest.raises(DataFileError, match=error):
        read_table(tmp_path / "t.csv")


def test_rows_name_files_however_numbers_and_letters_are_written():
    def joined(cells: list[Any], names: list[str]) -> list[int | None]:
        return join_rows(Path("t"), {"it": cells}, names, None, None)[0]

    assert joined([7, 8], ["net/008.pt", "net/007.pt"]) == [1, 0]
    assert joined([0.1, 1], ["1.0.pt", "0.10.pt"]) == [1, 0]
    assert joined([" a.pt", "b"], ["a.pt", "b.pt"]) == [0, 1]
    assert joined(["\u00fc.pt"], ["u\u0308.pt"]) == joined(["u\u0308"], ["\u00fc.pt"]) == [0]
    # A number of two files names none.
    with pytest.raises(DataFileError, match="no row names a network"):
        joined([7], ["07.pt", "007.pt"])


def test_numbers_that_are_too_large_are_named_and_texts_stay_as_written(tmp_path: Path):
    torch.save(stacked(2), tmp_path / "all.pt")
    table = tmp_path / "t.csv"
    table.write_text(f"id,big\n007,{10**40}\n1e3,1\n")
    with pytest.raises(DataFileError, match=r"'big' says 1(0+) of 'network 0', more than float32"):
        import_zoo(tmp_path / "no", tmp_path / "all.pt", facts=table)
    # Seeds would be one another's, as real numbers.
    seeds = torch.tensor([-(2**60), 1 - 2**60])
    torch.save({**stacked(2), "seed": seeds}, tmp_path / "seeds.pt")
    with pytest.raises(DataFileError, match=r"more than float32 holds\. Write seed:text"):
        import_zoo(tmp_path / "no", tmp_path / "seeds.pt")
    words = ["id:text", "large=big:text"]
    zoo = import_zoo(tmp_path / "zoo", tmp_path / "all.pt", facts=table, columns=words)
    assert zoo.manifest.fact("id").values == ("007", "1e3")
    assert zoo.manifest.fact("large").values == (str(10**40), "1")


def test_lists_of_checkpoints_and_of_tensors_are_networks_with_what_lies_beside(tmp_path: Path):
    states = [mlp(3, i).state_dict() for i in range(4)]
    layers = {"weights": ["0.weight", "2.weight"], "biases": ["0.bias", "2.bias"]}
    each = [{key: [state[n] for n in names] for key, names in layers.items()} for state in states]
    told = [{"acc": i / 4, "hp": {"lr": i}} for i in range(4)]
    optimiser = {"state": {0: torch.zeros(3)}}
    forms: dict[str, Any] = {
        "beside": [{**s, "acc": torch.tensor(t["acc"])} for s, t in zip(states, told, strict=True)],
        "nested": [
            {"model": s, "optimizer": optimiser, **t} for s, t in zip(states, told, strict=True)
        ],
        "layers": [{**e, **t} for e, t in zip(each, told, strict=True)],
        "lists": {key: [e[key] for e in each] for key in layers} | {"hp": told},
    }
    for name, held in forms.items():
        torch.save(held, tmp_path / f"{name}.pt")
        zoo = import_zoo(tmp_path / name, tmp_path / f"{name}.pt")
        fact = "hp_acc" if name == "lists" else "acc"
        assert zoo.fact(fact).tolist() == [0.0, 0.25, 0.5, 0.75], name
        kept = list(zoo.network(2).parameters().values())
        assert all(map(torch.equal, kept, mlp(3, 2).state_dict().values())), name
    for held, error in (
        ({"a": states, "b": states}, "'b' is a second list of state dicts"),
        ({"weights": [each[0]["weights"], each[1]["weights"][:1]]}, "not of the same shapes"),
        ([*states, {"epoch": 3}], r"bad\.pt, network 4: entry 'epoch'"),
    ):
        torch.save(held, tmp_path / "bad.pt")
        with pytest.raises(NNGraphError, match=error):
            import_zoo(tmp_path / "bad", tmp_path / "bad.pt")


def test_texts_in_an_archive_of_numpy_are_facts(tmp_path: Path):
    values = {name: value.numpy() for name, value in stacked(6).items()}
    texts = {"kind": np.array(list("xyxyxy")), "raw": np.array([b"p", b"q", b"p"] * 2)}
    notes = np.array([f"n\u00fc{i}" for i in range(6)])
    np.savez(tmp_path / "all.npz", **values, **texts, note=notes)
    zoo = import_zoo(tmp_path / "zoo", tmp_path / "all.npz")
    assert [zoo.manifest.fact(name).values for name in texts] == [("x", "y"), ("p", "q")]
    assert zoo.fact("kind").tolist() == [0, 1] * 3
    assert zoo.manifest.fact("note").is_text
    assert zoo.manifest.fact("note").values[2] == "n\u00fc2"
    # One network in a file has its texts beside it.
    one = {name: value[0] for name, value in values.items()}
    np.savez(tmp_path / "one.npz", **one, tags=np.array(["a", "b"]), by=np.array("me"))
    found = read_checkpoint(tmp_path / "one.npz")
    assert (len(found.tensors), found.facts) == (4, {"tags": "a,b", "by": "me"})
    # Texts that are no text, and tables of them, are named.
    days = np.array(["2024-01-01"] * 6, "datetime64[D]")
    for odd in (np.array([b"\xff"] * 6), np.array([["a", "b"]] * 6), days):
        np.savez(tmp_path / "odd.npz", **values, odd=odd)
        words = r"odd.npz is damaged.*(decode|'odd' have the|in its array 'odd)"
        with pytest.raises(DataFileError, match=words):
            import_zoo(tmp_path / "other", tmp_path / "odd.npz")


def test_texts_that_are_too_long_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(columns, "_MAX_TEXTS", 10)
    fact_of(ColumnChoice("it", "it"), ["a" * 5, "b" * 5], ["a", "b"])
    with pytest.raises(DataFileError, match="11 bytes of text"):
        fact_of(ColumnChoice("it", "it"), ["a" * 6, "b" * 5], ["a", "b"])


def test_labels_groups_and_splits_are_columns(folder: Path, tmp_path: Path):
    told = [
        {**row, "digit": row["depth"] % 3, "family": f"f{row['depth'] // 2}",
         "split": ("training", "valid", "TEST", "train")[row["depth"] // 2]}
        for row in rows()
    ]  # fmt: skip
    table = written(tmp_path / "t.csv", told)
    zoo = import_zoo(tmp_path / "zoo", folder, facts=table, label="digit", group="family")
    assert (zoo.class_names, zoo.manifest.target) == (("0", "1", "2"), "label")
    assert by_run(zoo, "label") == {i: str(i % 3) for i in range(COUNT)}
    assert zoo.manifest.group == "family"
    assert by_run(zoo, "family") == {i: f"f{i // 2}" for i in range(COUNT)}
    expected = ("train", "val", "test", "train")
    assert by_run(zoo, "split") == {i: expected[i // 2] for i in range(COUNT)}
    assert len(torch.unique(zoo.group_keys())) == 4
    assert "source" not in zoo.facts
    only = import_zoo(
        tmp_path / "only", folder, facts=table, columns=("accuracy=Test Acc", "digit:class"),
        group=r"run_(\d)",
    )  # fmt: skip
    (only.path / only.shards[1].file).unlink()
    only = import_zoo(
        tmp_path / "only", folder, facts=table, columns=("accuracy=Test Acc", "digit:class"),
        group=r"run_(\d)",
    )  # fmt: skip
    assert [fact.name for fact in only.manifest.facts] == ["accuracy", "digit", "source", "split"]
    assert by_run(only, "source") == {i: i for i in range(COUNT)}
    told[0]["split"] = "test"  # the other of its group is in training
    table = written(tmp_path / "u.csv", told)
    with pytest.raises(DataFileError, match="another network of its group in"):
        import_zoo(tmp_path / "no", folder, facts=table, group="family")


def test_what_lies_in_a_file_is_a_column_that_may_be_asked_for(folder: Path, tmp_path: Path):
    zoo = import_zoo(tmp_path / "zoo", folder, columns=["step=epoch"], target="step")
    assert by_run(zoo, "step") == {i: i for i in range(COUNT)}
    assert "step" not in import_zoo(tmp_path / "plain", folder).facts


def test_numbers_of_a_table_train_and_networks_without_them_are_left_out(
    folder: Path, tmp_path: Path
):
    from nngraph.tasks import TrainSettings, train

    table = written(tmp_path / "t.csv", [
        {**row, "Test Acc": "" if row["depth"] == 1 else row["Test Acc"],
         "optimiser": "" if row["depth"] == 2 else row["optimiser"],
         "split": SPLITS[max(0, row["depth"] // 2 - 1)]}
        for row in rows()
    ])  # fmt: skip
    import_zoo(tmp_path / "zoo", folder, facts=table)
    for fact, score in (("test_acc", "kendall"), ("optimiser", "accuracy")):
        asked = TrainSettings(
            str(tmp_path / "zoo"), "statistics", {"hidden": 8}, task="predict",
            task_options={"fact": fact}, epochs=2, batch_size=4,
        )  # fmt: skip
        told = train(asked, str(tmp_path / fact), progress=False)
        assert told.score == score
        if fact == "optimiser":
            assert told.details["class_names"] == ["adam", "sgd"]


# -- architectures ---------------------------------------------------------------------------------


def cnn(width: int, depth: int = 1, norm: bool = False) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i in range(depth):
        layers += [nn.Conv2d(width if i else 1, width, 3, padding=1), nn.ReLU()]
        layers += [nn.BatchNorm2d(width)] if norm else []
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 3))


INPUTS = torch.zeros(2, 1, 5, 5)


@pytest.fixture
def cnns(tmp_path: Path) -> tuple[Path, Path, list[dict[str, Tensor]]]:
    """Six CNNs of three architectures, with prefixes and in two precisions; their table."""
    states, told = [], []
    (tmp_path / "cnns").mkdir()
    for i in range(6):
        kind = ({"width": 3}, {"width": 4, "depth": 2}, {"width": 3, "norm": True})[i % 3]
        torch.manual_seed(i)
        module = cnn(**kind).to((torch.float32, torch.float16)[i % 2]).eval()
        states.append({name: value.clone() for name, value in module.state_dict().items()})
        prefix = ("", "module.", "model.")[i % 3]
        named = {prefix + name: value for name, value in module.state_dict().items()}
        torch.save({"state_dict": named}, tmp_path / "cnns" / f"{i}.pt")
        told.append({"file": f"{i}.pt", "width": 3, "depth": "", "norm": "", **kind, "acc": i / 7})
    return tmp_path / "cnns", written(tmp_path / "t.jsonl", [_some(row) for row in told]), states


def _some(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if value != ""}


@pytest.fixture
def derived(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """The modules that architectures are derived of."""
    seen: list[nn.Module] = []

    def noted(module: nn.Module, *args: Any) -> Architecture:
        seen.append(module)
        return to_architecture(module, *args)

    monkeypatch.setattr(architectures, "to_architecture", noted)
    return seen


def test_a_factory_makes_each_network_and_each_architecture_is_derived_once(
    cnns: Any, tmp_path: Path, derived: list[nn.Module]
):
    folder, table, states = cnns
    zoo = import_zoo(tmp_path / "zoo", folder, facts=table, module=cnn, inputs=INPUTS)
    assert len(derived) == len(zoo.architectures) == 3
    again = import_zoo(tmp_path / "again", folder, facts=table, module=cnn, inputs=INPUTS)
    assert len(derived) == 6  # kept beside each zoo, by what it was derived of
    (tmp_path / "again" / "shard-00001.safetensors").unlink()
    again = import_zoo(tmp_path / "again", folder, facts=table, module=cnn, inputs=INPUTS)
    assert len(derived) == 6
    assert again.architectures == zoo.architectures
    order = [round(float(acc) * 7) for acc in zoo.fact("acc")]
    assert sorted(order) == list(range(6))
    for number, i in enumerate(order):
        found = zoo.network(number).parameters()
        assert found.keys() == states[i].keys()
        for name, value in found.items():
            wanted = states[i][name]
            assert torch.equal(value, wanted.float() if wanted.is_floating_point() else wanted)
    assert find_problems(zoo.path) == []


def test_what_was_derived_is_forgotten_where_code_changes(
    tmp_path: Path, derived: list[nn.Module]
):
    code = tmp_path / "changing.py"
    text = "from torch import nn\ndef make():\n    return nn.Linear(2, 1)  # {}\n"
    for n, expected in ((0, 1), (0, 1), (1, 2)):
        code.write_text(text.format(n))
        space: dict[str, Any] = {}
        exec(compile(code.read_text(), str(code), "exec"), space)
        inputs, cache = torch.zeros(1, 2), tmp_path / "cache.json"
        found = architectures.Architectures(None, space["make"], inputs, None, cache)
        found.of("0.pt", nn.Linear(2, 1).state_dict(), {})
        assert len(derived) == expected
    (tmp_path / "cache.json").write_text("{")
    found = architectures.Architectures(None, cnn, INPUTS, None, tmp_path / "cache.json")
    with pytest.raises(DataFileError, match="keeps derived architectures, and is damaged"):
        found.of("0.pt", {}, {"width": 3})


def test_architectures_by_the_paths_of_networks(cnns: Any, tmp_path: Path):
    folder, _, _ = cnns
    given = {"[03].pt": to_architecture(cnn(3), INPUTS)}
    made = {"[14].pt": lambda: (cnn(4, 2), INPUTS), "[25]": lambda: cnn(3, norm=True).eval()}
    zoo = import_zoo(tmp_path / "zoo", folder, architecture=given, module=made, inputs=INPUTS)
    assert (len(zoo), len(zoo.architectures)) == (6, 3)
    with pytest.raises(InvalidGraphError, match=r"1.pt: no architecture is given for it; the patt"):
        import_zoo(tmp_path / "no", folder, architecture=given)


def test_factories_that_do_not_serve_are_named(cnns: Any, tmp_path: Path):
    folder, table, _ = cnns

    def refused(match: str, kind: Any = UnsupportedModuleError, **options: Any) -> None:
        with pytest.raises(kind, match=match):
            import_zoo(tmp_path / "zoo", folder, facts=table, **options)

    def fails(width: int) -> nn.Module:
        raise RuntimeError(f"no {width}")

    refused(r"0.pt: .*fails\(width=3\) failed: RuntimeError: no 3", module=fails, inputs=INPUTS)
    refused("gave a int; expected a torch.nn.Module", module=lambda: 3, inputs=INPUTS)
    refused("needs 'heads', which is not known of it; known are 'file', 'width'", InvalidGraphError,
            module=lambda heads: cnn(heads), inputs=INPUTS)  # fmt: skip
    refused("inputs are missing: an example input of", InvalidGraphError, module=cnn)
    refused("0.pt: the tensors do not fit", InvalidGraphError, module=lambda: cnn(9), inputs=INPUTS)
    refused("both an architecture and a module", InvalidGraphError, module=cnn,
            architecture=Architecture.mlp([2, 3, 1]))  # fmt: skip
    refused("activations and an architecture or a module", InvalidGraphError, module=cnn,
            activations="relu")  # fmt: skip


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"width": 8.0, "norm": "False", "sizes": "1,2", "name": "8.0"}, (8, False, (1, 2), "8.0")),
        ({"width": 8, "norm": "yes", "sizes": "(4,)", "name": 3.0}, (8, True, (4,), 3.0)),
        ({"h.width": 2, "norm": True, "sizes": "[1, 2]", "name": None}, (2, True, (1, 2), "none")),
        ({"Width": 2, "norm": 0, "other": 3}, (2, False, (1,), "none")),
        ({"width": 1, "h.width": 2}, (1, False, (1,), "none")),
    ],
)
def test_a_factory_gets_what_a_table_says_in_its_own_kinds(said: Any, expected: tuple[Any, ...]):
    def make(width: int, norm: bool = False, sizes: Sequence[int] = (1,), name="none") -> Any: ...

    found = architectures._wanted(make, said)
    default = {"norm": False, "sizes": (1,), "name": "none"}
    found = {**default, **found}
    assert tuple(found[name] for name in ("width", "norm", "sizes", "name")) == expected
    assert type(found["width"]) is int


# -- one file of all networks ----------------------------------------------------------------------


def stacked(count: int = 6) -> dict[str, Tensor]:
    states = [mlp(4, seed).state_dict() for seed in range(count)]
    return {name: torch.stack([state[name] for state in states]) for name in states[0]}


@pytest.mark.parametrize("form", ["flat", "nested", "lists", "in-out", "states", "channels"])
def test_a_stack_carries_facts_groups_and_splits(tmp_path: Path, form: str):
    values = stacked()
    told: dict[str, Any] = {
        "accuracy": torch.linspace(0, 1, 6), "loss": torch.rand(6, 1).double(),
        "step": torch.arange(6), "optimiser": ["adam", "sgd"] * 3,
        "labels": torch.tensor([5, 10] * 3),
        "run": [0, 0, 1, 1, 2, 2], "split": ["train", "train", "val", "val", "test", "test"],
        "note": "of one day", "epochs": 7,
    }  # fmt: skip
    order, names, prefix = "out-in", {name: name for name in values}, ""
    if form == "nested":
        held: Any = {"state_dict": values, **told}
    elif form == "states":
        held = {"networks": [{n: v[i] for n, v in values.items()} for i in range(6)], **told}
    elif form in ("lists", "channels"):
        last = (..., None) if form == "channels" else ...
        held = {"weights": [values[f"{i}.weight"][last] for i in (0, 2)],
                "biases": [values[f"{i}.bias"][last] for i in (0, 2)], **told}  # fmt: skip
        names = {name: name.replace("2.", "1.").join(["layers.", ""]) for name in values}
    else:
        order = "in-out" if form == "in-out" else order
        turned = {n: v.transpose(1, 2) if v.dim() == 3 else v for n, v in values.items()}
        held = {**(turned if form == "in-out" else values), **told}
    torch.save(held, tmp_path / "all.pt")
    zoo = import_zoo(tmp_path / "zoo", tmp_path / "all.pt", group="run", order=order, shard_size=4)
    assert zoo.class_names == ("5", "10")
    assert zoo.labels.tolist() == [0, 1] * 3
    assert torch.equal(zoo.fact("accuracy"), told["accuracy"])
    assert torch.equal(zoo.fact("loss"), told["loss"].squeeze(1).float())
    assert zoo.manifest.group == "run"
    assert zoo.split.tolist() == [0, 0, 1, 1, 2, 2]
    assert zoo.manifest.fact("optimiser").values == ("adam", "sgd")
    assert "note" not in zoo.facts
    found = zoo.stack().parameters()
    for name, value in values.items():
        assert torch.equal(found[prefix + names[name]], value)
    assert find_problems(zoo.path) == []


def test_a_table_goes_with_a_stack_in_order_or_by_number(tmp_path: Path):
    torch.save(stacked(), tmp_path / "all.pt")
    table = written(tmp_path / "t.csv", [{"nr": i, "acc": i / 4} for i in reversed(range(6))])
    kept = import_zoo(tmp_path / "a", tmp_path / "all.pt", facts=table)
    assert kept.fact("acc").tolist() == [i / 4 for i in reversed(range(6))]
    by_key = import_zoo(tmp_path / "b", tmp_path / "all.pt", facts=table, key="nr")
    assert by_key.fact("acc").tolist() == [i / 4 for i in range(6)]
    short = written(tmp_path / "u.csv", [{"acc": 0.5}])
    with pytest.raises(DataFileError, match="has 1 rows for 6 networks in one file"):
        import_zoo(tmp_path / "c", tmp_path / "all.pt", facts=short)


def test_stacks_of_any_architecture(tmp_path: Path):
    states = [cnn(3, norm=True).state_dict() for _ in range(4)]
    held = {f"module.{n}": torch.stack([state[n] for state in states]) for n in states[0]}
    torch.save({**held, "width": [3] * 4, "acc": torch.rand(4)}, tmp_path / "all.pt")
    made = import_zoo(
        tmp_path / "zoo", tmp_path / "all.pt", module=lambda width: cnn(width, norm=True),
        inputs=INPUTS,
    )  # fmt: skip
    for i, state in enumerate(states):
        found = made.network(i).parameters()
        assert all(torch.equal(found[name], value) for name, value in state.items())


def test_entries_of_a_stack_that_do_not_fit_are_named(tmp_path: Path):
    torch.save({**stacked(), "acc": torch.rand(5)}, tmp_path / "a.pt")
    with pytest.raises(InvalidGraphError, match="'acc' has 5 entries; expected 6, one per network"):
        import_zoo(tmp_path / "zoo", tmp_path / "a.pt")
    torch.save({**stacked(), "acc": [[1.0]] * 6}, tmp_path / "b.pt")
    with pytest.raises(InvalidGraphError, match="'acc' is a list of list; expected numbers"):
        import_zoo(tmp_path / "zoo", tmp_path / "b.pt")
    # Networks beside one another are no stack, of which one would be left.
    torch.save({f"net{i}": mlp(1, i).state_dict() for i in range(2)}, tmp_path / "d.pt")
    with pytest.raises(InvalidGraphError, match=r"d.pt has '0.weight' twice.*as a list"):
        import_zoo(tmp_path / "zoo", tmp_path / "d.pt")
    torch.save({**stacked(), "0.scale": torch.rand(6, 4)}, tmp_path / "c.pt")
    with pytest.raises(InvalidGraphError, match=r"c.pt: .*'0.scale' of shape"):
        import_zoo(tmp_path / "zoo", tmp_path / "c.pt")


def test_layouts_of_public_collections_come_with_their_facts(tmp_path: Path):
    for split, digit, image in (("training", 3, 1), ("training", 4, 2), ("testing", 4, 1)):
        place = tmp_path / "inrs" / f"mnist_png_{split}_{digit}_{image}" / "checkpoints"
        place.mkdir(parents=True)
        torch.save(mlp(4, image).state_dict(), place / "model_final.pth")
    zoo = import_zoo(
        tmp_path / "zoo", tmp_path / "inrs", layout="inrs-dwsnets", activations="tanh"
    )
    assert zoo.class_names == ("3", "4")
    assert sorted(zoo.fact("image").tolist()) == [1, 1, 2]
    assert sorted(zoo.split.tolist()) == [0, 0, 2]
    assert len(torch.unique(zoo.group_keys())) == 3
    (tmp_path / "m.json").write_text(json.dumps({"count": 4}))
    with pytest.raises(DataFileError, match="3 networks in place of 4"):
        import_zoo(
            tmp_path / "no", tmp_path / "inrs", layout="inrs-dwsnets", manifest=tmp_path / "m.json"
        )


def test_numbers_that_are_no_names_are_not_taken_for_the_key(tmp_path: Path):
    names = [f"{number}.pt" for number in range(4)]
    table = {"name": [f"x{n}" for n in range(4)], "epochs": [1, 1, 2, 2]}
    with pytest.raises(DataFileError, match="no row names a network"):
        join_rows(tmp_path / "t.csv", table, names, None, None)
    with pytest.raises(DataFileError, match=r"rows 1 and 2 are both of '1\.pt'"):
        join_rows(tmp_path / "t.csv", table, names, "epochs", None)
