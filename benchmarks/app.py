"""Measure what the project claims about speed, against the libraries one would use otherwise.

    python -m benchmarks kernels [--json FILE] [--threads N] [--quick] [--device cuda]
    python -m benchmarks bounds         the upper limits of a sparse product on this processor
    python -m benchmarks sizes MODEL    bytes a weight, beside other formats
    python -m benchmarks files          writing and reading, beside safetensors
    python -m benchmarks adapters       a sparse change, as deltas and as adapters of PEFT
    python -m benchmarks layers         the compiled layers beside the plain ones, and a step with either
    python -m benchmarks small-deltas   the bytes of a delta of few changes, in this format and in others
    python -m benchmarks deltas         a model shipped after every step, beside whole files and zstd
    python -m benchmarks steps          a torch model published and followed step by step, beside whole files
    python -m benchmarks big            memory with a file of a 7B model
    python -m benchmarks held           products of matrices in 16 bits and in codes, beside float32
    python -m benchmarks arithmetic     products and a step in bfloat16, beside float32
    python -m benchmarks growth         exact top-k of a gradient, beside whole gradients
    python -m benchmarks generate       products with one token, beside dense and CSR
    python -m benchmarks tokens         tokens a second of a model, beside PyTorch and llama.cpp
    python -m benchmarks step           a training step, beside PyTorch with dense gradients and with LoRA
    python -m benchmarks parts          the seconds of our training step, by part
    python -m benchmarks memory         the memory of a training step by part, beside PyTorch
    python -m benchmarks peft MODEL     SEFT beside other tuners of PEFT
    python -m benchmarks peft-page QUALITY SPEED DENSE PAGE    the tables of that comparison
    python -m benchmarks large          a training step of a 7B model, event included, inside 16 GiB
    python -m benchmarks scale          larger models on several hosts, by a model of time and memory
    python -m benchmarks gpu            all checks and benchmarks of a GPU
    python -m benchmarks readers        which readers of safetensors accept bad files
    python -m benchmarks readers-page JSON PAGE    the page about them
    python -m benchmarks page PAGE RESULTS    tables and pictures from the files of --json

Methods run in one process, or in processes that sleep between calls (`beside`). Each round runs every method, so that
a disturbance of the machine slows all of them. An untimed call of a method comes before each of its timed blocks, so
that its memory is warm. A ratio is the time of dense NumPy over that of the method, within a round. The table shows
the median of the ratios and their range.
"""

import json
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from itertools import product as product_of
from typing import Annotated, Any

import typer

from benchmarks import (
    adapters,
    arithmetic,
    bounds,
    check_gpu,
    deltas,
    files,
    generate,
    gpu,
    growth,
    held,
    large,
    layers,
    memory,
    page,
    parts,
    peft_methods,
    readers,
    scale,
    small_deltas,
    step,
    steps,
    tokens,
)
from benchmarks.goals import missed
from benchmarks.rounds import JsonFile, drawn_mask, machine, restart_in_clean_environment, rounds, shape_of
from seft_cli import console
from seft_cli.device import Device, DeviceOption
from seft_cli.output import write_json

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)
for command in (
    adapters.adapters,
    arithmetic.arithmetic,
    bounds.bounds,
    files.sizes,
    files.files,
    files.big,
    deltas.deltas,
    growth.growth,
    generate.generate,
    held.held,
    large.large,
    layers.layers,
    memory.memory,
    page.page,
    parts.parts,
    peft_methods.peft,
    peft_methods.peft_page,
    readers.readers,
    readers.readers_page,
    scale.scale,
    small_deltas.small_deltas,
    step.step,
    steps.steps,
    tokens.tokens,
):
    app.command()(command)
app.command("gpu")(check_gpu.main)

