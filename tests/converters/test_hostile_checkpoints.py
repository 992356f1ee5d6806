"""Damaged, forged and foreign files give the library's errors, within bounded memory."""

import gzip
import io
import json
import resource
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint_files import state
from hostile_files import Fuzz, bases, gguf, read
from safetensors.torch import save_file

from converters.checkpoints import MemoryBudget, read_checkpoint, read_table
from nngraph.errors import DataFileError

MIB = 2**20


@pytest.mark.parametrize("kind", bases())
def test_sound_files_of_the_fuzz_are_read(tmp_path, kind):
    save_file({"0.weight": torch.ones(4, 2)}, tmp_path / "base.safetensors")
    files = bases()[kind]
    for name, data in files.items():
        (tmp_path / "one" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "one" / name).write_bytes(data)
    read(kind, tmp_path / "one", tmp_path / "one" / next(iter(files)))


@pytest.mark.parametrize("part", range(4))
def test_hurt_files_give_only_errors_of_the_library(tmp_path, part):
    fuzz = Fuzz(tmp_path)
    found = [fuzz.run(seed) for seed in range(500 * part, 500 * (part + 1))]
    refused = sum(error is not None for _, error in found)
    assert refused > 250
    assert {kind for kind, _ in found} == set(bases())


def pickled(body):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("a/data.pkl", b"\x80\x02" + body)
    return stream.getvalue()


def text(words):
    return b"X" + struct.pack("<I", len(words)) + words.encode()


def tuples_within_tuples():
    doubled = b")" + b"".join(b"q%c0h%ch%c\x86" % (i, i, i) for i in range(60))
    return pickled(b"}" + doubled + b"K\x01s.")


