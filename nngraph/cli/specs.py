"""The command ``spec``, and the spec and the checkpoints that other commands name."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from converters import (
    StoredNetwork,
    load_spec,
    load_state_dict,
    open_network,
    permutation_spec,
    symmetry_spec,
    verify,
)
from converters.symmetry import PermutationSpec, SymmetrySpec
from nngraph.cli.common import tell
from nngraph.cli.networks import read_module
from nngraph.cli.options.deriving import mistake
from nngraph.cli.options.networks import Spec
from nngraph.cli.options.shared import Specified
from nngraph.errors import DataFileError
from nngraph.files import write_atomically


def derive(options: Spec) -> int:
    """Derive the spec of a network and write it."""
    if not options.out.endswith(".json"):
        raise mistake(f"the file to write is {options.out!r}; expected an ending .json")
    module, inputs = read_module(options.network, options.inputs or [], options.output)
    found = (symmetry_spec if options.maps else permutation_spec)(
        module, inputs, strict=options.strict
    )
    report = verify(found, module, inputs) if options.verify else None
    failed = report is not None and not report.holds
    spec = found.permutations if isinstance(found, SymmetrySpec) else found
    data = {
        "network": options.network, "out": None if failed else options.out,
        "spaces": {space.name: space.size for space in spec.spaces},
        "tensors": len(spec.parameters), "log10_order": spec.log10_order,
        "dimension": found.dimension if isinstance(found, SymmetrySpec) else None,
        "fixed": [str(line) for line in spec.reports],
        "status": None if report is None else report.status,
    }  # fmt: skip
    if not failed:
        write_atomically(Path(options.out), (found.to_json(indent=1) + "\n").encode())
    written = f"{options.out} was not written" if failed else f"written: {options.out}"
    proof = "" if report is None else f"\n{report}"
    return tell(options, data, lambda: f"{found}\n{written}{proof}", code=int(failed))


def read_spec(
    options: Specified, maps: bool = False
) -> PermutationSpec | SymmetrySpec | None:
    """Return the spec that the options name: of a module or a file; ``None`` for MLPs.

    Args:
        maps: whether it is to be one with maps of neurons.
    """
    if options.module is not None and options.spec is not None:
        raise mistake("--module and --spec both say what the axes count; leave one of them out")
    if options.inputs and options.module is None:
        raise mistake("--inputs is for --module; leave it out")
    if options.module is not None:
        module, inputs = read_module(options.module, options.inputs or [])
        return (symmetry_spec if maps else permutation_spec)(module, inputs)
    found = None if options.spec is None else load_spec(options.spec)
    if maps and not isinstance(found, SymmetrySpec):
        raise mistake("--maps needs --module, or a --spec that nngraph spec --maps wrote")
    return found


def read_data(file: str) -> tuple[Tensor, Tensor | None]:
    """Read inputs, and answers if there are any: classes as int64, or numbers."""
    tensors = load_state_dict(file)
    inputs, answers = tensors.pop("inputs", None), tensors.pop("answers", None)
    if inputs is None or tensors:
        raise DataFileError(
            f"{file} holds {', '.join(sorted(load_state_dict(file))) or 'nothing'}; expected the "
            "two tensors 'inputs' and 'answers', classes (P) or numbers (P, outputs)."
        )
    if answers is not None and not answers.is_floating_point():
        answers = answers.long()
    return inputs, answers


def read_networks(
    options: Specified, files: list[str], spec: PermutationSpec | SymmetrySpec | None = None
) -> list[StoredNetwork]:
    """Open checkpoints of one architecture, of a spec if it was read before."""
    first, *others = files
    spec = read_spec(options) if spec is None else spec
    one = open_network(first, spec, prefix=options.prefix)
    return [one, *(open_network(f, one.spec, prefix=options.prefix) for f in others)]
