"""Load every file of a folder with one reader of safetensors; this program needs only Python and the reader.

    python benchmarks/readers_child.py READER FOLDER [PROGRAM]     a line of JSON for each file

The reader is imported once. A forked process loads each file, so that crashes, hangs and lack of memory are recorded.
"""

import json
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

SECONDS = 60
"""the seconds that one file may take"""
MEMORY = 4 << 30
"""bytes of address space that one file may add"""
Loaded = list[dict[str, Any]]
Reader = Callable[[str], Loaded]

NAMES = {"bool": "BOOL", "uint8": "U8", "int8": "I8", "int16": "I16", "uint16": "U16", "float16": "F16", "half": "F16"}
NAMES |= {"bfloat16": "BF16", "int32": "I32", "uint32": "U32", "float32": "F32", "float": "F32", "complex64": "C64"}
NAMES |= {"float64": "F64", "double": "F64", "int64": "I64", "uint64": "U64", "bool_": "BOOL"}
NAMES |= {"float8_e5m2": "F8_E5M2", "float8_e4m3fn": "F8_E4M3", "float8_e8m0fnu": "F8_E8M0"}
NAMES |= {"float8_e4m3fnuz": "F8_E4M3FNUZ", "float8_e5m2fnuz": "F8_E5M2FNUZ", "float4_e2m1fn_x2": "F4"}
NAMES |= {"char": "I8", "uchar": "U8", "short": "I16", "ushort": "U16", "int": "I32", "uint": "U32", "long": "I64"}
NAMES |= {"ulong": "U64", "fp8e4m3": "F8_E4M3", "fp8e5m2": "F8_E5M2", "fp8e4m3fnuz": "F8_E4M3FNUZ"}
NAMES |= {"fp8e5m2fnuz": "F8_E5M2FNUZ"}


def entry(name: str, dtype: Any, shape: Any, raw: bytes) -> dict[str, Any]:
    """Return a tensor as the index of the pack describes one."""
    plain = str(dtype).split(".")[-1]
    return {"name": name, "dtype": NAMES.get(plain, plain), "shape": [int(d) for d in shape], "bytes": raw.hex()}


def of_numpy(name: str, array: Any) -> dict[str, Any]:
    """Return an array of NumPy as an entry."""
    return entry(name, array.dtype, array.shape, array.tobytes())


def of_torch(name: str, tensor: Any) -> dict[str, Any]:
    """Return a tensor of torch as an entry."""
    import torch

    flat = tensor.contiguous().reshape(-1)
    return entry(name, tensor.dtype, tensor.shape, flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"")


# readers -----------------------------------------------------------------------------------------


def _deserialize() -> Reader:
    from safetensors import deserialize

    untyped: Callable[..., Any] = deserialize

    def load(path: str) -> Loaded:
        pairs = untyped(Path(path).read_bytes())
        return [entry(name, t["dtype"], t["shape"], bytes(t["data"])) for name, t in pairs]

    return load


def _safe_open(framework: str) -> Reader:
    from safetensors import safe_open

    convert = of_torch if framework == "pt" else of_numpy
    __import__({"pt": "torch", "np": "numpy"}[framework])

    def load(path: str) -> Loaded:
        with safe_open(path, framework=framework) as file:
            return [convert(name, file.get_tensor(name)) for name in file.keys()]  # noqa: SIM118 - no mapping

    return load


def _load_numpy() -> Reader:
    from safetensors.numpy import load_file

    return lambda path: [of_numpy(name, array) for name, array in load_file(path).items()]


def _load_torch() -> Reader:
    from safetensors.torch import load_file

    return lambda path: [of_torch(name, tensor) for name, tensor in load_file(path).items()]


def _load_flax() -> Reader:
    import numpy as np
    from safetensors.flax import load_file

    return lambda path: [of_numpy(name, np.asarray(array)) for name, array in load_file(path).items()]


