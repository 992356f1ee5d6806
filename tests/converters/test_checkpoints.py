"""One reader for every container: the weights in it, under torch's names and axes, and the rest."""

import argparse
import collections
import gzip
import importlib
import io
import json
import pathlib
import sys
import types
import zipfile

import numpy as np
import pytest
import torch
from checkpoint_files import WRITERS, keras_archive, keras_h5, script, state, zipped
from safetensors.torch import save_file, save_model
from torch import nn

from converters.checkpoints import (
    MemoryBudget,
    fitted,
    read_checkpoint,
    read_layout,
    read_table,
    unwrapped,
)
from converters.from_modules import to_architecture
from nngraph.errors import DataFileError, InvalidGraphError, MissingDependencyError

RNG = np.random.default_rng(0)


def same(found, expected):
    return found.keys() == dict(expected).keys() and all(
        torch.equal(found[key], value) for key, value in expected.items()
    )


@pytest.mark.parametrize("ending", ["a.pt", "a.pth.tar", "a.bin", "a.ckpt", "a", "a.safetensors"])
@pytest.mark.parametrize("kind", WRITERS)
def test_every_container_gives_the_same_tensors(tmp_path, kind, ending):
    WRITERS[kind](state(), tmp_path / ending)
    found = read_checkpoint(tmp_path / ending)
    assert same(found.tensors, state())
    assert found.container == kind.split()[0]


DTYPES = [
    torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.int64, torch.int32,
    torch.int16, torch.int8, torch.uint8, torch.bool, torch.float8_e4m3fn, torch.uint16,
]  # fmt: skip


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_torch_files_give_what_torch_gives(tmp_path, dtype, old):
    values = {
        "a": torch.arange(12).reshape(3, 4).to(dtype),
        "t": torch.arange(12).reshape(3, 4).to(dtype).t(),
        "none": torch.empty(0, 3, dtype=dtype),
        "scalar": torch.tensor(1, dtype=dtype),
        "part": torch.arange(100).to(dtype)[10:90:7],
    }
    values["tied"] = values["a"]
    torch.save(values, tmp_path / "a.pt", _use_new_zipfile_serialization=not old)
    found = read_checkpoint(tmp_path / "a.pt")
    assert found.tied == (("a", "tied"),)
    for name, value in values.items():  # torch.load reads no uint16 of the old form itself
        got = found.tensors[name]
        assert (got.dtype, got.shape, got.stride()) == (value.dtype, value.shape, value.stride())
        assert torch.equal(got.float() if dtype.itemsize < 2 else got,
                           value.float() if dtype.itemsize < 2 else value)  # fmt: skip


def test_parameters_and_buffers_are_read(tmp_path):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    torch.save({"state_dict": dict(model.named_parameters())}, tmp_path / "a.pt")
    assert same(read_checkpoint(tmp_path / "a.pt").tensors, dict(model.named_parameters()))
    torch.save(model.state_dict(), tmp_path / "b.pt")
    assert same(read_checkpoint(tmp_path / "b.pt").tensors, model.state_dict())


# -- nesting ---------------------------------------------------------------------------------------


def trained():
    model = nn.Linear(2, 2)
    optimiser = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimiser.step()
    return {
        "epoch": 7,
        "model": model.state_dict(),
        "ema": {name: value + 1 for name, value in model.state_dict().items()},
        "optimizer": optimiser.state_dict(),
        "best": torch.tensor(0.5),
        "args": argparse.Namespace(lr=0.1, path=pathlib.PurePosixPath("/data/x"), sizes=[1, 2]),
        "metrics": {"acc": np.float64(0.75), "step": np.int64(3)},
        "scheduler": collections.defaultdict(list, {"last": [1]}),
    }


def test_what_lies_beside_the_weights_is_told(tmp_path):
    held = trained()
    torch.save(held, tmp_path / "a.pt")
    found = read_checkpoint(tmp_path / "a.pt")
    assert same(found.tensors, held["model"])
    assert found.nested == ("model",)
    assert found.aside == {"ema": 2, "optimizer": 6}
    expected = {"epoch": 7, "best": 0.5, "args.lr": 0.1, "args.path": "/data/x",
                "args.sizes": "1,2", "metrics.acc": 0.75, "metrics.step": 3}  # fmt: skip
    assert expected.items() <= found.facts.items()
    ema = read_checkpoint(tmp_path / "a.pt", nested="ema")
    assert same(ema.tensors, held["ema"])
    assert ema.aside["model"] == 2


