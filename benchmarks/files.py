"""Sizes, speed and memory of checkpoint files: `python -m benchmarks sizes`, `files` and `big`."""

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from math import comb, log2, prod
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

import ml_dtypes
import numpy as np
import typer
import zstandard

import formats
from benchmarks.rounds import JsonFile
from formats import loops
from formats import plain as in_numpy
from formats.dialects.hf import open_hf
from formats.encoding import CODES
from formats.lazy import Lazy
from seft_cli import console  # noqa: F401 - sets the threads of the libraries before they load
from seft_cli.output import write_json
from seft_ref.prune.keep import keep_n_of_m, keep_of_rows

Bits = np.ndarray[Any, Any]

LEVELS = (0.5, 0.6, 0.7, 0.75, 0.8, 0.9, 0.95, 0.98, 0.99)
PATTERNS = ((1, 2), (2, 4), (4, 8), (1, 4), (2, 8), (8, 16))
BASE = "bound: entropy of the support + values"
"""The lower bound for a file that stores values as they are, and knows only the size of the support."""


# sizes -------------------------------------------------------------------------------------------


def sizes(
    model: Annotated[Path, typer.Argument(help="Dense Hugging Face folder; its block projections are pruned here.")],
    json_file: JsonFile = None,
) -> None:
    """Print bytes per dense element, in bfloat16, of a real model pruned by magnitude to many sparsities."""
    figures: dict[str, dict[str, float]] = {}
    with open_hf(model) as source:
        names = [name for name in source if name.endswith("_proj.weight")]
        for label, keep in _prunings():
            pruned = {name: _pruned(source[name].values, keep) for name in names}
            figures[label] = {name: total / _numel(pruned) for name, total in _totals(pruned, label).items()}
            _print_sizes(label, figures[label])
    write_json(json_file, figures)


def _prunings() -> list[tuple[str, Callable[[Bits], Bits]]]:
    def unstructured(level: float) -> Callable[[Bits], Bits]:
        return lambda scores: keep_of_rows(scores, round(level * scores.shape[1]))

    def pattern(n: int, m: int) -> Callable[[Bits], Bits]:
        return lambda scores: keep_n_of_m(scores, n, m)

    rows = [(f"{level:.0%}", unstructured(level)) for level in LEVELS]
    return rows + [(f"{n}:{m}", pattern(n, m)) for n, m in PATTERNS]


def _pruned(values: Bits, keep: Callable[[Bits], Bits]) -> formats.Sparse:
    support = formats.from_support(keep(np.abs(values.astype(np.float32))))
    kept = values.astype(ml_dtypes.bfloat16).reshape(-1)[formats.flat(support)]
    return formats.with_values(support, kept)


def _numel(pruned: dict[str, formats.Sparse]) -> int:
    return sum(prod(t.shape) for t in pruned.values())


