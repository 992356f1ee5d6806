"""Weight spaces that the judge is tried on, and slow, naive truths written for these tests."""

from __future__ import annotations

import itertools

import numpy as np

from nngraph.basis import WeightSpace
from nngraph.graph.architecture import Architecture, NeuronGroup, Parameter


def mlp(*widths: int, permute_io: bool = False, bias: bool | list[bool] = True) -> WeightSpace:
    return WeightSpace.of(Architecture.mlp(widths, bias=bias), permute_io=permute_io)


def residual() -> Architecture:
    """x = W0 u; x = x + W1 x; y = W2 x: two groups of one space, so W1 has it twice."""
    return Architecture(
        (
            NeuronGroup("input", 2, "input"),
            NeuronGroup("a", 3, "hidden", space="stream"),
            NeuronGroup("b", 3, "hidden", space="stream"),
            NeuronGroup("output", 2, "output"),
        ),
        (
            Parameter("0.weight", (3, 2), (1, 0)),
            Parameter("0.bias", (3,), (1,), "bias"),
            Parameter("1.weight", (3, 3), (2, 1)),
            Parameter("1.bias", (3,), (2,), "bias"),
            Parameter("2.weight", (2, 3), (3, 2)),
            Parameter("2.bias", (2,), (3,), "bias"),
        ),
    )


def axes(sizes: dict[str, int], **tensors: tuple[str | int, ...]) -> WeightSpace:
    return WeightSpace.from_axes(tensors, sizes)


SPACES: dict[str, WeightSpace] = {
    "2-3-3-1": mlp(2, 3, 3, 1),
    "2-3-3-3": mlp(2, 3, 3, 3),
    "2-2-3-4-2": mlp(2, 2, 3, 4, 2),
    "2-2-2-2-2-3": mlp(2, 2, 2, 2, 2, 3),
    "2-3-2": mlp(2, 3, 2),
    "one map": mlp(3, 2),
    "one number": mlp(1, 1),
    "width 1 inside": mlp(2, 3, 1, 3, 2),
    "all widths 1": mlp(1, 1, 1, 1),
    "widths 1 and 2": mlp(2, 1, 2, 1),
    "no bias": mlp(2, 3, 3, 2, bias=False),
    "one bias": mlp(2, 3, 3, 1, bias=[True, False, False]),
    "permuted 3-3-3": mlp(3, 3, 3, permute_io=True),
    "permuted 2-2-2-2": mlp(2, 2, 2, 2, permute_io=True),
    "permuted 1-3-2": mlp(1, 3, 2, permute_io=True),
    "permuted one map": mlp(4, 3, permute_io=True),
    "residual": WeightSpace.of(residual()),
    "residual, permuted": WeightSpace.of(residual(), permute_io=True),
    "recurrent": axes({"h": 4}, U=("h", 2), W=("h", "h"), b=("h",), V=(1, "h")),
    "recurrent, width 1": axes({"h": 1}, U=("h", 2), W=("h", "h"), b=("h",)),
    "recurrent, width 2": axes({"h": 2}, U=("h", 2), W=("h", "h"), b=("h",)),
    "recurrent, width 3": axes({"h": 3}, W=("h", "h"), b=("h",)),
    "tied both ways": axes({"a": 3, "b": 2}, W=("a", "b"), V=("b", "a"), c=("a",)),
    "convolution": axes({"a": 3, "b": 2}, K=("b", "a", 2, 2), W=("a", 3, 2), b=("b",)),
    "three axes": axes({"h": 4}, T=("h", "h", "h"), s=()),
    "three axes, width 2": axes({"h": 2}, T=("h", "h", "h"), b=("h",), s=()),
    "three axes, width 1": axes({"h": 1}, T=("h", "h", "h"), b=("h",)),
    "mixed axes": axes({"h": 3, "k": 2}, T=("h", "k", "h"), W=("k", "h"), F=(2, "k", 2), s=()),
    "free only": axes({}, A=(2, 3), s=()),
}  # fmt: skip


def permutation_matrix(permutation: np.ndarray) -> np.ndarray:
    """P with (P x)[permutation[i]] = x[i]."""
    matrix = np.zeros((len(permutation), len(permutation)))
    for i, image in enumerate(permutation):
        matrix[image, i] = 1
    return matrix


def group_matrix(space: WeightSpace, relabelling: dict[str, np.ndarray]) -> np.ndarray:
    """The relabelling's matrix on all coordinates: block diagonal, Kronecker over the axes."""
    whole = np.zeros((space.numel, space.numel))
    start = 0
    for tensor in space.tensors:
        matrix = np.ones((1, 1))
        for axis in tensor.axes:
            one = np.eye(axis.size)
            if axis.space is not None:
                one = permutation_matrix(relabelling[axis.space])
            matrix = np.kron(matrix, one)
        whole[start : start + len(matrix), start : start + len(matrix)] = matrix
        start += len(matrix)
    return whole


def whole_group(sizes: dict[str, int]) -> list[dict[str, np.ndarray]]:
    """Every element of the group."""
    choices = [
        [np.array(p) for p in itertools.permutations(range(size))] for size in sizes.values()
    ]
    return [dict(zip(sizes, choice, strict=True)) for choice in itertools.product(*choices)]


def random_relabelling(sizes: dict[str, int], seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {name: random.permutation(size) for name, size in sizes.items()}
