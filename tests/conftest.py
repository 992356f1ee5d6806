import os

#: Tiny products on shared cores are ten times slower with two threads, and several workers of
#: pytest-xdist would fight for them; processes that tests start inherit it.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
