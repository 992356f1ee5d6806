"""One command line, from its arguments to its exit code."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence

from jsonargparse import ArgumentError, Namespace

from nngraph.cli.parsers import COMMANDS, build_parser
from nngraph.errors import NNGraphError

__all__ = ["main"]

OK, FAILED, MISTAKE, INTERRUPTED, PIPE_CLOSED = 0, 1, 2, 130, 141
#: Commands that go on where they were stopped when they are given again.
_RESUMABLE = (
    "demo", "zoo fit", "zoo train", "zoo merge", "zoo filter", "zoo import", "train",
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code.

    0: done; 1: the check that was asked for failed; 2: wrong usage or another mistake of the user,
    told in one line on stderr; 130: interrupted by Ctrl-C; 141: nobody reads the output any more.

    Args:
        arguments: without the name of the program; default those of the process.
    """
    # Idle OpenMP threads that spin slow small products down many times. Read once, when torch is
    # imported, which the commands do.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    given = list(sys.argv[1:] if arguments is None else arguments)
    command = ""
    try:
        options = _parse(given)
        command = options.command
        if action := options[command].get("action"):
            command, options = f"{command} {action}", options[options.command][action]
        else:
            options = options[command]
        code = _run(command, options)
        sys.stdout.flush()
        return code
    except ArgumentError as error:
        return _mistake(_usage(error, _command_of(given)))
    except NNGraphError as error:
        return _mistake(error)
    except BrokenPipeError:
        # Python would complain once more when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except OSError as error:
        where = "" if error.filename is None else f"{error.filename}: "
        return _mistake(f"{where}{error.strerror or error}.")
    except KeyboardInterrupt:
        hint = " Run the same command again to go on from here." if command in _RESUMABLE else ""
        print(f"\nnngraph: interrupted.{hint}", file=sys.stderr)
        return INTERRUPTED
    except SystemExit as stop:  # --help and --version
        return stop.code if isinstance(stop.code, int) else MISTAKE


def _parse(given: list[str]) -> Namespace:
    # Options are spelt as the library spells its arguments; --batch-size is --batch_size.
    spelt = [
        re.sub(r"^--[\w-]+", lambda m: "--" + m[0][2:].replace("-", "_"), word) for word in given
    ]
    return build_parser(given[0] if given else None).parse_args(spelt)


def _run(command: str, options: Namespace) -> int:
    # Imported here: torch takes seconds, and --help does not need it.
    import torch

    from nngraph.cli import commands

    before = torch.get_num_threads()
    try:
        threads = options.get("threads")
        if threads is not None and threads < 1:
            raise ArgumentError(None, f"--threads is {threads}; expected at least 1.")
        torch.set_num_threads(threads or commands.default_threads(command))
        return commands.RUN[command](options)
    finally:
        torch.set_num_threads(before)


def _command_of(given: list[str]) -> list[str]:
    """Return the words of the command line that name the command, as far as they do."""
    if not given or given[0] not in COMMANDS:
        return []
    actions = COMMANDS[given[0]]
    return given[:2] if len(given) > 1 and given[1] in actions else given[:1]


def _usage(error: ArgumentError, command: list[str]) -> str:
    """Return what is wrong with a command line, in the words of the command line."""
    text = str(error).strip().rstrip(".")
    text = re.sub(r'^Parser key "(?:[\w.]+\.)?(\w+)"( element \d+)?:', r"--\1\2:", text)
    text = re.sub(r"Expected an? (?:<class '(\w+)'>|typing.Literal)", r"expected \1", text)
    text = text.replace("expected [", "expected one of [")
    text = re.sub(r"[.]?\s+Got value:", ", got", text)
    if missing := re.match(r"the following arguments are required: (.*)", text):
        names = [name.rpartition(".")[2] for name in missing[1].split(", ")]
        text = f"missing: {', '.join(names)}"
    elif missing := re.match(r"expected \"[\w.]+\" to be one of {(.*)}", text):
        known = COMMANDS[command[0]] if command else COMMANDS
        text = f"a command is missing; expected one of {', '.join(known)}"
    return f"{text}. See {' '.join(['nngraph', *command, '--help'])}."


def _mistake(error: object) -> int:
    print("nngraph: error: " + " ".join(str(error).split()), file=sys.stderr)
    return MISTAKE
