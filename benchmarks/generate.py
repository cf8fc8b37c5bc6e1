"""Benchmark of the product of generation, y = W x with one token, where W comes from memory and not from a cache.

    numpy           W @ x of a dense matrix
    ours            kernels.cpu.matmul of one row
    scipy csr       csr_array @ x
    torch           torch's W @ x of the same dense matrix, in a process of its own (`benchmarks.beside`)

Every method cycles through copies of its matrix, because a model's matrices leave the cache between two tokens. The
copies take at least ROTATED bytes together, more than the caches of the machines that this was run on. All methods are
checked before one is timed.
"""

import json
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import cycle
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.beside import Beside
from benchmarks.goals import missed
from benchmarks.rounds import JsonFile, Threads, drawn_mask, machine, restart_in_clean_environment, rounds, timed
from seft_cli.output import write_json

SHAPES = ((2048, 2048), (5632, 2048), (576, 1536))
"""Matrices of models of a billion parameters, and of the demo's model."""
PATTERNS = ("50%", "2:4", "70%", "90%")
ROTATED = 160e6


@dataclass(frozen=True)
class TokenRow:
    """One matrix: microseconds a product, and ratios of dense NumPy's time to each method's, median and range."""

    shape: tuple[int, int]
    pattern: str
    threads: int
    microseconds: dict[str, float]
    ratio: dict[str, float]
    ratio_range: dict[str, tuple[float, float]]
    megabytes: dict[str, float]


def generate(
    json_file: JsonFile = None,
    threads: Threads = 1,
    quick: Annotated[bool, typer.Option(help="One shape, three rounds.")] = False,
) -> None:
    """Compare our product of one token with those of dense NumPy, dense torch and SciPy's CSR."""
    restart_in_clean_environment(threads)
    print(json.dumps(machine(threads), indent=1))
    rows = []
    print(f"{'shape':>11} {'stored':>6}   us: numpy ours scipy torch   numpy/other (range)")
    for shape in SHAPES[:1] if quick else SHAPES:
        for pattern in PATTERNS:
            row = _measure(shape, pattern, threads, 3 if quick else 7)
            rows.append(row)
            print(_format(row), flush=True)
    written = [asdict(row) for row in rows]
    print(missed("generate", written, threads))
    write_json(json_file, {"machine": machine(threads), "rows": written})


def _measure(shape: tuple[int, int], pattern: str, threads: int, n_rounds: int) -> TokenRow:
    methods, megabytes = _methods(shape, pattern)
    peers = {"torch": Beside(_torch_product, shape, pattern, threads)}
    expected = methods["numpy"]()
    for name, result in [*((name, method()) for name, method in methods.items()), ("torch", peers["torch"](0))]:
        error = float(np.abs(np.asarray(result).reshape(-1) - expected).max())
        if not error <= 1e-5 * float(np.abs(expected).max()):
            raise SystemExit(f"{name} is off by {error}")
    measured = {name: (own, ratios) for name, own, ratios, _ in rounds(methods, n_rounds, peers=peers)}
    return TokenRow(
        shape,
        pattern,
        threads,
        {name: 1e6 * statistics.median(own) for name, (own, _) in measured.items()},
        {name: statistics.median(ratios) for name, (_, ratios) in measured.items()},
        {name: (min(ratios), max(ratios)) for name, (_, ratios) in measured.items()},
        megabytes,
    )


def _drawn(shape: tuple[int, int], pattern: str) -> tuple[Any, Any, Any]:
    """Return stored positions, a dense matrix that is 0 elsewhere, and a vector, the same in every process."""
    rng = np.random.default_rng(1)
    mask = drawn_mask(np.random.default_rng(0), shape, pattern)
    dense = np.zeros(shape, dtype=np.float32)
    dense[mask] = rng.standard_normal(int(mask.sum()), dtype=np.float32)
    return np.flatnonzero(mask), dense, rng.standard_normal(shape[1], dtype=np.float32)


def _rotated(n_bytes: int, make: Callable[[], Any]) -> Any:
    """Return an endless cycle through copies of a matrix, which take ROTATED bytes together."""
    return cycle([make() for _ in range(int(-(-ROTATED // n_bytes)))])


def _torch_product(shape: tuple[int, int], pattern: str, threads: int) -> Callable[[int], Any]:
    """Return torch's product, as `timed` does."""
    import torch

    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    _, dense, x = _drawn(shape, pattern)
    copies, vector = _rotated(dense.nbytes, lambda: torch.from_numpy(dense.copy())), torch.from_numpy(x)
    product = timed(lambda: next(copies) @ vector)
    # a result goes to the other process as an array
    return lambda count: product(count) if count else product(0).numpy()


def _methods(shape: tuple[int, int], pattern: str) -> tuple[dict[str, Callable[[], Any]], dict[str, float]]:
    """Return by method a function that computes one product, and the megabytes of its matrix, torch's included."""
    from scipy.sparse import csr_array

    from seft_ref.kernels import cpu
    from seft_ref.topology.csr import from_flat

    positions, dense, x = _drawn(shape, pattern)
    topology, values = from_flat(shape, positions), dense.reshape(-1)[positions]
    row = x[None, :]

    def ready() -> Any:
        """Return our packed matrix after a first product, which builds its masks."""
        matrix = cpu.pack(topology, values)
        cpu.matmul(row, matrix)
        return matrix

    packed, csr = ready(), csr_array((values, topology.indices, topology.indptr), shape=shape)
    n_csr = sum(a.nbytes for a in (csr.data, csr.indices, csr.indptr))
    ours = _rotated(packed.nbytes, ready)
    theirs = _rotated(n_csr, csr.copy)
    numpys = _rotated(dense.nbytes, dense.copy)
    methods: dict[str, Callable[[], Any]] = {
        "numpy": lambda: next(numpys) @ x,
        "ours": lambda: cpu.matmul(row, next(ours)),
        "scipy csr": lambda: next(theirs) @ x,
    }
    sizes = {"numpy": dense.nbytes, "ours": packed.nbytes, "scipy csr": n_csr, "torch": dense.nbytes}
    return methods, {name: n / 1e6 for name, n in sizes.items()}


def _format(row: TokenRow) -> str:
    times = " ".join(f"{t:.0f}" for t in row.microseconds.values())
    ratios = "  ".join(
        f"{name} {row.ratio[name]:.2f} ({row.ratio_range[name][0]:.2f}-{row.ratio_range[name][1]:.2f})"
        for name in row.ratio
        if name != "numpy"
    )
    return f"{row.shape[0]:>5}x{row.shape[1]:<5} {row.pattern:>6}   {times}   {ratios}"