def stored(entries, how=zipfile.ZIP_DEFLATED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", how) as file:
        for name, data in entries.items():
            file.writestr(name, data)
    return stream.getvalue()


def many_views():
    base = torch.ones(MIB)
    stream = io.BytesIO()
    torch.save({str(i): base[i:] for i in range(200)}, stream)
    return stream.getvalue()


def claiming_npy():
    head = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head


def h5(write):
    h5py = pytest.importorskip("h5py")
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        write(file)
    return stream.getvalue()


def cyclic(file):
    group = file.create_group("a")
    group["a"] = group


BOMBS = {
    "zip": lambda: stored({"a/data.pkl": bytes(2**28)}),
    "npz": lambda: stored({"a.npy": claiming_npy() + bytes(2**28)}),
    "npz that claims": lambda: stored({"a.npy": claiming_npy()}),
    "npy that claims": claiming_npy,
    "tuples within tuples": tuples_within_tuples,
    "directory": lambda: stored({f"a/{i}": b"" for i in range(60_000)}, zipfile.ZIP_STORED),
    "lists": lambda: pickled(b"]" * 2**22 + b"."),
    "many views": many_views,
    "long string": lambda: pickled(b"\x8d" + struct.pack("<Q", 2**62) + b"a."),
    "bytearray": lambda: pickled(b"cbuiltins\nbytearray\nJ\x00\x00\x00\x7f\x85R."),
    "tensor of a size": lambda: pickled(b"ctorch\nFloatTensor\nJ\x00\x00\x00\x7f\x85R."),
    "gguf entries": lambda: b"GGUF" + struct.pack("<IQQ", 3, 2**60, 2**60) + bytes(64),
    "gguf list": lambda: (
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"k"
        + struct.pack("<IIQ", 9, 9, 2**60) + struct.pack("<IQ", 0, 0) * 4
    ),
    "gguf of one place": lambda: gguf({str(i): torch.ones(2**20) for i in range(2)})[: 2**22],
    "safetensors": lambda: struct.pack("<Q", 2**40) + b"{" + bytes(64),
    "deep JSON": lambda: b"[" * 10**6,
    "deep index": lambda: b'{"weight_map":' * 10**5,
    "long number": lambda: b'{"weight_map": ' + b"9" * 10**5 + b"}",
    "h5 of zeros": lambda: h5(lambda file: file.create_dataset(
        "layers/dense/vars/0", data=np.zeros((2**14, 2**12), "f4"), compression="gzip",
    )),
    "h5 in circles": lambda: h5(cyclic),
    "h5 chunk": lambda: h5(lambda file: file.create_dataset(
        "layers/dense/vars/0", (4, 4), "f4", chunks=(2**14, 2**12), maxshape=(None, None),
        compression="gzip",
    )),
}  # fmt: skip


#: Reads the files that it is given one after another, in a process of its own for their memory.
READER = """
import resource, sys, time
from converters.checkpoints import read_checkpoint
from nngraph.errors import DataFileError
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
for path in sys.argv[2:]:
    start = time.process_time()
    try:
        error = f"read {len(read_checkpoint(path, max_bytes=int(sys.argv[1])).tensors)}"
    except DataFileError as found:
        error = type(found).__name__
    print(error, peak() - before, time.process_time() - start)
"""


def test_bombs_are_refused_without_their_memory(tmp_path):
    for number, make in enumerate(BOMBS.values()):
        (tmp_path / f"{number}.bin").write_bytes(make())
    paths = [str(tmp_path / f"{number}.bin") for number in range(len(BOMBS))]
    run = subprocess.run(
        [sys.executable, "-c", READER, str(32 * MIB), *paths],
        capture_output=True, text=True, timeout=300, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    for kind, line in zip(BOMBS, run.stdout.splitlines(), strict=True):
        error, grown, seconds = line.split()
        assert (kind, error) == (kind, "DataFileError")
        assert float(grown) < 96 * 1024, kind  # KiB, where 32 MiB may be read
        assert float(seconds) < 20, kind


def test_a_packed_table_is_not_unpacked_without_end(tmp_path):
    with gzip.open(tmp_path / "t.csv.gz", "wb") as file:
        file.write(b"a,b\n" + b"1,2\n" * 2**22)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataFileError, match="a larger max_bytes"):
        read_table(tmp_path / "t.csv.gz", MemoryBudget(8 * MIB))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


def test_a_text_of_parquet_is_not_copied_into_every_row(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    column = pyarrow.DictionaryArray.from_arrays(
        pyarrow.array(np.zeros(20_000, np.int32)), pyarrow.array(["x" * MIB])
    )
    parquet.write_table(pyarrow.table({"a": column}), tmp_path / "t.parquet", store_schema=False)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = read_table(tmp_path / "t.parquet", MemoryBudget(16 * MIB))["a"]
    assert (len(found), found[0], len({id(text) for text in found})) == (20_000, "x" * MIB, 1)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 * 1024
    with pytest.raises(DataFileError, match="a larger max_bytes"):
        read_table(tmp_path / "t.parquet", MemoryBudget(MIB))


@pytest.mark.parametrize("name", ["../a.bin", "/etc/passwd", "..", "", "x\0y", "a/../a.bin", "\\a"])
def test_an_index_names_files_beside_it_only(tmp_path, name):
    torch.save(state(), tmp_path / "a.bin")
    (tmp_path / "one").mkdir()
    index = tmp_path / "one" / "model.index.json"
    index.write_text(json.dumps({"weight_map": {"0.weight": name}}))
    with pytest.raises(DataFileError, match="expected one in its own folder"):
        read_checkpoint(index)


def test_a_limit_of_the_user_holds_for_all_parts_together(tmp_path):
    places = {}
    for i in range(4):
        save_file({str(i): torch.ones(MIB // 4)}, tmp_path / f"{i}.safetensors")
        places[str(i)] = f"{i}.safetensors"
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    assert len(read_checkpoint(tmp_path, max_bytes=5 * MIB).tensors) == 4
    with pytest.raises(DataFileError, match="a larger max_bytes"):
        read_checkpoint(tmp_path, max_bytes=3 * MIB)
