"""The Triton kernel of the PyTorch port, run by Triton's interpreter (KRN-003)."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")
torch = pytest.importorskip("torch")

from seft_ports.pytorch import on_triton  # noqa: E402

WORK = """
import torch
from seft_ports.pytorch import kernels, on_triton
assert on_triton.is_ready(torch.zeros(1))
SIZES = (1, 1, 1, 1), (3, 5, 7, 11), (130, 70, 257, 500), (65, 33, 64, 2112), (0, 3, 4, 5), (4, 3, 4, 0)
for n, out, width, m in SIZES:
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        drawn = torch.Generator().manual_seed(n)
        dy, x = (torch.randn(n, k, generator=drawn).to(dtype) for k in (out, width))
        at = torch.randperm(out * width, generator=drawn)[:m].sort().values
        found, wanted = kernels.sample(dy, x, at), kernels.whole(dy, x).flatten()[at]
        assert found.dtype == wanted.dtype
        torch.testing.assert_close(kernels.sample(dy, x, at[::2]), found[::2], rtol=0, atol=0)
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
print("alike")
"""


def test_KRN_003_the_interpreted_kernel_finds_the_entries_of_the_whole_product():
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", WORK], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout == "alike\n", done.stderr


def test_a_device_on_which_triton_does_not_work_is_told_of_once(monkeypatch):
    """It needs a compiler, Python's headers and compute capability 7.0; torch's own product needs none of these."""

    def fails(*arguments):
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(on_triton, "sample", fails)
    on_triton._works.cache_clear()
    with pytest.warns(UserWarning, match="Triton does not work on cpu .RuntimeError: Failed to find C compiler."):
        assert not on_triton._works(torch.device("cpu"))
    assert not on_triton._works(torch.device("cpu"))
    on_triton._works.cache_clear()