def _totals(pruned: dict[str, formats.Sparse], label: str) -> dict[str, float]:
    """Return format -> bytes of all matrices; those of this project are the sizes of written files."""
    totals = dict.fromkeys(("dense", "zstd of dense", "torch CSR, int64", "torch CSR, int32"), 0.0)
    totals |= dict.fromkeys(("compressed-tensors", *CODES, BASE, "bound: entropy of support and of bytes"), 0.0)
    for t in pruned.values():
        values, (rows, columns) = 2 * t.nnz, t.shape
        dense = formats.to_dense(t)
        totals["dense"] += dense.nbytes
        totals["zstd of dense"] += len(zstandard.ZstdCompressor(level=3).compress(dense.view(np.uint16).tobytes()))
        for bits in (32, 64):
            totals[f"torch CSR, int{bits}"] += values + (t.nnz + rows + 1) * bits // 8
        # this library stores the values, one bit a position, an offset of 8 bytes a row, and the shape in 16 bytes
        totals["compressed-tensors"] += values + rows * -(-columns // 8) + 8 * rows + 16
        for name, code in CODES.items():
            size = code.size(t)
            totals[name] += float("inf") if size is None else values + size
        support = _support_entropy(t, label) / 8
        totals[BASE] += support + values
        totals["bound: entropy of support and of bytes"] += support + _byte_entropy(t.values)
    checkpoint = formats.Checkpoint("model", pruned)
    with tempfile.TemporaryDirectory() as folder:
        for name, compress in (("this format, auto", None), ("this format, auto, zstd", "zstd")):
            path = Path(folder) / "f.sparse"
            formats.write_file(path, checkpoint, compress=compress)
            totals[name] = path.stat().st_size
    return totals


def _support_entropy(t: formats.Sparse, label: str) -> float:
    """Return the entropy in bits of a support that is uniform among those of its size, or of its N:M pattern."""
    numel = prod(t.shape)
    if ":" in label:
        n, m = (int(x) for x in label.split(":"))
        return numel / m * log2(comb(m, n))
    p = t.nnz / numel
    return -numel * (p * log2(p) + (1 - p) * log2(1 - p))


def _byte_entropy(values: Bits) -> float:
    """Return the entropy in bytes of the values, where the k-th bytes of all values share one code."""
    planes = values.view(np.uint8).reshape(-1, values.itemsize).T
    total = 0.0
    for plane in planes:
        share = np.bincount(plane, minlength=256) / plane.size
        total += -plane.size * float((share[share > 0] * np.log2(share[share > 0])).sum()) / 8
    return total


def _print_sizes(label: str, found: dict[str, float]) -> None:
    print(f"\n{label}")
    for name, value in sorted(found.items(), key=lambda item: item[1]):
        print(f"  {name:42} {value:7.4f}   {value / found[BASE]:6.3f} of the bound")


# speed -------------------------------------------------------------------------------------------


def files(
    rounds: Annotated[int, typer.Option(min=1, help="How often everything is done; the median counts.")] = 7,
    folder: Annotated[Path, typer.Option(help="Where to write; files of 100 MB each.")] = Path("build/bench"),
) -> None:
    """Compare writing and reading a sparse checkpoint with `safetensors` on the same number of bytes.

    The matrices are 70 % sparse; the dense file of the same matrices is read for comparison, too.
    """
    from safetensors.numpy import load_file, save_file

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    tensors = {f"w{i}": _random(rng, (4096, 4096), 0.7) for i in range(8)}
    ours, theirs, dense = (folder / name for name in ("ours.sparse", "theirs.safetensors", "dense.safetensors"))
    save_file({name: formats.to_dense(tensor).view(np.uint16) for name, tensor in tensors.items()}, dense)
    checkpoint = formats.Checkpoint("model", tensors)
    formats.write_file(ours, checkpoint)
    size = ours.stat().st_size
    plain = {name: np.frombuffer(rng.bytes(size // 8), np.uint8) for name in tensors}

    def save_to_disk() -> None:
        save_file(plain, theirs)
        with theirs.open("rb") as file:
            os.fsync(file.fileno())

    def read(each: Callable[[formats.Reader, str], object]) -> Callable[[], None]:
        def run() -> None:
            with formats.open(ours) as reader:
                for name in reader.names():
                    each(reader, name)

        return run

    methods: dict[str, tuple[str, Callable[[], object]]] = {
        "safetensors, write": ("write", lambda: save_file(plain, theirs)),
        "safetensors, write, fsync": ("write", save_to_disk),
        "ours, write (fsync, SHA-256)": ("write", lambda: formats.write_file(ours, checkpoint)),
        "safetensors, read": ("read", lambda: load_file(theirs)),
        "ours, read": ("read", read(lambda reader, name: reader[name])),
        "ours, read, digests": ("read", read(lambda reader, name: reader.load_verified(name))),
        "ours, read, to dense": ("read", read(lambda reader, name: formats.to_dense(reader[name]))),
        "ours, write, without numba": ("write", _plainly(lambda: formats.write_file(ours, checkpoint))),
        "ours, read, without numba": ("read", _plainly(read(lambda reader, name: reader[name]))),
        "ours, to dense, without numba": (
            "read",
            _plainly(read(lambda reader, name: formats.to_dense(reader[name]))),
        ),
        "safetensors, read, dense file": ("read", lambda: load_file(dense)),
        "ours, one tensor of eight": ("one", lambda: _one(ours, "w3")),
        "ours, 64 rows of one tensor": ("one", lambda: _some_rows(ours, "w3")),
    }
    for name, tensor in tensors.items():
        with formats.open(ours) as reader:
            assert formats.to_dense(reader.load_verified(name)).tobytes() == formats.to_dense(tensor).tobytes()
    times: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(rounds):
        for name, (_, method) in methods.items():
            start = time.perf_counter()
            method()
            times[name].append(time.perf_counter() - start)
    print(f"{size:,} bytes; speed against safetensors in the same round, median and range")
    for name, (group, _) in methods.items():
        peer = times[f"safetensors, {'read' if group == 'one' else group}"]
        ratios = [a / b for a, b in zip(peer, times[name], strict=True)]
        print(
            f"{name:32} {statistics.median(times[name]) * 1e3:8.1f} ms   "
            f"{statistics.median(ratios):6.2f} ({min(ratios):.2f}..{max(ratios):.2f})"
        )
    shutil.rmtree(folder)


def _plainly(work: Callable[[], object]) -> Callable[[], None]:
    """Return a function that does the work with the NumPy loops, as if numba was not installed."""

    def run() -> None:
        with ExitStack() as stack:
            for name in loops.NAMES:
                stack.enter_context(mock.patch.object(loops, name, getattr(in_numpy, name)))
            work()

    return run


def _random(rng: np.random.Generator, shape: tuple[int, int], sparsity: float) -> formats.Sparse:
    """Return a matrix of random bfloat16 bits with about this sparsity."""
    bits = rng.integers(1, 1 << 16, shape, dtype=np.uint16)
    bits[(bits & 1023) < round(1024 * sparsity)] = 0
    return formats.from_dense(bits.view(ml_dtypes.bfloat16))


def _one(path: Path, name: str) -> None:
    with formats.open(path) as reader:
        reader[name]


def _some_rows(path: Path, name: str) -> None:
    with formats.open(path) as reader:
        reader.rows(name, 2000, 2064)


# memory ------------------------------------------------------------------------------------------

LAYERS, HIDDEN, WIDE, VOCABULARY = 32, 4096, 11008, 32000
"""The sizes of LLaMA 7B."""


def big(
    folder: Annotated[Path, typer.Option(help="Where to write; needs 6 GB.")] = Path("build/bench"),
) -> None:
    """Write a checkpoint of random tensors with the shapes of LLaMA 7B, one by one, and read one of them.

    Writing and reading run in separate processes, so that the peak memory of each is measured alone.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    largest = 2 * VOCABULARY * HIDDEN
    print(f"largest tensor {largest:,} bytes")
    for what in ("nothing", "write", "read"):
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", __name__, what, str(folder)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(done.stderr)
        answer = json.loads(done.stdout)
        print(
            f"{what:8} {time.perf_counter() - start:6.1f} s   peak {answer['peak']:,} bytes, "
            f"{answer['peak'] / largest:.2f} of the largest tensor   {answer['note']}"
        )
    shutil.rmtree(folder)


def _shapes() -> dict[str, tuple[int, int]]:
    block = dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj"), (HIDDEN, HIDDEN))
    block |= {"gate_proj": (WIDE, HIDDEN), "up_proj": (WIDE, HIDDEN), "down_proj": (HIDDEN, WIDE)}
    shapes = {f"layers.{i}.{name}.weight": shape for i in range(LAYERS) for name, shape in block.items()}
    return shapes | dict.fromkeys(("embed_tokens.weight", "lm_head.weight"), (VOCABULARY, HIDDEN))


def _made_up(name: str) -> formats.Tensor:
    shape, rng = _shapes()[name], np.random.default_rng(len(name))
    if shape[0] == VOCABULARY:
        return formats.Dense(rng.integers(0, 1 << 16, shape, dtype=np.uint16).view(ml_dtypes.bfloat16))
    return _random(rng, shape, 0.7)


def _alone(what: str, folder: Path) -> None:
    path, note = folder / "big.sparse", ""
    if what == "write":
        formats.write_file(path, formats.Checkpoint("model", Lazy(_shapes(), _made_up)))
        note = f"{path.stat().st_size:,} bytes"
    elif what == "read":
        with formats.open(path) as reader:
            tensor = reader["layers.17.up_proj.weight"]
            note = f"{reader.info('layers.17.up_proj.weight').nbytes:,} bytes, {tensor.nnz:,} stored"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"peak": peak, "note": note}))


if __name__ == "__main__":
    _alone(sys.argv[1], Path(sys.argv[2]))