def test_state_dicts_side_by_side_are_named_or_joined(tmp_path):
    torch.save({"gan": {"g": state(), "d": state(1)}, "step": 1}, tmp_path / "a.pt")
    for words in ("'g', 'd'", "nested="):
        with pytest.raises(DataFileError, match=words):
            read_checkpoint(tmp_path / "a.pt", nested="gan")
    assert same(read_checkpoint(tmp_path / "a.pt", nested="gan/d").tensors, state(1))
    both = read_checkpoint(tmp_path / "a.pt", nested="gan/*")
    assert same(both.tensors, {f"{k}.{n}": v for k, i in (("g", 0), ("d", 1))
                               for n, v in state(i).items()})  # fmt: skip
    with pytest.raises(DataFileError, match=r"nothing under 'ema'.*it has 'gan', 'step'"):
        read_checkpoint(tmp_path / "a.pt", nested="ema")


def test_numbers_among_tensors_and_extra_states_are_left_aside(tmp_path):
    torch.save({**state(), "epoch": 3, "0._extra_state": {"scale": torch.ones(1)}}, tmp_path / "a")
    found = read_checkpoint(tmp_path / "a")
    assert same(found.tensors, state())
    assert found.facts == {"epoch": 3}


def test_arrays_of_numpy_within_torch_files_are_tensors(tmp_path):
    held = {"w": np.arange(6.0).reshape(2, 3), "b": np.asfortranarray(np.ones((2, 3), ">f4"))}
    torch.save({"params": held, "t": torch.ones(1)}, tmp_path / "a.pt", pickle_protocol=2)
    found = read_checkpoint(tmp_path / "a.pt").tensors
    assert same(found, {"w": torch.arange(6.0).double().reshape(2, 3), "b": torch.ones(2, 3)})


def test_what_holds_itself_is_read_to_an_end(tmp_path):
    held = {"model": None, "x": []}
    held["model"] = held
    held["x"].append(held)
    torch.save(held, tmp_path / "a.pt")
    with pytest.raises(DataFileError, match="nothing under 'model'"):
        read_checkpoint(tmp_path / "a.pt")


class Config:
    """A class of the user's own."""

    def __init__(self, width):
        self.width = width

    def __reduce__(self):
        return Config, (self.width,), {"width": self.width}


def test_other_classes_are_refused_until_they_are_named(tmp_path, monkeypatch):
    torch.save({"model": state(), "config": Config(8)}, tmp_path / "a.pt")
    with pytest.raises(DataFileError, match=rf"object of {__name__}\.Config; .*records="):
        read_checkpoint(tmp_path / "a.pt")
    monkeypatch.setattr(Config, "__init__", None)  # it is never called
    found = read_checkpoint(tmp_path / "a.pt", records=[f"{__name__}.Config"])
    assert found.facts == {"config.width": 8}
    torch.save(nn.Linear(2, 1), tmp_path / "m.pt")
    with pytest.raises(DataFileError, match=r"holds an object of torch.nn.modules.linear.Linear"):
        read_checkpoint(tmp_path / "m.pt")


def omega(value):
    """What omegaconf's containers and leaves put into a pickle."""
    if isinstance(value, dict):
        inner = {"_content": {k: omega(v) for k, v in value.items()}, "_metadata": None}
        return fake("omegaconf.dictconfig", "DictConfig", inner)
    return fake("omegaconf.nodes", "AnyNode", {"_val": value})


def fake(module, name, inner):
    kind = getattr(sys.modules[module], name, None)
    if kind is None:
        kind = type(name, (), {"__module__": module, "__qualname__": name})
        setattr(sys.modules[module], name, kind)
    made = kind()
    made.__dict__.update(inner)
    return made


