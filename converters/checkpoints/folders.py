"""Folders that are one checkpoint: checkouts of Hugging Face, and what ``hf://`` names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from converters.checkpoints.limits import MAX_TEXT
from nngraph.errors import DataFileError, MissingDependencyError

ADAPTER = "adapter_config.json"
#: Names of whole checkpoints, the safest and completest first.
_WHOLE = (
    "model.safetensors", "model.safetensors.index.json", "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json", "pytorch_model.bin",
    "pytorch_model.bin.index.json", "diffusion_pytorch_model.bin",
)  # fmt: skip
_ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")
_SINGLE = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".npz", ".gguf", ".h5", ".keras")
_ELSEWHERE = {
    "tf_model.h5": "weights of TensorFlow only",
    "flax_model.msgpack": "weights of Flax only",
    ".metadata": "a checkpoint spread over processes; join it first, with "
    "torch.distributed.checkpoint.format_utils.dcp_to_torch_save",
}


def weights_in(folder: Path) -> Path:
    """Return the file, or the index, that holds the weights of a folder.

    A folder of Hugging Face's cache (``models--owner--name``) is entered at its main revision.

    Raises:
        DataFileError: if there are none, or several that are not the parts of one.
    """
    if (folder / "snapshots").is_dir():
        folder = _snapshot(folder)
    names = _ADAPTERS if (folder / ADAPTER).is_file() else _WHOLE
    for name in names:
        if (folder / name).is_file():
            return folder / name
    indices = [file for file in _files(folder) if file.name.endswith(".index.json")]
    single = indices or [file for file in _files(folder) if file.name.endswith(_SINGLE)]
    single = [file for file in single if file.name not in _ELSEWHERE]
    if len(single) == 1:
        return single[0]
    if single:
        shown = ", ".join(file.name for file in single[:5])
        raise DataFileError(
            f"{folder} has {len(single)} files with weights ({shown}); name the one that is meant."
        )
    for name, words in _ELSEWHERE.items():
        if (folder / name).exists():
            raise DataFileError(f"{folder} has {words}.")
    inner = [f.name for f in sorted(folder.iterdir()) if f.is_dir() and any(_weights(f))]
    words = f"; its folders {', '.join(inner[:5])} do" if inner else ""
    raise DataFileError(f"{folder} holds no weights{words}. Expected {', '.join(names)}.")


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.is_file())


def _weights(folder: Path) -> Iterator[Path]:
    return (file for file in folder.iterdir() if file.name.endswith(_SINGLE))


def _snapshot(folder: Path) -> Path:
    revision, held = "", sorted(f for f in (folder / "snapshots").iterdir() if f.is_dir())
    main = folder / "refs" / "main"
    if main.is_file() and main.stat().st_size < MAX_TEXT:
        revision = main.read_text(errors="replace").strip()
    for snapshot in held:
        if snapshot.name == revision or len(held) == 1:
            return snapshot
    raise DataFileError(f"{folder} has {len(held)} snapshots and no main one; name one of them.")


def fetched(address: str) -> Path:
    """Return the local folder or file of ``hf://owner/name[@revision][/path]``.

    Raises:
        DataFileError: if the address makes no sense, or the hub does not give it.
        MissingDependencyError: without huggingface_hub.
    """
    match = re.fullmatch(r"hf://([\w.-]+/[\w.-]+)(?:@([\w.-]+))?(?:/(.+))?", address)
    if match is None or ".." in address:
        raise DataFileError(f"{address!r:.200} is no address; expected hf://owner/name[/path].")
    try:
        import huggingface_hub
    except ImportError:
        raise MissingDependencyError(
            f"{address} is fetched with huggingface_hub, which is not installed. Install it with: "
            "pip install huggingface_hub; or give a folder that was downloaded."
        ) from None
    repository, revision, inner = match.groups()
    try:
        if inner is not None and Path(inner).suffix:
            return Path(huggingface_hub.hf_hub_download(repository, inner, revision=revision))
        lead = f"{inner}/" if inner else ""
        kinds = [f"{lead}*.safetensors", f"{lead}*.json"]
        for patterns in (kinds, [*kinds, f"{lead}*.bin"]):
            local = huggingface_hub.snapshot_download(
                repository, revision=revision, allow_patterns=patterns
            )
            folder = Path(local) / (inner or "")
            if folder.is_dir() and any(_weights(folder)):
                return folder
    except Exception as error:  # of the network, in many kinds
        raise DataFileError(f"{address} cannot be fetched: {error}") from error
    raise DataFileError(f"{address} has no weights in safetensors or torch's own form.")
