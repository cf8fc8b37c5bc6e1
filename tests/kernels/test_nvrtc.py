"""NVIDIA's own compiler takes gpu.cu for every kind of GPU that is named here, without a word; no driver is needed."""

import ctypes
import re
from functools import cache
from importlib.metadata import PackageNotFoundError, files
from types import SimpleNamespace

import pytest

from seft_ref.arrays.cupy_ready import keep_subnormals
from seft_ref.kernels.gpu.launch import KERNELS, SOURCE
from tests.kernels import cupy_on_cpu

ARCHITECTURES = ["sm_80", "sm_90", "sm_100"]


def _library():
    """The path of libnvrtc of the dev dependency, None where there is none for this platform."""
    try:
        found = files("nvidia-cuda-nvrtc") or []
    except PackageNotFoundError:
        return None
    paths = [f.locate() for f in found if f.name.startswith("libnvrtc.so.")]
    return paths[0] if paths else None


NVRTC = _library()
needs_nvrtc = pytest.mark.skipif(NVRTC is None, reason="nvidia-cuda-nvrtc is not installed")


def compiled(text, architecture, *more, kind="CUBIN"):
    """Machine code of a text of kernels, or PTX, and what the compiler said."""
    nvrtc = ctypes.CDLL(str(NVRTC))
    program = ctypes.c_void_p()
    options = [f"--gpu-architecture={architecture}".encode(), b"--std=c++14", *more]

    def asked(size_of, get):
        size = ctypes.c_size_t()
        assert size_of(program, ctypes.byref(size)) == 0
        memory = ctypes.create_string_buffer(size.value)
        assert get(program, memory) == 0
        return memory.raw

    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"gpu.cu", 0, None, None) == 0
    try:
        status = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
        said = asked(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog).rstrip(b"\0").decode()
        code = b"" if status else asked(nvrtc[f"nvrtcGet{kind}Size"], nvrtc[f"nvrtcGet{kind}"])
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return code, said


@cache
def machine_code(architecture):
    """Machine code of all kernels, and what was said: what each takes, and whatever else there is to say."""
    return compiled(SOURCE.read_text(), architecture, b"--ptxas-options=-v")


# what the option has the compiler say of every kernel, and nothing that it says of some
TAKES = re.compile(r"ptxas +(info +: (\d+ bytes gmem|Compil(ing|e) |Function properties|Used )|\. +\d+ bytes stack)")


@needs_nvrtc
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_kernel_compiles_without_a_warning(architecture):
    code, said = machine_code(architecture)
    assert [line for line in said.splitlines() if not TAKES.match(line)] == []
    assert code[:4] == b"\x7fELF"
    for name in KERNELS:
        assert f".text.{name}\0".encode() in code


@needs_nvrtc
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_kernel_runs_out_of_registers(architecture):
    _, said = machine_code(architecture)
    told = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", said)
    assert len(told) >= len(KERNELS)
    assert set(told) == {("0", "0", "0")}


def handed_by_cupy(options, *, kept):
    """What CuPy hands to the compiler behind the architecture and the options that were given."""
    compiler = cupy_on_cpu.Compiler()
    if kept:
        keep_subnormals(SimpleNamespace(cuda=SimpleNamespace(compiler=compiler)))
    compiler._compile_module_with_cache("", options, arch="80")
    return [option.encode() for option in compiler.handed[0] if "-arch=" not in option and option not in options]


@needs_nvrtc
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_KRN_014_015_no_instruction_flushes_subnormals(architecture):
    text, options = SOURCE.read_text(), ("--std=c++14",)
    # for compute_80 and so on PTX is the last thing that is made
    virtual = architecture.replace("sm", "compute")
    kept, _ = compiled(text, virtual, *handed_by_cupy(options, kept=True), kind="PTX")
    assert b".visible .entry exceeding_write_float32" in kept
    assert b".ftz" not in kept
    flushed, _ = compiled(text, virtual, *handed_by_cupy(options, kept=False), kind="PTX")
    assert b"fma.rn.ftz.f32" in flushed


@needs_nvrtc
def test_a_mistake_is_told_with_its_line():
    code, said = compiled(SOURCE.read_text().replace("T total, lost, part;", "T total, lost;"), "sm_80")
    assert not code
    assert '"part" is undefined' in said
