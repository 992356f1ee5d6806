"""Names of ONNX tensors as names of torch parameters, and back."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import unquote

from torch import nn


def state_dict_keys(names: Iterable[str], root: nn.Module) -> dict[str, str]:
    """Give each tensor of a file its key in the state dict of a module.

    A dot separates submodules, as in torch, so that ``layer1.0.weight`` stays ``layer1.0.weight``;
    slashes, colons and everything else stay as they are. Only what torch cannot hold is written
    with percent signs as in a web address: every ``%`` is ``%25``; a dot that cannot separate,
    since a part beside it would be empty or a tensor is called like the part before it, is ``%2E``;
    and a part that a module already has as an attribute starts with its first letter's code
    (``forward`` is ``%66orward``). :func:`onnx_name` undoes this.

    Args:
        names: distinct names of tensors.
        root: the module that will hold them, before it does.
    """
    names = list(names)
    taken = set(names)
    return {name: _key(name, taken, root) for name in names}


def onnx_name(key: str) -> str:
    """Return the name in the file of the tensor with this key in the state dict."""
    return unquote(key)


def _key(name: str, taken: set[str], root: nn.Module) -> str:
    parts = name.split(".")
    prefixes = {".".join(parts[:count]) for count in range(1, len(parts))}
    if not all(parts) or prefixes & taken:
        parts = [name]
    holders = [root] + [_PLAIN] * (len(parts) - 1)
    return ".".join(_part(part, holder) for part, holder in zip(parts, holders, strict=True))


#: What the submodules that hold parameters are: modules with nothing of their own.
_PLAIN = nn.Module()


def _part(part: str, holder: nn.Module) -> str:
    text = part.replace("%", "%25").replace(".", "%2E")
    if hasattr(holder, text):
        return "".join(f"%{byte:02X}" for byte in text[0].encode()) + text[1:]
    return text
