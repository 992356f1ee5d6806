import os

#: Tiny products on shared cores are ten times slower with two threads, and several workers of
#: pytest-xdist would fight for them; processes that tests start inherit it.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch

torch.set_num_threads(1)


def pytest_make_collect_report(collector):
    """Let a module draw the same inputs when it is imported, whatever was imported before it."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def gpu() -> str:
    """Name of the GPU, for tests of what it does; they are skipped where there is none."""
    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    return "cuda"


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> str:
    """The CPU, and the GPU where there is one, for what holds on both."""
    return "cpu" if request.param == "cpu" else request.getfixturevalue("gpu")
