"""Functions of matrices, and look-ups by size: every space by hand."""

import pytest
import torch
from symmetry_cases import FREE, Between, check_between, described
from torch.nn import functional as F

from converters import verify
from converters.symmetry import derive


def gram(h):
    """A matrix of neurons by neurons that is well conditioned."""
    return h.t() @ h + 2 * torch.eye(6, dtype=h.dtype)


def square(z):
    """A matrix that is its own mirror image; of complex entries, not the conjugate one."""
    return z.t() @ z


FUNCTIONS = {
    "inverse": lambda h: h @ torch.linalg.inv(gram(h)),
    "pseudo-inverse": lambda h: torch.linalg.pinv(h).t(),
    "solve": lambda h: torch.linalg.solve(gram(h), h.t()).t(),
    "solve for a vector": lambda h: h + torch.linalg.solve(gram(h), h[0]),
    "determinant": lambda h: h * torch.det(gram(h) / 9),
    "log of the determinant": lambda h: h + torch.logdet(gram(h)),
    "exponential": lambda h: h @ torch.matrix_exp(gram(h) / 9),
    "power": lambda h: h @ torch.linalg.matrix_power(gram(h), 2) / 99,
    "spectral norm": lambda h: h / torch.linalg.matrix_norm(h, 2),
    "nuclear norm": lambda h: h / torch.linalg.norm(h, "nuc"),
    "largest eigenvalue": lambda h: h / torch.linalg.eigvalsh(gram(h))[-1],
    "eigenvalue of a symmetric part": lambda h: (
        h / torch.linalg.eigvalsh((gram(h) / 9).exp() + gram(h).mT)[-1]
    ),
    "pseudo-inverse of a symmetric one": lambda h: h @ torch.linalg.pinv(gram(h), hermitian=True),
    "buckets": lambda h: torch.bucketize(h, torch.linspace(-1, 1, 4, dtype=h.dtype)) * h,
    "rows repeated": lambda h: h.repeat_interleave(torch.tensor([1, 0, 2, 1]), 0),
    "bags": lambda h: F.embedding_bag(torch.tensor([[0, 1], [2, 3]]), h, mode="sum"),
    "spectrum of rows": lambda h: torch.fft.fft(h, dim=0).abs(),
    "diagonal": lambda h: torch.diag(h.t() @ h) + torch.diag_embed(h).sum(1).mean(0),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_neurons_are_free_as_the_function_allows(name):
    check_between(FUNCTIONS[name], 6, FREE)


TOLD = {
    "cholesky": lambda h: h @ torch.linalg.cholesky(gram(h)),
    "eigenvectors": lambda h: h @ torch.linalg.eigh(gram(h))[1].abs(),
    "eigenvalues by one triangle": lambda h: h * torch.linalg.eigvalsh(gram(h) + h[0])[-1],
    "pseudo-inverse by one triangle": lambda h: h @ torch.linalg.pinv(gram(h) - h[0], 0.01, True),
    "eigenvalues of a complex one": lambda h: h * torch.linalg.eigvalsh(square(h * (1 + 1j)))[-1],
    "boundaries of neurons": lambda h: h + torch.searchsorted(h, h.detach()),
}


@pytest.mark.parametrize("name", TOLD)
def test_what_tells_neurons_apart_fixes_them(name):
    module, inputs = Between(TOLD[name], 6), torch.randn(4, 3)
    derivation = derive(module, inputs)
    assert described(derivation.spec) == {}
    assert verify(derivation, module, inputs).holds