def test_settings_of_other_libraries_are_read_without_them(tmp_path, monkeypatch):
    for name in ("omegaconf", "omegaconf.dictconfig", "omegaconf.nodes"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    held = {"state_dict": state(), "hyper_parameters": omega({"width": 8, "opt": {"lr": 0.1}})}
    torch.save(held, tmp_path / "a.ckpt")
    for name in ("omegaconf.dictconfig", "omegaconf.nodes"):
        monkeypatch.delitem(sys.modules, name)
    facts = read_checkpoint(tmp_path / "a.ckpt").facts
    assert facts == {"hyper_parameters.width": 8, "hyper_parameters.opt.lr": 0.1}


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (lambda: torch.ones(2, 2).to_sparse(), "sparse tensor"),
        (lambda: torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.qint8), "quantised tensor"),
        (lambda: torch.ones(2, device="meta"), "without numbers"),
        (lambda: torch.ones(2, dtype=torch.complex64).conj(), "resolve_conj"),
        (lambda: torch.zeros(1).expand(10**12), "more than are stored"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_other_tensors_are_named(tmp_path, tensor, words):
    torch.save({"a": tensor()}, tmp_path / "a.pt")
    with pytest.raises(DataFileError, match=words):
        read_checkpoint(tmp_path / "a.pt")


def test_a_small_file_cannot_claim_memory(tmp_path):
    def text(words):
        return b"X" + len(words).to_bytes(4, "little") + words.encode()

    made = text("a" * 64)
    for codec in ("latin1", *["hex"] * 40):
        made = b"c_codecs\nencode\n" + made + text(codec) + b"\x86R"
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}" + text("a") + made + b"s.")
        archive.writestr("a/version", "3\n")
    with pytest.raises(DataFileError, match="'a' is a Record"):
        read_checkpoint(tmp_path / "a.pt")


# -- names -----------------------------------------------------------------------------------------


def network():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2))


@pytest.fixture(scope="module")
def architecture():
    return to_architecture(network().eval(), torch.randn(2, 1, 4, 4))


@pytest.mark.parametrize(
    ("rename", "prefix"),
    [
        (lambda n: n, ""),
        (lambda n: f"module.{n}", "module."),
        (lambda n: f"_orig_mod.module.{n}", "_orig_mod.module."),
        (lambda n: f"model.net.{n}", "model.net."),
        (lambda n: n.replace(".", "._orig_mod.", 1), ""),
        (lambda n: f"model.{n}".replace("0.", "0.module."), "model."),
    ],
    ids=["as it is", "DDP", "compiled DDP", "lightning", "compiled parts", "both"],
)
def test_prefixes_go_where_that_makes_them_fit(architecture, rename, prefix):
    values = network().state_dict()
    found = fitted({rename(name): value for name, value in values.items()}, architecture)
    assert same(found.tensors, values)
    assert (found.prefix, found.aside) == (prefix, ())


def test_other_modules_and_buffers_are_left_aside(architecture):
    values = {f"net.{name}": value for name, value in network().state_dict().items()}
    extra = {"loss.weight": torch.ones(3), "net.ids": torch.arange(3)}
    found = fitted({**values, **extra}, architecture)
    assert (len(found.tensors), found.aside) == (9, ("loss.weight", "net.ids"))
    with pytest.raises(InvalidGraphError, match=r"1 tensors that the architecture has not, 'more'"):
        fitted({**values, "net.more": torch.ones(1)}, architecture)


def test_two_networks_in_one_file_are_told_apart(architecture):
    one, two = network().state_dict(), network().state_dict()
    both = {**{f"net.{n}": v for n, v in one.items()}, **{f"ema.{n}": v for n, v in two.items()}}
    with pytest.raises(InvalidGraphError, match=r"fits under 'ema\.', 'net\.'"):
        fitted(both, architecture)
    assert same(fitted(both, architecture, "ema.").tensors, two)


def test_what_is_missing_is_named(architecture):
    values = network().state_dict()
    del values["0.bias"]
    values["3.bias"] = torch.ones(5)
    words = r"'0.bias' \(2,\) is missing; '3.bias' has shape \(5,\) in place of \(2,\)"
    with pytest.raises(InvalidGraphError, match=words):
        fitted(values, architecture)


def test_wrappers_around_all_names_go_without_an_architecture():
    assert same(unwrapped({f"module.{n}": v for n, v in state().items()}), state())
    assert list(unwrapped({"module.a": torch.ones(1), "b": torch.ones(1)})) == ["module.a", "b"]