def _gguf() -> Reader:
    from gguf.utility import SafetensorsLocal

    def load(path: str) -> Loaded:
        tensors = SafetensorsLocal(Path(path)).tensors
        return [entry(name, t.dtype, t.shape, t.mmap_bytes().tobytes()) for name, t in tensors.items()]

    return load


def _tinygrad() -> Reader:
    from tinygrad import dtypes
    from tinygrad.nn.state import safe_load

    def load(path: str) -> Loaded:
        loaded = []
        for name, tensor in safe_load(path).items():
            # bytes, because memoryview knows neither BF16 nor more than 64 dimensions
            flat = tensor.reshape(-1).bitcast(dtypes.uint8).contiguous() if tensor.numel() else None
            loaded.append(entry(name, tensor.dtype, tensor.shape, b"" if flat is None else bytes(flat.data())))
        return loaded

    return load


def _mlx() -> Reader:
    import mlx.core as mx

    def load(path: str) -> Loaded:
        loaded = []
        for name, array in mx.load(path).items():
            flat = array.reshape(-1)
            raw = bytes(memoryview(mx.contiguous(flat).view(mx.uint8))) if array.size else b""
            loaded.append(entry(name, array.dtype, array.shape, raw))
        return loaded

    return load


def _pure() -> Reader:
    from pure_safetensors import SafeTensors

    def load(path: str) -> Loaded:
        with SafeTensors(path, "r") as file:
            arrays = file.as_numpy()
            return [of_numpy(name, arrays[name]) for name in arrays]

    return load


def _fast() -> Reader:
    import torch  # noqa: F401 - else every child imports it anew
    from fastsafetensors import fastsafe_open
    from fastsafetensors.frameworks import get_framework_op

    get_framework_op("pt")

    def load(path: str) -> Loaded:
        with fastsafe_open(path, framework="pt", device="cpu", nogds=True) as file:
            return [of_torch(name, file.get_tensor(name)) for name in file.keys()]  # noqa: SIM118 - no mapping

    return load


def _runai() -> Reader:
    import torch  # noqa: F401 - as above
    from runai_model_streamer import SafetensorsStreamer

    def load(path: str) -> Loaded:
        with SafetensorsStreamer() as streamer:
            streamer.stream_file(path)
            return [of_torch(name, tensor) for name, tensor in streamer.get_tensors()]

    return load


def _modelvet() -> Reader:
    import modelvet

    def load(path: str) -> Loaded:
        report = modelvet.verify_safetensors(Path(path).read_bytes())
        if not report.accepted:
            raise ValueError(report.violation_name)
        return []

    return load


def _formats() -> Reader:
    from formats.dialects.hf import open_hf

    def load(path: str) -> Loaded:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "model.safetensors").symlink_to(Path(path).resolve())
            with open_hf(folder) as tensors:
                sections = {name: tensors.section(name) for name in tensors}
                read = {name: tensors[name].values for name in tensors}
                shard = {name: tensors._owner[name][0] for name in tensors}
                raw = {name: shard[name].raw(s).tobytes() for name, s in sections.items()}
                assert read.keys() == raw.keys()
                return [entry(name, s.dtype, s.shape, raw[name]) for name, s in sections.items()]

    return load


def _second() -> Reader:
    from conformance.oracle import second_reader

    def load(path: str) -> Loaded:
        second_reader.read(Path(path))
        return []

    return load


def _program(program: str) -> Reader:
    """Return a reader that runs a program: path -> lines of name, dtype, shape and bytes, separated by tabs."""

    def load(path: str) -> Loaded:
        ended = subprocess.run([program, path], capture_output=True, timeout=SECONDS, check=False)
        if ended.returncode < 0:
            os.kill(os.getpid(), -ended.returncode)
        if ended.returncode:
            raise ValueError((ended.stderr + ended.stdout).decode("utf-8", "replace").strip()[:200])
        rows = [line.split("\t") for line in ended.stdout.decode("utf-8", "replace").splitlines() if "\t" in line]
        return [entry(n, dtype, shape.split(",") if shape else [], bytes.fromhex(raw)) for n, dtype, shape, raw in rows]

    return load


