"""Measure what the project claims about speed, against the libraries one would use otherwise.

    python tools/bench.py kernels [--json FILE] [--threads N] [--quick] [--device cuda]
    python tools/bench.py sizes MODEL    bytes a weight, beside other formats
    python tools/bench.py files          writing and reading, beside safetensors
    python tools/bench.py big            memory with a file of a 7B model
    python tools/bench.py growth         exact top-k of a gradient, beside whole gradients
    python tools/bench.py generate       products with one token, beside dense and CSR
    python tools/bench.py step           a training step, beside PyTorch with dense gradients and with LoRA
    python tools/bench.py memory         what a step holds, by part, beside PyTorch
    python tools/bench.py large          a training step of a 7B model, event included, inside 16 GiB

Every comparison is made in one process: each round runs every method, so that whatever disturbs the machine
disturbs all of them, and each timed block follows an untimed call of the same method, so that its memory is
warm. A ratio is dense NumPy's time over the method's within a round; the table shows their median and range.
"""

import json
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import bench_files
import bench_generate
import bench_gpu
import bench_growth
import bench_large
import bench_memory
import bench_step
import typer
from _bench import machine, restart_in_clean_environment, rounds
from _device import Device, DeviceOption

app = typer.Typer(add_completion=False, help=__doc__)
for command in (
    bench_files.sizes,
    bench_files.files,
    bench_files.big,
    bench_growth.growth,
    bench_generate.generate,
    bench_large.large,
    bench_memory.memory,
    bench_step.step,
):
    app.command()(command)

SHAPES = ((576, 576), (1536, 576), (2048, 2048), (5632, 2048))
SPARSITIES = (0.5, 0.7, 0.9)
TOKENS = (128, 512, 2048)
SAMPLED = 0.01  # share of positions at which a sparse update asks for its gradient
UNDISTURBED = 0.95
"""Share of its cores from which a block is printed without a mark."""

GOALS = {("forward", 0.7, 128): 2.2, ("forward", 0.7, 512): 1.8, ("forward", 0.7, 2048): 1.5} | {
    (what, share, n): goal
    for what, share, goal in (("dx", 0.7, 1.3), ("sample", 0.99, 16.0))
    for n in ((128, 512, 2048) if what == "dx" else (128, 512))
}
"""Least ratio to dense NumPy, by product, sparsity and tokens, on layers from 2048 wide."""


@dataclass(frozen=True)
class Row:
    """One method against dense NumPy, or dense NumPy itself."""

    product: str
    shape: tuple[int, int]
    sparsity: float
    tokens: int
    method: str
    seconds: float
    ratio: float
    """Time of dense NumPy over that of this method, median of the rounds."""
    lowest: float
    highest: float
    core: float
    """Least share of its cores that this method or dense NumPy used in a block; low if others were busy."""


@app.callback()
def main() -> None:
    """Measure speed and memory."""


@app.command()
def kernels(
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the rows to this file as well.")] = None,
    threads: Annotated[int, typer.Option(help="Threads of every library.")] = 1,
    quick: Annotated[bool, typer.Option(help="One shape, two token counts, three rounds.")] = False,
    device: DeviceOption = Device.cpu,
) -> None:
    """Compare the CPU kernel set with dense NumPy, dense and CSR torch, and SciPy; the GPU's with cuBLAS, torch and
    cuSPARSE.
    """
    if device is Device.cuda:
        bench_gpu.kernels(json_file, quick=quick)
        return
    restart_in_clean_environment(threads)
    print(json.dumps(machine(threads), indent=1))
    rows: list[Row] = []
    print(f"{'product':8} {'shape':>10} {'sparse':>6} {'tokens':>6}  {'method':12} {'ms':>9}  against numpy")
    for row in _measure(((2048, 2048),) if quick else SHAPES, (128, 512) if quick else TOKENS, 3 if quick else 5):
        rows.append(row)
        print(_format(row), flush=True)
    missed = [r for r in rows if r.method == "ours" and r.ratio < _goal(r)]
    print("\ngoals missed:" if missed else "\nall goals met")
    for row in missed:
        print(f"{_format(row)}   goal {_goal(row)}")
    if json_file is not None:
        json_file.write_text(
            json.dumps({"machine": machine(threads), "rows": [asdict(r) for r in rows]}, indent=1) + "\n"
        )