def test_tied_weights_of_safetensors_have_all_their_names(tmp_path):
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    save_model(model, str(tmp_path / "a.safetensors"))
    found = read_checkpoint(tmp_path / "a.safetensors")
    assert same(found.tensors, model.state_dict())
    assert found.tied == (("1.weight", "0.weight"),)


# -- arrays ----------------------------------------------------------------------------------------


def write_layout(path, rows):
    lines = ["varname,start_idx,end_idx,size,shape"]
    start = 0
    for name, shape in rows:
        size = int(np.prod(shape))
        lines.append(f'{name},{start},{start + size},{size},"{shape}"')
        start += size
    path.write_text("\n".join(lines) + "\n")
    return start


def test_a_single_array_is_read_by_its_layout(tmp_path):
    rows = [("sequential/conv2d/bias:0", (4,)), ("sequential/conv2d/kernel:0", (3, 2, 1, 4)),
            ("sequential/dense/kernel:0", (4, 10))]  # fmt: skip
    count = write_layout(tmp_path / "layout.csv", rows)
    values = np.arange(5.0 * count, dtype=np.float32).reshape(5, count)
    np.save(tmp_path / "weights.npy", values)
    with pytest.raises(DataFileError, match="layout="):
        read_checkpoint(tmp_path / "weights.npy")
    found = read_checkpoint(tmp_path / "weights.npy", layout=tmp_path / "layout.csv").tensors
    assert list(found) == ["conv2d.bias", "conv2d.weight", "dense.weight"]
    kernel = values[:, 4:28].reshape(5, 3, 2, 1, 4)
    for net in range(5):
        for out in range(4):
            for tap in ((0, 0), (2, 1)):
                assert found["conv2d.weight"][net, out, 0][tap] == kernel[(net, *tap, 0, out)]
    assert np.array_equal(found["dense.weight"][2], values[2, 28:].reshape(4, 10).T)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n1,2\n", "expected 'varname'"),
        ("varname,start_idx,shape\nw,x,'2'\n", "row 1"),
        ("varname,start_idx,end_idx,shape\nw,0,3,2\n", "row 1"),
        ("varname,start_idx,shape\nb,0,\nw/kernel:0,1,2\n", "row 2"),
        ("varname,start_idx,shape\nw,0,2\nw,2,2\n", "same name"),
        ("varname,start_idx,shape\nw,0\n", "row 1 has 2 cells; expected 3"),
        ("\x00\x01", "row|table|columns"),
    ],
)
def test_a_layout_that_makes_no_sense_is_refused(tmp_path, text, words):
    (tmp_path / "layout.csv").write_text(text)
    with pytest.raises(DataFileError, match=words):
        read_layout(tmp_path / "layout.csv", MemoryBudget())


def test_one_row_is_read_and_other_numbers_than_torch_has_are_refused(tmp_path):
    (tmp_path / "layout.csv").write_text("name,start,shape\nscale,0,()\nb,1,(2)\n")
    np.save(tmp_path / "a.npy", np.arange(3.0))
    found = read_checkpoint(tmp_path / "a.npy", layout=tmp_path / "layout.csv").tensors
    assert same(found, {"scale": torch.tensor(0.0).double(), "b": torch.tensor([1.0, 2]).double()})
    (tmp_path / "twice.csv").write_text("name,start,shape\na,0,3\nb,0,3\n")
    with pytest.raises(DataFileError, match="its layout is of 6 numbers"):
        read_checkpoint(tmp_path / "a.npy", layout=tmp_path / "twice.csv")
    np.save(tmp_path / "a.npy", np.arange(3, dtype=np.longdouble))
    with pytest.raises(DataFileError, match="no array of torch's numbers"):
        read_checkpoint(tmp_path / "a.npy", layout=tmp_path / "layout.csv")


def test_arrays_of_objects_and_false_shapes_are_refused(tmp_path):
    np.savez(tmp_path / "o.npz", a=np.array([{}], object))
    with pytest.raises(DataFileError, match="no numbers"):
        read_checkpoint(tmp_path / "o.npz")
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": "<f4", "fortran_order": False, "shape": (10**9, 10**9)}
    )
    with zipfile.ZipFile(tmp_path / "c.npz", "w") as archive:
        archive.writestr("a.npy", stream.getvalue())
    with pytest.raises(DataFileError, match="not as long as it says"):
        read_checkpoint(tmp_path / "c.npz")


# -- gguf ------------------------------------------------------------------------------------------


