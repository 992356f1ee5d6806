"""Folders that are one checkpoint: checkouts of Hugging Face, and what ``hf://`` names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from converters.checkpoints.limits import MAX_TEXT
from nngraph.errors import DataFileError, MissingDependencyError

#: What addresses on Hugging Face begin with.
HUB = "hf://"
ADAPTER = "adapter_config.json"
#: Names of whole checkpoints, the safest and completest first.
_WHOLE = (
    "model.safetensors", "model.safetensors.index.json", "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json", "pytorch_model.bin",
    "pytorch_model.bin.index.json", "diffusion_pytorch_model.bin",
)  # fmt: skip
_ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")
_CACHED = ("models--", "datasets--")
_SINGLE = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".npz", ".gguf", ".h5", ".keras")
_ELSEWHERE = {
    "tf_model.h5": "weights of TensorFlow only",
    "flax_model.msgpack": "weights of Flax only",
    ".metadata": "a checkpoint spread over processes; join it first, with "
    "torch.distributed.checkpoint.format_utils.dcp_to_torch_save",
}


def is_checkout(folder: Path) -> bool:
    """Whether a folder is one checkpoint: of Hugging Face, or an adapter of peft."""
    known = (folder / "config.json").is_file() or is_cached(folder.parent.parent)
    names = _WHOLE if known else ()
    return (folder / ADAPTER).is_file() or any((folder / name).is_file() for name in names)


def is_cached(folder: Path) -> bool:
    """Whether a folder of Hugging Face's cache keeps a repository, ``models--owner--name``."""
    return folder.name.startswith(_CACHED) and (folder / "snapshots").is_dir()


def weights_in(folder: Path) -> Path:
    """Return the file, or the index, that holds the weights of a folder.

    A folder of Hugging Face's cache (``models--owner--name``) is entered at its main revision.

    Raises:
        DataFileError: if there are none, or several that are not the parts of one.
    """
    if (folder / "snapshots").is_dir():
        folder = snapshot_in(folder)
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


def snapshot_in(folder: Path) -> Path:
    """Return what a folder of Hugging Face's cache has of the main revision, or of its only one.

    Raises:
        DataFileError: if there are several, and no main one.
    """
    revision, held = "", sorted(f for f in (folder / "snapshots").iterdir() if f.is_dir())
    main = folder / "refs" / "main"
    if main.is_file() and main.stat().st_size < MAX_TEXT:
        revision = main.read_text(errors="replace").strip()
    for snapshot in held:
        if snapshot.name == revision or len(held) == 1:
            return snapshot
    raise DataFileError(f"{folder} has {len(held)} snapshots and no main one; name one of them.")


def fetched(address: str) -> Path:
    """Return the local folder or file of one checkpoint, ``hf://owner/name[/path][@revision]``.

    Raises:
        DataFileError: if the address makes no sense, or the hub does not give it.
        MissingDependencyError: without huggingface_hub.
    """
    hub = _Hub(address)
    if hub.inner and Path(hub.inner).suffix:
        return hub.file()
    for endings in ((".safetensors", ".json"), (".safetensors", ".json", ".bin")):
        folder = hub.folder(endings)
        if folder.is_dir() and any(_weights(folder)):
            return folder
    raise DataFileError(f"{address} has no weights in safetensors or torch's own form.")


def fetched_folder(address: str, endings: Sequence[str]) -> Path:
    """Return the local folder of ``hf://owner/name[/path][@revision]``, with such files alone.

    ``hf://datasets/owner/name`` is a data set. What was fetched before is not fetched again.

    Raises:
        DataFileError: if the address makes no sense, or the hub does not give it.
        MissingDependencyError: without huggingface_hub.
    """
    hub = _Hub(address)
    if hub.inner.endswith(tuple(endings)):
        return hub.file()
    folder = hub.folder(endings)
    if not folder.is_dir():
        raise DataFileError(f"{address} has no files ending in {', '.join(endings)}.")
    return folder


#: A revision in an address: a branch, a tag, a commit, or a reference such as refs/pr/1.
_REVISION = r"@(refs/\w+/[\w.-]+|[\w.-]+)"


class _Hub:
    """What an address names, and the package that fetches it."""

    def __init__(self, address: str) -> None:
        match = re.fullmatch(
            rf"hf://(datasets/)?([\w.-]+/[\w.-]+)(?:{_REVISION})?(?:/([^@\\]+))?(?:{_REVISION})?",
            address,
        )
        inner = (match[4] or "").rstrip("/") if match else ""
        odd = {"", ".", ".."} & set(inner.split("/")) if inner else ()
        if match is None or ".." in address or odd or (match[3] and match[5]):
            raise DataFileError(
                f"{address!r:.200} is no address; expected hf://owner/name[/path][@revision]."
            )
        try:
            import huggingface_hub
        except ImportError:
            raise MissingDependencyError(
                f"{address} is fetched with huggingface_hub, which is not installed. Install it "
                "with: pip install 'nngraph[hub]' (or pip install huggingface_hub); or give a "
                "folder that was downloaded."
            ) from None
        self.address, self.package, self.inner = address, huggingface_hub, inner
        self.repository = match[2]
        self.options = {"revision": match[3] or match[5]}
        if match[1]:
            self.options["repo_type"] = "dataset"

    def file(self) -> Path:
        with self._told():
            download = self.package.hf_hub_download
            return Path(download(self.repository, self.inner, **self.options))

    def folder(self, endings: Sequence[str]) -> Path:
        lead = f"{self.inner}/" if self.inner else ""
        patterns = [f"{lead}*{ending}" for ending in endings]
        with self._told():
            download = self.package.snapshot_download
            local = download(self.repository, allow_patterns=patterns, **self.options)
        return Path(local) / self.inner

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of the network, in many kinds
            raise DataFileError(f"{self.address} cannot be fetched: {error}") from error