SHAPES = ((576, 576), (1536, 576), (2048, 2048), (5632, 2048), (4096, 4096), (11008, 4096))
"""Layers of models of 135 million, of one billion and of seven billion parameters."""
PATTERNS = ("50%", "2:4", "70%", "80%", "90%")
SAMPLED = "99%"
"""`sample` is timed at 1 % of the positions, because a sparse update needs the gradient at about as many."""
TOKENS = (1, 16, 128, 512, 2048)
CSR_WORK = 1.2e10
"""CSR peers are left out above this many multiplications and additions, because they would take most of the time."""
LONG_WORK = 6e10
"""A dense product of at least this many multiplications and additions gets only three rounds."""
CSR = ("scipy csr", "torch csr", "mkl csr")
"""Peers that store only the positions that we store; MKL takes part if sparse-dot-mkl is installed."""
UNDISTURBED = 0.95
"""A block that got less than this share of its cores is marked in the output."""


@dataclass(frozen=True)
class Row:
    """One method on one product, matrix and number of tokens, compared with dense NumPy."""

    product: str
    shape: tuple[int, int]
    pattern: str
    """Share of positions that are not stored, or N:M."""
    tokens: int
    method: str
    seconds: float
    ratio: float
    """Time of dense NumPy over that of this method, median of the rounds."""
    lowest: float
    highest: float
    core: float
    """Least share of its cores that this method or dense NumPy got in a block; low if other programs were busy."""


@app.callback()
def main() -> None:
    """Measure speed and memory."""


@app.command()
def kernels(
    json_file: JsonFile = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of every library [1].")] = None,
    quick: Annotated[bool, typer.Option(help="One shape, three patterns, two token counts, three rounds.")] = False,
    shape: Annotated[
        list[str] | None, typer.Option(help="A matrix, 2048x2048 for instance; all of them if none is named. Repeat.")
    ] = None,
    device: DeviceOption = Device.cpu,
) -> None:
    """Compare the CPU kernels with dense NumPy, dense and CSR torch, and SciPy.

    With --device cuda, compare the GPU kernels with cuBLAS, torch and cuSPARSE.
    """
    if device is Device.cuda:
        console.refuse_unused("--device cuda", (), {"--threads": threads, "--shape": shape or None})
        gpu.kernels(json_file, quick=quick)
        return
    shapes = tuple(shape_of(text) for text in shape or ()) or (((2048, 2048),) if quick else SHAPES)
    threads = threads or 1
    restart_in_clean_environment(threads)
    print(json.dumps(machine(threads), indent=1))
    rows: list[Row] = []
    print(f"{'product':8} {'shape':>10} {'sparse':>6} {'tokens':>6}  {'method':12} {'ms':>9}  against numpy")
    grid = (("50%", "70%", "90%"), (128, 512), 3) if quick else (PATTERNS, TOKENS, 5)
    for row in _measure(shapes, *grid):
        rows.append(row)
        print(_format(row), flush=True)
    written = [asdict(row) for row in rows]
    print(missed("kernels", written, threads))
    write_json(json_file, {"machine": machine(threads), "rows": written})


def _measure(
    shapes: tuple[tuple[int, int], ...], patterns: tuple[str, ...], tokens: tuple[int, ...], n_rounds: int
) -> Iterator[Row]:
    import numpy as np

    from seft_ref.kernels import cpu
    from seft_ref.kernels.cpu import transposed
    from seft_ref.topology.csr import flat, from_flat

    rng = np.random.default_rng(0)
    for shape, pattern in product_of(shapes, (*patterns, SAMPLED)):
        n_out, n_in = shape
        topology = from_flat(shape, np.flatnonzero(drawn_mask(rng, shape, pattern)))
        positions = flat(topology)
        values = rng.standard_normal(topology.nnz, dtype=np.float32)
        weight = np.zeros(shape, dtype=np.float32)
        weight.reshape(-1)[positions] = values
        packed, twice = cpu.pack(topology, values), transposed.pack(topology, values)
        for n in tokens:
            work = 2 * n * n_out * n_in
            x = rng.standard_normal((n, n_in), dtype=np.float32)
            dy = rng.standard_normal((n, n_out), dtype=np.float32)
            with_csr = pattern != SAMPLED and 2 * n * topology.nnz <= CSR_WORK
            peers = _peers(weight, topology, values, x, dy, positions, with_csr=with_csr)
            ours: dict[str, Callable[[], Any]] = {
                "forward": partial(cpu.matmul, x, packed),
                "dx": partial(cpu.matmul_transposed, dy, packed),
                "dx, copy": partial(transposed.matmul_transposed, dy, twice),
                "sample": partial(cpu.sample, dy, x, topology),
            }
            for product in ours if pattern != SAMPLED else ("sample",):
                methods = {"numpy": peers[product].pop("numpy"), "ours": ours[product], **peers[product]}
                _check(product, methods)
                for method, times, ratios, core in rounds(methods, n_rounds if work < LONG_WORK else 3):
                    middle, ratio = statistics.median(times), statistics.median(ratios)
                    yield Row(product, shape, pattern, n, method, middle, ratio, min(ratios), max(ratios), core)