def test_gguf_of_plain_numbers_is_read(tmp_path):
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "llama")
    writer.add_uint32("depth", 3)
    writer.add_array("tokens", ["a", "bc"])
    expected = {"w": torch.arange(6.0).reshape(2, 3), "h": torch.ones(4, 2).half()}
    for name, value in expected.items():
        writer.add_tensor(name, value.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = read_checkpoint(tmp_path / "a.gguf")
    assert same(found.tensors, expected)
    assert found.facts == {"general.architecture": "llama", "depth": 3}


def test_quantised_gguf_is_refused_by_name(tmp_path):
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "llama")
    data = gguf.quants.quantize(np.ones((2, 32), np.float32), gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("blk.0.w", data, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(DataFileError, match=r"'blk.0.w' is quantised, as Q8_0"):
        read_checkpoint(tmp_path / "a.gguf")


# -- Keras -----------------------------------------------------------------------------------------


def convolved(kernel, bias, image):
    """A convolution of Keras, ``[h, w, c]`` to ``[h', w', c']``, written out."""
    window = kernel.shape[:2]
    sizes = [image.shape[i] - window[i] + 1 for i in (0, 1)]
    out = np.zeros((*sizes, kernel.shape[3]))
    for y in range(sizes[0]):
        for x in range(sizes[1]):
            patch = image[y : y + window[0], x : x + window[1]]
            out[y, x] = np.tensordot(patch, kernel, 3) + bias
    return out


@pytest.mark.parametrize("form", ["weights.h5", "keras", "keras 2", "whole keras 2"])
def test_keras_computes_the_same_in_torch(tmp_path, form):
    pytest.importorskip("h5py")
    layers = {
        "conv2d": (RNG.standard_normal((3, 2, 1, 4)), RNG.standard_normal(4)),
        "conv2d_1": (RNG.standard_normal((2, 2, 4, 3)), RNG.standard_normal(3)),
        "dense": (RNG.standard_normal((12, 5)), RNG.standard_normal(5)),
    }
    path = tmp_path / "a.any"
    if form == "keras":
        path.write_bytes(keras_archive(layers, flattened=(None, 2, 2, 3)))
    else:
        path.write_bytes(keras_h5(layers, form))
    found = read_checkpoint(path)
    assert found.aside == ({"optimizer": 1} if form != "keras 2" else {})
    image = RNG.standard_normal((5, 4, 1))
    expected = image
    for kernel, bias in list(layers.values())[:2]:
        expected = convolved(kernel, bias, expected)
    kernel, bias = layers["dense"]
    expected = expected.reshape(-1) @ kernel + bias
    net = nn.Sequential(collections.OrderedDict(
        conv2d=nn.Conv2d(1, 4, (3, 2)), conv2d_1=nn.Conv2d(4, 3, 2), flatten=nn.Flatten(),
        dense=nn.Linear(12, 5),
    )).double()  # fmt: skip
    net.load_state_dict(found.tensors)
    hidden = net[1](net[0](torch.from_numpy(image).permute(2, 0, 1)[None]))
    if form == "keras":
        assert found.notes == ()
    else:
        assert "height, width, channel" in found.notes[0]
        hidden = hidden.permute(0, 2, 3, 1)
    assert np.allclose(net[3](hidden.flatten(1)).detach()[0], expected)


def test_other_layers_of_keras_are_refused_by_name(tmp_path):
    pytest.importorskip("h5py")
    layers = {"lstm": (np.ones((2, 8)), np.ones(8))}
    (tmp_path / "a.h5").write_bytes(keras_h5(layers, "weights.h5"))
    with pytest.raises(DataFileError, match="a layer 'lstm'"):
        read_checkpoint(tmp_path / "a.h5")
    (tmp_path / "b.h5").write_bytes(keras_h5({"conv2d_transpose": layers["lstm"]}, "keras 2"))
    with pytest.raises(DataFileError, match="a layer 'conv2d_transpose'"):
        read_checkpoint(tmp_path / "b.h5")


def test_the_order_of_inputs_is_left_where_the_archive_does_not_tell_it(tmp_path):
    pytest.importorskip("h5py")
    layers = {"conv2d": (np.ones((3, 3, 1, 3)), np.ones(3)),
              "dense": (RNG.standard_normal((12, 5)), np.ones(5))}  # fmt: skip
    for how in ({"class_name": "Functional"}, {"data_format": "channels_first"}):
        (tmp_path / "a.keras").write_bytes(keras_archive(layers, (None, 2, 2, 3), **how))
        found = read_checkpoint(tmp_path / "a.keras")
        assert np.array_equal(found.tensors["dense.weight"], layers["dense"][0].T)
        assert "height, width, channel" in found.notes[0]


def test_batch_norms_have_all_their_tensors(tmp_path):
    pytest.importorskip("h5py")
    values = tuple(np.full(2, i) for i in range(4))
    (tmp_path / "a.h5").write_bytes(keras_h5({"batch_normalization": values}, "weights.h5"))
    found = read_checkpoint(tmp_path / "a.h5").tensors
    kinds = ("weight", "bias", "running_mean", "running_var")
    assert {f"batch_normalization.{kind}": i for i, kind in enumerate(kinds)} == {
        name: int(value[0]) for name, value in found.items()
    }
    (tmp_path / "b.h5").write_bytes(keras_h5({"batch_normalization": values[:3]}, "weights.h5"))
    with pytest.raises(DataFileError, match="without scale or centre"):
        read_checkpoint(tmp_path / "b.h5")


def test_hdf5_does_not_lead_to_other_files(tmp_path):
    h5py = pytest.importorskip("h5py")
    (tmp_path / "secret").write_bytes(bytes(64))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        group = file.create_group("layers/dense/vars")
        place = [(str(tmp_path / "secret"), 0, 32)]
        group.create_dataset("0", (2, 4), "f4", external=place)
    with pytest.raises(DataFileError, match="no numbers of the file itself"):
        read_checkpoint(tmp_path / "a.h5")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["layers"] = h5py.ExternalLink("a.h5", "/layers")
    with pytest.raises(DataFileError, match="without layers of Keras"):
        read_checkpoint(tmp_path / "b.h5")


# -- folders ---------------------------------------------------------------------------------------


def checkout(folder, form):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "mlp", "sizes": {"hidden": 4}}))
    if form == "sharded":
        places = {name: f"part-{i % 2}.safetensors" for i, name in enumerate(state())}
        for file in set(places.values()):
            save_file({n: v for n, v in state().items() if places[n] == file}, folder / file)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    elif form == "bin":
        torch.save(state(), folder / "pytorch_model.bin")
    else:
        save_file(state(), folder / "model.safetensors")
        torch.save(state(1), folder / "pytorch_model.bin")
    return folder


