"""Small checkpoints in every container, as bytes, for tests and for the fuzz."""

import io
import json
import zipfile

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn


def state(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1)).state_dict()


def archive(tensors):
    stream = io.BytesIO()
    np.savez(stream, **{key: value.numpy() for key, value in tensors.items()})
    return stream.getvalue()


#: Writers by the name of the container, and what sets them apart.
WRITERS = {
    "torch": torch.save,
    "torch before 1.6": lambda s, p: torch.save(s, p, _use_new_zipfile_serialization=False),
    "safetensors": save_file,
    "npz": lambda s, p: p.write_bytes(archive(s)),
}


def zipped(*names):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for name in names:
            file.writestr(name, b"{}")
    return stream.getvalue()


def script():
    stream = io.BytesIO()
    torch.jit.save(torch.jit.script(nn.Linear(2, 1)), stream)
    return stream.getvalue()


def keras_h5(layers, form):
    """What Keras 3 (``weights.h5``), 2 or 2 with the model writes of layers with two tensors."""
    import h5py

    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        if form == "weights.h5":
            for name, values in layers.items():
                for i, value in enumerate(values):
                    file[f"layers/{name}/vars/{i}"] = value
            file.create_group("layers/flatten/vars")
            file["optimizer/vars/0"] = np.ones(2)
        else:
            lead = "model_weights/" if form.startswith("whole") else ""
            for name, values in layers.items():
                for kind, value in zip(("kernel", "bias"), values, strict=True):
                    file[f"{lead}{name}/{name}/{kind}:0"] = value
            if lead:
                file["optimizer_weights/optimizer/iteration:0"] = np.ones(2)
    return stream.getvalue()


def keras_archive(layers, flattened, class_name="Sequential", **settings):
    described = []
    for name in layers:
        kind = {"c": "Conv2D", "d": "Dense"}[name[0]]
        if kind == "Dense":
            described.append({
                "class_name": "Flatten", "config": {}, "build_config": {"input_shape": flattened},
            })  # fmt: skip
        described.append({"class_name": kind, "config": {"name": name, **settings}})
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("metadata.json", "{}")
        file.writestr("config.json", json.dumps({
            "class_name": class_name, "config": {"name": "sequential", "layers": described},
        }))  # fmt: skip
        file.writestr("model.weights.h5", keras_h5(layers, "weights.h5"))
    return stream.getvalue()
