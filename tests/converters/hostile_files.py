"""Damaged and forged checkpoints of every container, drawn from seeds."""

from __future__ import annotations

import argparse
import functools
import gzip
import io
import json
import random
import struct
import tempfile
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from checkpoint_files import archive, keras_archive, keras_h5, state
from safetensors.torch import save, save_file

from converters import import_zoo, load_graph, load_onnx, save_graph, state_dict_to_graph
from converters.checkpoints import MemoryBudget, read_checkpoint, read_table
from converters.collections import open_collection
from nngraph.errors import NNGraphError
from nngraph.zoo import Zoo

#: What readers may take in the fuzz; files are far smaller.
LIMIT = 2**22


def gguf(tensors, alignment=32):
    """A GGUF file, written by hand: its header, its tensors' places, their numbers."""

    def text(words):
        return struct.pack("<Q", len(words)) + words.encode()

    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), 3)
    head += text("general.architecture") + struct.pack("<I", 8) + text("llama")
    head += text("general.alignment") + struct.pack("<II", 4, alignment)
    head += text("tokens") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("b")
    body = b""
    for name, value in tensors.items():
        shape = value.shape[::-1]
        head += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, len(body))
        body += value.numpy().tobytes()
        body += bytes(-len(body) % alignment)
    return head + bytes(-len(head) % alignment) + body


def saved(held, **how):
    stream = io.BytesIO()
    torch.save(held, stream, **how)
    return stream.getvalue()


def npy(values):
    stream = io.BytesIO()
    np.save(stream, values)
    return stream.getvalue()


def parquet_table():
    import pyarrow
    from pyarrow import parquet

    stream = io.BytesIO()
    columns = {"name": ["a", "b", None], "acc": [0.5, None, 1.0], "many": [[1], [], [2]]}
    parquet.write_table(pyarrow.table(columns), stream)
    return stream.getvalue()


