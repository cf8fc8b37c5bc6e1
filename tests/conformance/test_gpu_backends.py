"""Backends that may be missing: verify.py names what they need, and judges what is there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import conformance
from conformance.engine.on_cpu import without_gpp
from tests.kernels import cupy_on_cpu

ROOT = Path(conformance.__file__).parents[1]
BARE = ("--examples", "0")
"""Cases alone, which can be counted."""
NO_DEVICE = """
from tests.kernels.cupy_on_cpu import cuda
def zeros(n): raise RuntimeError('cudaErrorNoDevice: none\\nand more')
"""


def test_without_cupy_or_a_device_nothing_is_run_and_one_line_says_what_to_install(verify, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    status, out, err = verify("--backend", "numpy", "--backend", "cupy")
    assert (status, out) == (2, "")
    told = 'pip install "cupy-cuda12x[ctk]>=14", or for CUDA 13 "cupy-cuda13x[ctk]>=14"'
    assert err == f"verify: --backend cupy: this needs CuPy; {told}\n"
    monkeypatch.delitem(sys.modules, "cupy")
    (tmp_path / "cupy.py").write_text(NO_DEVICE)
    monkeypatch.syspath_prepend(tmp_path)
    status, out, err = verify("--backend", "cupy")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "finds no device (cudaErrorNoDevice: none); install the driver" in err


@pytest.mark.skipif(bool(without_gpp()), reason=without_gpp())
def test_the_kernels_of_the_gpu_are_judged_on_a_cpu(verify):
    only = [word for pattern in ("kernel.*", "event.*", "train.step*") for word in ("--only", pattern)]
    status, out, err = verify("--backend", "gpu-on-cpu", *only, *BARE)
    assert (status, err) == (0, ""), out
    assert "engine with kernels.gpu on a CPU" in out
    assert ", 0 failed" in out.splitlines()[-1]


@pytest.mark.skipif(bool(without_gpp()), reason=without_gpp())
def test_with_arrays_of_cupy_the_engine_is_judged_on_them(verify, tmp_path, monkeypatch):
    """A module of that name whose arrays are NumPy's, and whose kernels run on a CPU."""
    cupy_on_cpu.install(tmp_path)
    monkeypatch.setitem(sys.modules, "cupy", None)  # so that the one imported below is forgotten afterwards
    del sys.modules["cupy"]
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    status, out, err = verify("--backend", "cupy", "--only", "kernel.*", "--class", "fp32", *BARE)
    assert (status, err) == (0, "")
    assert "engine on CuPy" in out


def test_a_default_backend_without_its_package_is_named_and_the_others_are_judged(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['array_api_strict'] = None")
    command = [sys.executable, "-m", "conformance", "--only", "count.drop", *BARE]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    why = "backend strict is not judged, because array-api-strict is not installed: pip install array-api-strict"
    assert (done.returncode, done.stderr) == (0, f"verify: {why}\n")
    assert ", 0 failed, 0 skipped" in done.stdout.splitlines()[-1]
    done = subprocess.run(
        [*command, "--backend", "strict"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 3
    assert "pip install array-api-strict" in done.stderr
