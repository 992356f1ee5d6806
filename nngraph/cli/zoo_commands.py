"""What each command ``nngraph zoo ...`` does: call the library, tell the result."""

from __future__ import annotations

from collections.abc import Callable

from jsonargparse import Namespace

from nngraph.cli.common import tell
from nngraph.cli.zoo_fitting import zoo_fit
from nngraph.cli.zoo_words import tell_zoo
from nngraph.zoo import Zoo, filter_zoo, find_problems, merge_zoos, select

__all__ = ["ZOO_RUN"]


def zoo_info(options: Namespace) -> int:
    """Say what is in a zoo."""
    zoo = Zoo.open(options.path, partial=True)
    if options.verify:
        zoo.verify()
    return tell_zoo(options, zoo)


def zoo_verify(options: Namespace) -> int:
    """Read all of a zoo and name what is wrong."""
    problems = find_problems(options.path)
    tell(
        options, {"path": options.path, "sound": not problems, "problems": problems},
        lambda: "\n".join(problems) or f"{options.path}: everything is as the manifest says",
    )  # fmt: skip
    return 1 if problems else 0


def zoo_merge(options: Namespace) -> int:
    """Merge zoos into a new one."""
    return tell_zoo(options, merge_zoos(options.out, options.zoos))


def zoo_filter(options: Namespace) -> int:
    """Keep some networks of a zoo as a new one."""
    zoo = Zoo.open(options.zoo)
    keep = select(zoo, options.where)
    return tell_zoo(
        options, filter_zoo(options.out, zoo, keep, options.where, options.shard_size)
    )


#: Command -> what it does.
ZOO_RUN: dict[str, Callable[[Namespace], int]] = {
    "zoo fit": zoo_fit,
    "zoo info": zoo_info,
    "zoo verify": zoo_verify,
    "zoo merge": zoo_merge,
    "zoo filter": zoo_filter,
}