READERS: dict[str, tuple[str, Callable[[], Reader]]] = {
    "safetensors: deserialize": ("safetensors", _deserialize),
    "safetensors: safe_open (np)": ("safetensors", lambda: _safe_open("np")),
    "safetensors: safe_open (pt)": ("safetensors", lambda: _safe_open("pt")),
    "safetensors: numpy.load_file": ("safetensors", _load_numpy),
    "safetensors: torch.load_file": ("safetensors", _load_torch),
    "safetensors: flax.load_file": ("safetensors", _load_flax),
    "gguf": ("gguf", _gguf),
    "tinygrad": ("tinygrad", _tinygrad),
    "MLX": ("mlx", _mlx),
    "fastsafetensors": ("fastsafetensors", _fast),
    "runai-model-streamer": ("runai-model-streamer", _runai),
    "pure-safetensors": ("pure-safetensors", _pure),
    "modelvet": ("modelvet", _modelvet),
    "seft": ("", _formats),
    "seft second reader": ("", _second),
}
"""Name of a reader -> its distribution, and a function that imports it; programs are named on the command line."""


# asking ------------------------------------------------------------------------------------------


def ask(load: Reader, path: str) -> dict[str, Any]:
    """Load a file in a forked process, and return outcome, error or tensors, seconds and MiB."""
    receive, send = os.pipe()
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        os.close(receive)
        _answer(load, path, send)
    os.close(send)
    said, hung = b"", False
    while True:
        left = SECONDS - (time.monotonic() - start)
        if left <= 0 or not select.select([receive], [], [], left)[0]:
            hung = True
            os.kill(child, signal.SIGKILL)
            break
        part = os.read(receive, 1 << 16)
        if not part:
            break
        said += part
    os.close(receive)
    status = os.waitpid(child, 0)[1]
    took = {"seconds": round(time.monotonic() - start, 2)}
    if hung:
        return {"outcome": "timeout"} | took
    if os.WIFSIGNALED(status):
        return {"outcome": "crash", "error": signal.Signals(os.WTERMSIG(status)).name} | took
    if not said:
        return {"outcome": "crash", "error": f"exit status {os.WEXITSTATUS(status)}"} | took
    return json.loads(said) | took


def _answer(load: Reader, path: str, send: int) -> None:
    """Load a file in this process, write the answer as JSON, and end the process."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    answer: dict[str, Any]
    try:
        answer = {"outcome": "accept", "tensors": load(path)}
    except MemoryError as error:
        answer = {"outcome": "memory", "error": f"MemoryError: {error}"[:200]}
    except Exception as error:  # noqa: BLE001 - whatever a foreign reader raises is its refusal
        answer = {"outcome": "refuse", "error": f"{type(error).__name__}: {error}"[:200]}
    except BaseException as error:  # noqa: BLE001 - a panic of Rust is a BaseException
        answer = {"outcome": "panic", "error": f"{type(error).__name__}: {error}"[:200]}
    answer["mib"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10
    with os.fdopen(send, "wb") as file:
        file.write(json.dumps(answer).encode())
    os._exit(0)


def answers(load: Reader, folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the answer for each safetensors file of a folder and of the folders in it."""
    for path in sorted(folder.rglob("*.safetensors")):
        yield {"file": path.relative_to(folder).as_posix()} | ask(load, str(path))


def main() -> int:
    """Print a line about the reader, then one for each file; return 3 if the reader is not installed."""
    name, folder = sys.argv[1], Path(sys.argv[2])
    try:
        if len(sys.argv) > 3:
            load, version = _program(sys.argv[3]), ""
        else:
            distribution, make = READERS[name]
            load = make()
            version = metadata.version(distribution) if distribution else ""
    except ImportError as error:
        print(json.dumps({"missing": f"{type(error).__name__}: {error}"[:200]}))
        return 3
    print(json.dumps({"reader": name, "version": version, "python": sys.version.split()[0]}), flush=True)
    for answer in answers(load, folder):
        print(json.dumps(answer), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