def onnx_model():
    from onnx import TensorProto, helper
    from onnx_files.onnx_cases import model

    weights = {"w": np.ones((4, 2), "f4"), "b": np.ones(4, "f4"), "ends": np.array([-1, 2])}
    nodes = [
        helper.make_node("Shape", ["x"], ["sizes"]),
        helper.make_node("Concat", ["sizes", "ends"], ["all"], axis=0),
        helper.make_node("Gather", ["all", "first"], ["rows"]),
        helper.make_node("Constant", [], ["first"],
                         value=helper.make_tensor("first", TensorProto.INT64, [2], [2, 3])),
        helper.make_node("Reshape", ["x", "rows"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["h"], transB=1),
        helper.make_node("Relu", ["h"], ["y"]),
    ]  # fmt: skip
    made = model(nodes, {"x": np.ones((3, 2), "f4")}, ["y"], weights)
    return made.SerializeToString()


def written(write):
    """The files that a function writes into an empty folder."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder)
        return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def zoo_files():
    def write(folder):
        archive_of = {f"{name}": np.stack([value.numpy()] * 3) for name, value in state().items()}
        with tempfile.TemporaryDirectory() as source:
            np.savez(Path(source) / "stack.npz", **archive_of)
            import_zoo(folder / "zoo", Path(source) / "stack.npz")
        for path in (folder / "zoo").iterdir():
            path.rename(folder / path.name)
        (folder / "zoo").rmdir()

    return written(write)


LAYOUT = b'varname,start_idx,end_idx,shape\nd/kernel:0,0,8,"(2, 4)"\nd/bias:0,8,12,"(4,)"\n'
KERAS = {"conv2d": (np.ones((3, 3, 1, 2), "f4"), np.ones(2, "f4")),
         "dense": (np.ones((8, 3), "f4"), np.ones(3, "f4"))}  # fmt: skip


@functools.cache
def bases() -> dict[str, dict[str, bytes]]:
    """Sound files by container: the first of them is read, all of them may be hurt."""
    lightning = {
        "state_dict": state(), "epoch": 3, "optimizer_states": [{"m": torch.ones(3)}],
        "hyper_parameters": argparse.Namespace(lr=0.1, at=np.float32(2)),
        "table": {"w": np.arange(3.0)}, "flat": torch.arange(9)[2:7:2],
    }  # fmt: skip
    index = json.dumps({"weight_map": {n: f"{i % 2}.bin" for i, n in enumerate(state())}}).encode()
    items = list(state().items())
    halves = [dict(items[::2]), dict(items[1::2])]
    config = json.dumps({"peft_type": "LORA", "lora_alpha": 4, "alpha_pattern": {"0": 2}}).encode()
    factors = {"0.lora_A.weight": torch.ones(3, 2), "0.lora_B.weight": torch.ones(4, 3)}
    table = b"modeldir,step,acc\n" + b"".join(b"/a,%d,0.5\n" % i for i in range(3))
    splits = json.dumps({"train": {"path": ["x/a_train_1_2/m.pth"], "label": ["1"]}}).encode()
    made = {
        "torch": {"a.pt": saved(state())},
        "lightning": {"a.ckpt": saved(lightning)},
        "old torch": {"a.pth": saved(lightning, _use_new_zipfile_serialization=False)},
        "safetensors": {"a.safetensors": save(state())},
        "sharded": {"a.index.json": index, "0.bin": saved(halves[0]), "1.bin": save(halves[1])},
        "npz": {"a.npz": archive(state())},
        "npy": {"a.npy": npy(np.ones((3, 12), "f4")), "layout.csv": LAYOUT},
        "gguf": {"a.gguf": gguf(state())},
        "adapter": {"adapter_model.safetensors": save(factors), "adapter_config.json": config},
        "table": {"t.csv.gz": gzip.compress(table)},
        "cnn zoo": {"weights.npy": npy(np.ones((3, 12), "f4")), "layout.csv": LAYOUT,
                    "metrics.csv": table},
        "inrs": {"a_train_1_2/m.pth": saved(state()), "splits.json": splits},
    }  # fmt: skip
    made["onnx"] = {"a.onnx": onnx_model()}
    made["graph"] = written(lambda f: save_graph(state_dict_to_graph(state()), f / "a.safetensors"))
    made["zoo"] = zoo_files()
    with suppress(ImportError):
        made["parquet"] = {"t.parquet": parquet_table()}
    with suppress(ImportError):
        made["h5"] = {"a.weights.h5": keras_h5(KERAS, "weights.h5")}
        made["keras"] = {"a.keras": keras_archive(KERAS, [None, 2, 2, 2])}
    return made


def read(kind: str, folder: Path, first: Path) -> None:
    """Read what lies in a folder as its kind is read."""
    if kind in ("table", "parquet"):
        read_table(first, MemoryBudget(LIMIT))
    elif kind in ("cnn zoo", "inrs"):
        name = {"cnn zoo": "small-cnn-zoo", "inrs": "inrs-dwsnets"}[kind]
        zoo = open_collection(name, folder, max_bytes=LIMIT)
        for number in range(min(2, len(zoo))):
            zoo.read(number)
    elif kind == "onnx":
        load_onnx(first, max_bytes=LIMIT)
    elif kind == "graph":
        load_graph(first, max_bytes=LIMIT)
    elif kind == "zoo":
        Zoo.open(folder).stack()
    elif kind == "adapter":
        read_checkpoint(folder, base=folder.parent / "base.safetensors", max_bytes=LIMIT)
    else:
        layout = folder / "layout.csv" if kind == "npy" else None
        read_checkpoint(first, layout=layout, max_bytes=LIMIT)


# -- hurting bytes ---------------------------------------------------------------------------------

HUGE = [2**31 - 1, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1]


def hurt(data: bytes, draw: random.Random, foreign: bytes) -> bytes:
    """Return bytes with one damage, or several."""
    made = bytearray(data)
    for _ in range(draw.choice([1, 1, 1, 2, 4, 16])):
        if not made:
            break
        at, length = draw.randrange(len(made)), draw.choice([1, 1, 4, 8, 64])
        match draw.randrange(9):
            case 0:
                del made[at:]
            case 1 | 2:
                made[at] ^= 1 << draw.randrange(8)
            case 3:
                made[at : at + length] = draw.randbytes(length)
            case 4:
                made[at : at + 8] = struct.pack("<Q", draw.choice(HUGE))
            case 5:
                del made[at : at + length]
            case 6:
                made[at:at] = made[at : at + length] * draw.choice([1, 2, 50])
            case 7:
                made[at : at + length] = foreign[:length]
            case 8:
                digits = [i for i, b in enumerate(made[:4096]) if 48 <= b < 58]
                if digits:
                    made[draw.choice(digits)] = draw.choice(b"0123456789-.e")
    return bytes(made)


def hurt_inside(data: bytes, draw: random.Random, foreign: bytes) -> bytes:
    """Return an archive whose entries are hurt, and whose checksums are right again."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(stream, "w") as new:
        names = old.namelist()
        chosen = draw.choice([n for n in names if n.endswith((".pkl", ".npy", ".json", ".h5"))])
        for name in names:
            held = old.read(name)
            how = draw.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
            hit = name == chosen or draw.random() < 0.05
            new.writestr(name, hurt(held, draw, foreign) if hit else held, how)
    return stream.getvalue()


class Fuzz:
    """Reads hurt files one after another.

    Args:
        folder: empty, for the files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.bases = folder, bases()
        self.kinds = list(self.bases)
        save_file({"0.weight": torch.ones(4, 2)}, folder / "base.safetensors")
        self.all = [data for files in self.bases.values() for data in files.values()]

    def run(self, seed: int) -> tuple[str, str | None]:
        """Hurt one file of a container and read it.

        Returns:
            The container, and the name of the library's error; ``None`` if it was read.

        Raises:
            Exception: any other, which is a fault.
        """
        draw = random.Random(seed)
        kind = self.kinds[seed % len(self.kinds)]
        files = self.bases[kind]
        target = draw.choice(list(files))
        foreign = draw.choice(self.all)
        place = self.folder / "one"
        for name, data in files.items():
            path = place / name
            path.parent.mkdir(parents=True, exist_ok=True)
            inside = data[:2] == b"PK" and draw.random() < 0.7
            if name == target:
                data = (hurt_inside if inside else hurt)(data, draw, foreign)
                if draw.random() < 0.02:
                    data = foreign
            path.write_bytes(data)
        try:
            read(kind, place, place / next(iter(files)))
        except NNGraphError as error:
            return kind, type(error).__name__
        finally:
            for name in files:
                (place / name).unlink(missing_ok=True)
        return kind, None