@pytest.mark.parametrize("form", ["whole", "sharded", "bin"])
def test_a_checkout_is_one_checkpoint(tmp_path, form):
    found = read_checkpoint(checkout(tmp_path / "mlp", form))
    assert same(found.tensors, state())
    assert found.facts == {"model_type": "mlp", "sizes.hidden": 4}


def test_the_cache_of_hugging_face_is_entered(tmp_path):
    checkout(tmp_path / "models--a--b" / "snapshots" / "123", "whole")
    checkout(tmp_path / "models--a--b" / "snapshots" / "456", "bin")
    (tmp_path / "models--a--b" / "refs").mkdir()
    with pytest.raises(DataFileError, match="2 snapshots"):
        read_checkpoint(tmp_path / "models--a--b")
    (tmp_path / "models--a--b" / "refs" / "main").write_text("456")
    assert read_checkpoint(tmp_path / "models--a--b").container == "torch"


def test_addresses_of_the_hub_are_fetched(tmp_path, monkeypatch):
    calls = []
    hub = types.ModuleType("huggingface_hub")

    def snapshot_download(repository, revision, allow_patterns):
        calls.append((repository, revision, allow_patterns))
        return str(tmp_path / "mlp")

    hub.snapshot_download = snapshot_download
    hub.hf_hub_download = lambda repository, inner, revision: str(tmp_path / "mlp" / inner)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    checkout(tmp_path / "mlp", "whole")
    assert same(read_checkpoint("hf://owner/mlp@v1").tensors, state())
    assert calls == [("owner/mlp", "v1", ["*.safetensors", "*.json"])]
    assert same(read_checkpoint("hf://owner/mlp/pytorch_model.bin").tensors, state(1))
    for address in ("hf://owner", "hf://owner/mlp/../../etc/passwd", "hf://"):
        with pytest.raises(DataFileError, match="is no address"):
            read_checkpoint(address)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'nngraph\[hub\]'"):
        read_checkpoint("hf://owner/mlp")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "holds no weights"),
        (["a.pt", "b.pt"], r"2 files with weights \(a.pt, b.pt\)"),
        (["flax_model.msgpack"], "Flax only"),
        ([".metadata", "__0_0.distcp"], "dcp_to_torch_save"),
        (["unet/a.safetensors"], "its folders unet do"),
    ],
)
def test_folders_without_one_checkpoint_say_what_they_have(tmp_path, names, words):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataFileError, match=words):
        read_checkpoint(tmp_path)