def _peers(
    weight: Any, topology: Any, values: Any, x: Any, dy: Any, positions: Any, *, with_csr: bool
) -> dict[str, dict[str, Callable[[], Any]]]:
    """Return the peers by product and name: functions that compute the product on token-major arrays."""
    peers: dict[str, dict[str, Callable[[], Any]]] = {
        "forward": {"numpy": lambda: x @ weight.T},
        "dx": {"numpy": lambda: dy @ weight},
        "dx, copy": {"numpy": lambda: dy @ weight},
        "sample": {"numpy": lambda: (dy.T @ x).reshape(-1)[positions]},
    }
    if with_csr and find_spec("scipy"):
        from scipy.sparse import csr_array

        csr = csr_array((values, topology.indices, topology.indptr), shape=topology.shape)
        csr_transposed = csr.T.tocsr()
        peers["forward"]["scipy csr"] = lambda: (csr @ x.T).T
        peers["dx"]["scipy csr"] = lambda: (csr_transposed @ dy.T).T
        if find_spec("sparse_dot_mkl"):
            try:
                from sparse_dot_mkl import dot_product_mkl
            except ImportError as error:
                raise SystemExit(f"sparse_dot_mkl is installed and does not load: {error}") from error

            peers["forward"]["mkl csr"] = lambda: dot_product_mkl(csr, x.T).T
            peers["dx"]["mkl csr"] = lambda: dot_product_mkl(csr_transposed, dy.T).T
    if find_spec("torch"):
        import warnings

        import torch

        torch.set_grad_enabled(False)
        tw, tx, tdy, at = (torch.from_numpy(a) for a in (weight, x, dy, positions))
        peers["forward"]["torch"] = lambda: (tx @ tw.T).numpy()
        peers["dx"]["torch"] = lambda: (tdy @ tw).numpy()
        peers["sample"]["torch"] = lambda: (tdy.T @ tx).reshape(-1)[at].numpy()
        if with_csr:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch warns that CSR tensors are in beta
                tcsr = tw.to_sparse_csr()
                tcsr_transposed = tw.T.contiguous().to_sparse_csr()
            peers["forward"]["torch csr"] = lambda: (tcsr @ tx.T).T.numpy()
            peers["dx"]["torch csr"] = lambda: (tcsr_transposed @ tdy.T).T.numpy()
    return peers


def _check(product: str, methods: dict[str, Callable[[], Any]]) -> None:
    """Exit if the result of a method differs from dense NumPy's by more than the rounding of float32 sums may."""
    expected = methods["numpy"]()
    largest = float(abs(expected).max())
    for name, method in methods.items():
        error = float(abs(method() - expected).max())
        if not error <= 3e-5 * largest:
            raise SystemExit(f"{product} by {name} is off by {error}, largest entry {largest}")


def _format(row: Row) -> str:
    shape = f"{row.shape[0]}x{row.shape[1]}"
    return (
        f"{row.product:8} {shape:>10} {row.pattern:>6} {row.tokens:6}  {row.method:12} "
        f"{row.seconds * 1e3:9.3f}  {row.ratio:6.2f} ({row.lowest:.2f}..{row.highest:.2f})"
        + (f"  got {row.core:.0%} of its cores" if row.core < UNDISTURBED else "")
    )