def _measure(shapes: tuple[tuple[int, int], ...], tokens: tuple[int, ...], n_rounds: int) -> Iterator[Row]:
    import numpy as np

    from seft_ref.kernels import cpu
    from seft_ref.topology import flat, from_flat

    rng = np.random.default_rng(0)
    for shape in shapes:
        n_out, n_in = shape
        for sparsity in (*SPARSITIES, 1 - SAMPLED):
            topology = from_flat(shape, np.flatnonzero(rng.random(n_out * n_in) >= sparsity))
            positions = flat(topology)
            values = rng.standard_normal(topology.nnz, dtype=np.float32)
            weight = np.zeros(shape, dtype=np.float32)
            weight.reshape(-1)[positions] = values
            packed = cpu.pack(topology, values)
            for n in tokens:
                x = rng.standard_normal((n, n_in), dtype=np.float32)
                dy = rng.standard_normal((n, n_out), dtype=np.float32)
                peers = _peers(weight, topology, values, x, dy, positions)
                ours: dict[str, Callable[[], Any]] = {
                    "forward": partial(cpu.matmul, x, packed),
                    "dx": partial(cpu.matmul_transposed, dy, packed),
                    "sample": partial(cpu.sample, dy, x, topology),
                }
                for product in ours if sparsity in SPARSITIES else ("sample",):
                    methods = {"numpy": peers[product].pop("numpy"), "ours": ours[product], **peers[product]}
                    _check(product, methods)
                    for method, times, ratios, core in rounds(methods, n_rounds):
                        yield Row(
                            product,
                            shape,
                            round(sparsity, 4),
                            n,
                            method,
                            statistics.median(times),
                            statistics.median(ratios),
                            min(ratios),
                            max(ratios),
                            core,
                        )


def _peers(
    weight: Any, topology: Any, values: Any, x: Any, dy: Any, positions: Any
) -> dict[str, dict[str, Callable[[], Any]]]:
    """The other ways to compute each product, by product and name, on token-major arrays."""
    peers: dict[str, dict[str, Callable[[], Any]]] = {
        "forward": {"numpy": lambda: x @ weight.T},
        "dx": {"numpy": lambda: dy @ weight},
        "sample": {"numpy": lambda: (dy.T @ x).reshape(-1)[positions]},
    }
    if find_spec("scipy"):
        from scipy.sparse import csr_array

        csr = csr_array((values, topology.indices, topology.indptr), shape=topology.shape)
        csr_transposed = csr.T.tocsr()
        peers["forward"]["scipy csr"] = lambda: (csr @ x.T).T
        peers["dx"]["scipy csr"] = lambda: (csr_transposed @ dy.T).T
    if find_spec("torch"):
        import warnings

        import torch

        torch.set_grad_enabled(False)
        tw, tx, tdy, at = (torch.from_numpy(a) for a in (weight, x, dy, positions))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch calls its CSR tensors a beta
            tcsr = tw.to_sparse_csr()
            tcsr_transposed = tw.T.contiguous().to_sparse_csr()
        peers["forward"] |= {
            "torch": lambda: (tx @ tw.T).numpy(),
            "torch csr": lambda: (tcsr @ tx.T).T.numpy(),
        }
        peers["dx"] |= {
            "torch": lambda: (tdy @ tw).numpy(),
            "torch csr": lambda: (tcsr_transposed @ tdy.T).T.numpy(),
        }
        peers["sample"]["torch"] = lambda: (tdy.T @ tx).reshape(-1)[at].numpy()
    return peers


def _check(product: str, methods: dict[str, Callable[[], Any]]) -> None:
    """Refuse to time a method whose result differs from dense NumPy's by more than float32 sums may."""
    expected = methods["numpy"]()
    largest = float(abs(expected).max())
    for name, method in methods.items():
        error = float(abs(method() - expected).max())
        if not error <= 3e-5 * largest:
            raise SystemExit(f"{product} by {name} is off by {error}, largest entry {largest}")


def _goal(row: Row) -> float:
    return GOALS.get((row.product, row.sparsity, row.tokens), 0.0) if min(row.shape) >= 2048 else 0.0


def _format(row: Row) -> str:
    shape = f"{row.shape[0]}x{row.shape[1]}"
    return (
        f"{row.product:8} {shape:>10} {row.sparsity:6.0%} {row.tokens:6}  {row.method:12} "
        f"{row.seconds * 1e3:9.3f}  {row.ratio:6.2f} ({row.lowest:.2f}..{row.highest:.2f})"
        + (f"  got {row.core:.0%} of its cores" if row.core < UNDISTURBED else "")
    )


if __name__ == "__main__":
    app()