# -- adapters --------------------------------------------------------------------------------------


def adapter(folder, tensors, **config):
    folder.mkdir()
    named = {f"base_model.model.{name}": value for name, value in tensors.items()}
    save_file(named, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "lora_alpha": 6, "r": 3, **config}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


def test_an_adapter_is_put_into_its_base(tmp_path):
    base = {"model.fc.weight": torch.randn(4, 5), "model.fc.bias": torch.randn(4),
            "model.conv.weight": torch.randn(4, 2, 3, 3), "model.emb.weight": torch.randn(7, 4),
            "model.head.weight": torch.randn(2, 4)}  # fmt: skip
    save_file(base, tmp_path / "base.safetensors")
    a, b = torch.randn(3, 5), torch.randn(4, 3)
    ca, cb = torch.randn(3, 2, 3, 3), torch.randn(4, 3, 1, 1)
    ea, eb = torch.randn(3, 7), torch.randn(4, 3)
    head = torch.randn(2, 4)
    folder = adapter(
        tmp_path / "lora",
        {"fc.lora_A.weight": a, "fc.lora_B.weight": b,
         "conv.lora_A.default.weight": ca, "conv.lora_B.default.weight": cb,
         "emb.lora_embedding_A": ea, "emb.lora_embedding_B": eb,
         "head.modules_to_save.weight": head},
        alpha_pattern={"conv": 12, "(a+)+$": 1},
    )  # fmt: skip
    with pytest.raises(DataFileError, match="Give the base"):
        read_checkpoint(folder)
    found = read_checkpoint(folder, base=tmp_path / "base.safetensors").tensors
    x = torch.randn(2, 5)
    lin = nn.functional.linear
    expected = lin(x, base["model.fc.weight"]) + 2 * lin(lin(x, a), b)
    assert torch.allclose(lin(x, found["model.fc.weight"]), expected, atol=1e-5)
    image, conv = torch.randn(1, 2, 5, 5), nn.functional.conv2d
    expected = conv(image, base["model.conv.weight"]) + 4 * conv(conv(image, ca), cb)
    assert torch.allclose(conv(image, found["model.conv.weight"]), expected, atol=1e-5)
    row = base["model.emb.weight"][6] + 2 * eb @ ea[:, 6]
    assert torch.allclose(found["model.emb.weight"][6], row, atol=1e-5)
    assert torch.equal(found["model.head.weight"], head)
    assert torch.equal(found["model.fc.bias"], base["model.fc.bias"])


@pytest.mark.parametrize(
    ("tensors", "config", "words"),
    [
        ({"fc.lora_A.weight": torch.ones(3, 5), "fc.lora_B.weight": torch.ones(4, 3)},
         {"peft_type": "IA3"}, "kind 'IA3'"),
        ({"fc.lora_A.weight": torch.ones(3, 5), "fc.lora_B.weight": torch.ones(4, 3)},
         {"use_dora": True}, "kind 'DoRA'"),
        ({"fc.lora_A.weight": torch.ones(3, 5)}, {}, "one of lora_A and lora_B"),
        ({"fc.lora_A.weight": torch.ones(3, 5), "fc.lora_B.weight": torch.ones(5, 3)}, {},
         "does not fit"),
        ({"fc.lora_A.weight": torch.ones(2, 5), "fc.lora_B.weight": torch.ones(4, 3)}, {},
         "no product"),
        ({"x.lora_A.weight": torch.ones(3, 5), "x.lora_B.weight": torch.ones(4, 3)}, {},
         "which the base does not have"),
        ({"fc.weight": torch.ones(4, 5)}, {}, "no tensors lora_A"),
        ({"fc.lora_A.weight": torch.ones(3, 5), "fc.lora_B.weight": torch.ones(4, 3)},
         {"lora_alpha": "x"}, "lora_alpha = 'x'"),
    ],
)  # fmt: skip
def test_other_adapters_are_refused(tmp_path, tensors, config, words):
    save_file({"fc.weight": torch.ones(4, 5)}, tmp_path / "base.safetensors")
    folder = adapter(tmp_path / "a", tensors, **config)
    with pytest.raises(DataFileError, match=words):
        read_checkpoint(folder, base=tmp_path / "base.safetensors")


