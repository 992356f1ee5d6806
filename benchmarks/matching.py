"""Whether a random relabelling of a real architecture is found again from two state dicts alone.

One model of each timm family and many tiny transformers, random weights: the spec is derived, the
tensors are relabelled, and `match_states` is given the two state dicts; `found` says that every
tensor of the second, relabelled as was found, is that of the first bit by bit. Large networks are
files of float16 which `nngraph match` reads in a process of its own: how long it takes, and how
much memory it has at its peak, beside twice the checkpoint plus 1 GB.
"""

from __future__ import annotations

import argparse
import gc
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import harness
import torch
from conversion_models import Case, timm_cases, transformers_cases
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from converters import permutation_spec
from converters.inspection import named_tensors
from nngraph.alignment import match_states
from nngraph.errors import NNGraphError

KEYS = ("library", "model", "dtype")
#: What stands beside the peak of memory: twice the checkpoint, and as many MiB more.
_SPARE_MIB = 1024


def parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    made = argparse.ArgumentParser("matching.py", description=__doc__)
    made.add_argument("--library", nargs="*", choices=["timm", "transformers"], default=[])
    made.add_argument("--large", nargs="*", choices=[*LARGE], default=[], help="large networks")
    made.add_argument("--models", type=int, default=1000, help="of each library, at most")
    made.add_argument(
        "--parameters", type=int, default=10**8, help="of the library's models, at most"
    )
    made.add_argument("--starts", type=int, default=1, help="of the descent")
    made.add_argument("--resume", action="store_true", help="leave out what has a row already")
    made.add_argument(
        "--out", type=Path, default=harness.RESULTS / "matching.csv", help="result file"
    )
    return made


def cases(libraries: Sequence[str], models: int) -> Iterator[Case]:
    """Iterate over the cases of some libraries."""
    if "timm" in libraries:
        yield from islice(timm_cases(), models)
    if "transformers" in libraries:
        yield from islice(transformers_cases(), models)


def _resnet() -> tuple[nn.Module, Tensor]:
    import timm

    return timm.create_model("resnet50"), torch.zeros(1, 3, 64, 64)


def _vit() -> tuple[nn.Module, Tensor]:
    import timm

    model = timm.create_model("vit_small_patch16_224")
    return model, torch.zeros(1, 3, 224, 224)


def _gpt() -> tuple[nn.Module, Tensor]:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(use_cache=False)), torch.zeros(1, 8, dtype=torch.long)


def _llama() -> tuple[nn.Module, Tensor]:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=32000, hidden_size=2048, intermediate_size=5632, num_hidden_layers=22,
        num_attention_heads=32, num_key_value_heads=4, use_cache=False,
    )  # fmt: skip
    return LlamaForCausalLM(config), torch.zeros(1, 8, dtype=torch.long)


LARGE: Mapping[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "resnet50": _resnet, "vit_small": _vit, "gpt2": _gpt, "llama_1b": _llama,
}  # fmt: skip


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether two state dicts are equal bit by bit, in what both have."""
    return all(torch.equal(value, other[name]) for name, value in one.items())


def judge(case: Case, starts: int, most: int) -> dict[str, Any] | None:
    """Relabel one network, match it, and return its row; ``None`` for one that is too large."""
    row: dict[str, Any] = {
        "library": case.library, "family": case.family, "model": case.model, "dtype": "float32",
    }
    torch.manual_seed(0)
    module, args, kwargs = case.make()
    row["parameters"] = sum(p.numel() for p in module.parameters())
    if row["parameters"] > most:
        return None
    try:
        spec = permutation_spec(module, args, kwargs=kwargs)
    except NNGraphError as error:
        return row | {"found": 0, "error": str(error)[:200]}
    state = {n: v.detach() for n, v in named_tensors(module).items() if n in spec.parameters}
    moved = spec.permute(state, spec.sample(1))
    start = time.perf_counter()
    found = match_states(spec, state, moved, starts=starts)
    return row | {
        "spaces": len(spec.free_spaces), "moved": int(not same(state, moved)),
        "found": int(same(state, found.apply(moved))),
        "time_s": round(time.perf_counter() - start, 2), "error": "",
    }


def judge_large(name: str, starts: int) -> dict[str, Any]:
    """Match two files of a large network in a process of its own, and return its row."""
    torch.manual_seed(0)
    module, inputs = LARGE[name]()
    spec = permutation_spec(module.eval(), inputs)
    parameters = sum(p.numel() for p in module.parameters())
    state = {
        n: v.detach().half() if v.is_floating_point() else v
        for n, v in named_tensors(module).items() if n in spec.parameters
    }
    del module
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        save_file(state, here / "a.safetensors")
        save_file(spec.permute(state, spec.sample(1)), here / "b.safetensors")
        (here / "spec.json").write_text(spec.to_json())
        line = ["match", "a.safetensors", "b.safetensors", "--spec", "spec.json", "--out"]
        start = time.perf_counter()
        child = subprocess.Popen(
            [sys.executable, "-m", "nngraph.cli", *line, "o.safetensors", "--starts", str(starts),
             "--threads", "1"], cwd=here, stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        )  # fmt: skip
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - start
        if status:
            return {"library": "large", "model": name, "found": 0, "error": f"status {status}"}
        size = (here / "a.safetensors").stat().st_size / 2**20
        found = same(state, load_file(here / "o.safetensors"))
    return {
        "library": "large", "family": name, "model": name, "dtype": "float16",
        "parameters": parameters, "spaces": len(spec.free_spaces), "moved": 1,
        "found": int(found), "time_s": round(seconds, 1),
        "cpu_time_s": round(usage.ru_utime + usage.ru_stime, 1), "checkpoint_mib": round(size),
        "peak_mib": round(usage.ru_maxrss / 1024), "limit_mib": round(2 * size + _SPARE_MIB),
        "error": "",
    }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    """Judge all cases, and write a row for each."""
    warnings.simplefilter("ignore")
    made = parser()
    arguments = made.parse_args(argv)
    torch.set_num_threads(1)
    kept = harness.read_rows(arguments.out) if arguments.resume else []
    done = {(row["library"], row["model"]) for row in kept}
    facts = harness.machine() | {
        "command": harness.command_line(made, arguments), "starts": arguments.starts,
    }
    todo: list[tuple[str, str, Callable[[], dict[str, Any] | None]]] = [
        ("large", name, lambda name=name: judge_large(name, arguments.starts))
        for name in arguments.large
    ]
    todo += [
        (c.library, c.model, lambda c=c: judge(c, arguments.starts, arguments.parameters))
        for c in cases(arguments.library, arguments.models)
    ]
    for library, model, work in todo:
        if (library, model) in done:
            continue
        try:
            row = work()
        except Exception as error:
            # A model that cannot be built, or a mistake of ours: either way a row that says so.
            words = f"{type(error).__name__}: {error}"[:200]
            row = {"library": library, "model": model, "found": 0, "error": words}
        if row is not None:
            harness.write_rows(arguments.out, [row | facts], KEYS)
            print({k: v for k, v in row.items() if k not in ("library", "family")}, flush=True)
        gc.collect()


if __name__ == "__main__":
    main()
