"""What the derivation claims, held against every tensor of random programs and torch's operators.

Random programs draw operations on shared operands. The operators are those of torch's test data
(``torch.testing._internal``, which needs ``pip install expecttest``), each on several samples, with
operands of one shape apart and as one tensor, and all of its results used. Parameters are
relabelled as the derived spec allows, the program runs again in float64, and each tensor that it
computes must be the old one, relabelled; a claim that breaks by more than 1e-9 is unsound.
"""

from __future__ import annotations

import argparse
import operator
import random
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import harness
import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

# The programs of the tests, and what they are held to.
sys.path += [str(Path(__file__).parents[1] / "tests" / "converters" / "symmetry")]

import random_layers  # noqa: F401  (registers its steps)
import random_steps  # noqa: F401  (registers its steps)
from random_programs import RandomProgram
from symmetry_programs import Recorder, run_rules, spec_of, worst_break

KEYS = ("kind", "first", "steps")
#: Changes above this are no rounding.
TOLERANCE = 1e-9
#: Samples of an operator of more entries in one tensor are left out.
MAX_ENTRIES = 5000

#: What a call of an operator is, tensors first: the function, them, and which are no parameters.
Case = tuple[Callable[..., Any], list[Tensor], list[bool]]


class Untraced(Exception):
    """An operator that is not one function of its tensors, or does more than return values."""


def parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    made = argparse.ArgumentParser("soundness.py", description=__doc__)
    made.add_argument("--programs", type=int, default=5000, help="random programs; 0: none")
    made.add_argument("--first", type=int, default=0, help="seed of the first of them")
    made.add_argument("--steps", type=int, default=7, help="operations of each")
    made.add_argument("--samples", type=int, default=6, help="of each operator; 0: none")
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--out", type=Path, default=harness.RESULTS / "soundness.csv")
    return made


def judge(recorder: Recorder, sums: Counter[str], name: str) -> None:
    """Hold the claims about one program, and count."""
    engine = run_rules(recorder)
    worst, tensor = worst_break(recorder, engine)
    sums["programs"] += 1
    sums["free"] += bool(spec_of(recorder, engine)[0].free_spaces)
    if not worst < TOLERANCE:
        sums["unsound"] += 1
        print(f"UNSOUND {name}: tensor {tensor} changes by {worst}", flush=True)


def random_programs(first: int, count: int, steps: int) -> Counter[str]:
    """Judge random programs."""
    sums = Counter[str](unsound=0)
    operators = set()
    for seed in range(first, first + count):
        program = RandomProgram(seed, steps)
        judge(program, sums, f"seed {seed} {program.names}")
        operators |= {operation.name for operation in program.operations}
    sums["operators"] = len(operators)
    return sums


def operators(samples: int) -> Counter[str]:
    """Judge each operator of torch's test data."""
    from torch.testing._internal.common_methods_invocations import op_db

    sums, met = Counter[str](unsound=0), set()
    for info in op_db:
        if torch.float64 not in info.supported_dtypes("cpu"):
            continue
        for case in islice(_cases(info), samples):
            for shared in (False, True):
                try:
                    recorder = recorded(case, shared)
                except Exception:  # whatever torch says of what it cannot trace
                    sums["untraced"] += 1
                    break
                judge(recorder, sums, f"{info.name} {[tuple(t.shape) for t in case[1]]}")
                met |= {operation.name for operation in recorder.operations}
    sums["operators"] = len(met)
    return sums


def _cases(info: Any) -> Iterator[Case]:
    found = list(islice(info.sample_inputs("cpu", torch.float64, requires_grad=False), 40))
    random.Random(0).shuffle(found)
    for sample in found:
        leaves, tree = pytree.tree_flatten((sample.input, sample.args, sample.kwargs))
        places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        given = [leaves[i] for i in places]
        sizes = [tensor.numel() for tensor in given]
        plain = all(tensor.layout == torch.strided for tensor in given)
        if not plain or max(sizes, default=0) > MAX_ENTRIES or max(sizes, default=0) < 2:
            continue

        def function(
            *tensors: Tensor, leaves: Any = leaves, tree: Any = tree, places: Any = places
        ) -> list[Tensor]:
            values = dict(enumerate(leaves)) | dict(zip(places, tensors, strict=True))
            one, args, kwargs = pytree.tree_unflatten(list(values.values()), tree)
            found = pytree.tree_leaves(info.op(one, *args, **kwargs))
            return [leaf for leaf in found if isinstance(leaf, Tensor)]

        yield function, given, [not tensor.is_floating_point() for tensor in given]


def recorded(case: Case, shared: bool) -> Recorder:
    """Write down what a function does; where ``shared``, operands of one shape are one tensor."""
    function, given, constant = case
    recorder, values, seen = Recorder(), {}, {}
    graph = make_fx(function, pre_dispatch=True)(*given).graph
    inputs = iter(zip(given, constant, strict=True))

    def value_of(argument: Any) -> Any:
        return values[argument] if isinstance(argument, fx.Node) else argument

    for node in graph.nodes:
        if node.op == "placeholder":
            tensor, is_constant = next(inputs)
            key = tensor.shape, tensor.dtype
            if is_constant:
                values[node] = recorder.constant(tensor)
            else:
                if not shared or key not in seen:
                    seen[key] = recorder.parameter(tensor.clone())
                values[node] = seen[key]
        elif node.op == "get_attr":
            raise Untraced
        elif node.op == "call_function" and node.target is operator.getitem:
            values[node] = values[node.args[0]][node.args[1]]
        elif node.op == "call_function":
            schema = getattr(node.target, "_schema", None)
            random_numbers = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
            if random_numbers or (schema is not None and schema.is_mutable):
                raise Untraced
            args, kwargs = pytree.tree_map(
                value_of, (tuple(node.args), dict(node.kwargs)),
                is_leaf=lambda leaf: isinstance(leaf, fx.Node),
            )  # fmt: skip
            values[node] = recorder.call(node.target, *args, **kwargs)
    if any(tensor.layout != torch.strided for tensor in recorder.tensors.values()):
        raise Untraced
    return recorder


def main(argv: Sequence[str] | None = None) -> None:
    """Judge, write a row for each kind of program, print them; exit code 1 if one is unsound."""
    made = parser()
    arguments = made.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")
    end = {"command": harness.command_line(made, arguments), **harness.machine()}
    rows = []
    for kind, count, run in (
        ("random programs", arguments.programs,
         lambda n: random_programs(arguments.first, n, arguments.steps)),
        ("torch's operators", arguments.samples, operators),
    ):  # fmt: skip
        if count:
            start = time.process_time()
            found = run(count)
            row = {"kind": kind} | dict(found)
            if kind == "random programs":
                row |= {"first": arguments.first, "steps": arguments.steps}
            rows.append(row | {"cpu_s": round(time.process_time() - start, 1)} | end)
            harness.write_rows(arguments.out, rows[-1:], KEYS)
    columns = ("kind", "programs", "free", "operators", "untraced", "unsound", "cpu_s")
    print(harness.markdown(rows, columns))
    if any(row["unsound"] for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