def test_a_base_is_for_adapters_only(tmp_path):
    save_file(state(), tmp_path / "a.safetensors")
    with pytest.raises(DataFileError, match="no folder of an adapter"):
        read_checkpoint(tmp_path / "a.safetensors", base=tmp_path / "a.safetensors")


# -- what is not read ------------------------------------------------------------------------------

REFUSED = {
    "TorchScript": (script, "TorchScript archive, which holds code"),
    "exported": (lambda: zipped("m/archive_format", "m/models/model.json"), "torch.export.load"),
    "git-lfs": (
        lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        "git-lfs pointer, .*git lfs pull",
    ),
    "7-Zip": (lambda: b"7z\xbc\xaf\x27\x1c" + bytes(99), "7-Zip; unpack it"),
    "parquet": (lambda: b"PAR1" + bytes(99), "parquet table"),
    "tflite": (lambda: b"\x1c\0\0\0TFL3" + bytes(99), "TensorFlow Lite"),
    "MATLAB": (lambda: b"MATLAB 5.0 MAT-file" + bytes(99), "MATLAB"),
    "ONNX": (lambda: b"\x08\x08\x12\x07pytorch" + bytes(99), "load_onnx"),
    "zip": (lambda: zipped("readme.txt"), r"without the 'data\.pkl'"),
    "pickle": (lambda: b"\x80\x04\x95\x10\0\0\0\0\0\0\0}\x94.", "does not begin as one"),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore:.*TorchScript")
@pytest.mark.parametrize("kind", REFUSED)
def test_other_files_are_named_and_say_what_to_do(tmp_path, kind):
    content, words = REFUSED[kind]
    (tmp_path / "a.bin").write_bytes(content())
    with pytest.raises(DataFileError, match=words) as caught:
        read_checkpoint(tmp_path / "a.bin")
    assert str(tmp_path / "a.bin") in str(caught.value)


def test_missing_packages_are_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    (tmp_path / "a.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99))
    with pytest.raises(MissingDependencyError, match=r"nngraph\[keras\]"):
        read_checkpoint(tmp_path / "a.h5")


# -- tables ----------------------------------------------------------------------------------------


TABLES = ["csv", "tsv", "csv.gz", "json", "jsonl", "columns.json", "parquet"]


@pytest.mark.parametrize("ending", TABLES)
def test_tables_of_all_kinds_say_the_same(tmp_path, ending):
    columns = {"file": ["a.pt", "b,\"c\".pt", "d.pt"], "acc": [0.5, None, 1.0], "width": [4, 8, 16],
               "note": ["", "é", "x"]}  # fmt: skip
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    path = tmp_path / f"facts.{ending}"
    if ending == "parquet":
        pytest.importorskip("pyarrow")
        importlib.import_module("pyarrow.parquet").write_table(
            importlib.import_module("pyarrow").table(columns), path
        )
    elif ending == "json":
        path.write_text(json.dumps(rows))
    elif ending == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    elif ending == "columns.json":
        path.write_text(json.dumps(columns))
    else:
        comma = "\t" if ending == "tsv" else ","
        cells = [["" if v is None else '"' + str(v).replace('"', '""') + '"' for v in row.values()]
                 for row in rows]  # fmt: skip
        text = "\r\n".join(comma.join(line) for line in [list(columns), *cells]) + "\r\n"
        data = text.encode()
        path.write_bytes(gzip.compress(data) if ending == "csv.gz" else data)
    found = read_table(path)
    if ending in ("csv", "tsv", "csv.gz"):
        columns["note"][0] = None
    assert found == columns
    assert [type(v) for v in found["width"]] == [int] * 3
