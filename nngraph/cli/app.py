"""One command line, from its arguments to its exit code."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from jsonargparse import ArgumentError

from nngraph.cli.options.deriving import mistake, options_of
from nngraph.cli.parsers import COMMANDS, build_parser
from nngraph.errors import NNGraphError

MISTAKE, INTERRUPTED, PIPE_CLOSED = 2, 130, 141


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
        command, options = _parse(given)
        code = _run(command, options)
        sys.stdout.flush()
        return code
    except ArgumentError as error:
        return _refused(_usage(error, given))
    except NNGraphError as error:
        return _refused(error)
    except BrokenPipeError:
        # Python would complain once more when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except OSError as error:
        where = "" if error.filename is None else f"{error.filename}: "
        return _refused(f"{where}{error.strerror or error}.")
    except KeyboardInterrupt:
        again = command in COMMANDS and COMMANDS[command].resumes
        hint = " Run the same command again to go on from here." if again else ""
        print(f"\nnngraph: interrupted.{hint}", file=sys.stderr)
        return INTERRUPTED
    except SystemExit as stop:  # --help and --version
        return stop.code if isinstance(stop.code, int) else MISTAKE


def _parse(given: list[str]) -> tuple[str, Any]:
    """Return the name of a command and its options."""
    # Options are spelt as the library spells its arguments; --batch-size is --batch_size.
    spelt = [
        re.sub(r"^--[\w-]+", lambda m: "--" + m[0][2:].replace("-", "_"), word) for word in given
    ]
    found = build_parser(given[0] if given else None).parse_args(spelt)
    name, values = found.command, found[found.command]
    if action := values.get("action"):
        name, values = f"{name} {action}", values[action]
    return name, options_of(COMMANDS[name].options, values)


def _run(command: str, options: Any) -> int:
    # Imported here: torch takes seconds, and --help does not need it.
    import torch

    module, _, name = COMMANDS[command].function.partition(":")
    function = getattr(import_module(f"nngraph.cli.{module}"), name)
    before = torch.get_num_threads()
    try:
        threads = getattr(options, "threads", None)
        if threads is not None and threads < 1:
            raise mistake(f"--threads is {threads}; expected at least 1.")
        torch.set_num_threads(threads or _default_threads(options))
        code: int = function(options)
        return code
    finally:
        torch.set_num_threads(before)


def _default_threads(options: Any) -> int:
    """Return how many threads a command computes on: fitting scales, small models do not."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(getattr(options, "most_threads", 4) or cores or 1, cores or 1))


def _usage(error: ArgumentError, given: list[str]) -> str:
    """Return what is wrong with a command line, in the words of the command line."""
    names = [name.split() for name in COMMANDS]
    command = next((given[:n] for n in (2, 1) if any(w[:n] == given[:n] for w in names)), [])
    text = str(error).strip().rstrip(".")
    text = re.sub(r'^Parser key "(?:[\w.]+\.)?(\w+)"( element \d+)?:', r"--\1\2:", text)
    text = re.sub(r"Expected an? (?:<class '(\w+)'>|typing.Literal)", r"expected \1", text)
    text = text.replace("expected [", "expected one of [")
    text = re.sub(r"[.]?\s+Got value:", ", got", text)
    if missing := re.match(r"the following arguments are required: (.*)", text):
        text = f"missing: {', '.join(n.rpartition('.')[2] for n in missing[1].split(', '))}"
    elif re.match(r"expected \"[\w.]+\" to be one of {", text):
        known = [w[len(command)] for w in names if w[: len(command)] == command]
        text = f"a command is missing; expected one of {', '.join(dict.fromkeys(known))}"
    return f"{text}. See {' '.join(['nngraph', *command, '--help'])}."


def _refused(error: object) -> int:
    print("nngraph: error: " + " ".join(str(error).split()), file=sys.stderr)
    return MISTAKE
