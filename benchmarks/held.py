"""Time products of matrices that are stored in 16 bits or as codes, beside float32 (KRN-015, KRN-018).

Several matrices of one shape are multiplied in turn, so that none stays in a cache, as in a model. A ratio is the time
in float32 over that in the other form.
"""

import statistics
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Annotated, Any

import typer

from benchmarks.rounds import JsonFile, Threads, machine, restart_in_clean_environment, rounds, shape_of
from seft_cli.device import Arithmetic, Device, place_of
from seft_cli.output import write_json
from seft_ref.kernels import KernelSet

FORMS = ("float32", "bfloat16", "int8:g64", "int4:g64", "int4:g128", "int4:g32:asym")
TOKENS = (1, 8, 128, 512)
TOKENS_IN_TILES = (128, 512)
"""Numbers of tokens with which products are in bfloat16 if a user asks for it; few tokens stay in float32."""


def held(
    shape: Annotated[str, typer.Option(help="Rows and columns of a matrix.")] = "4096x4096",
    sparsity: Annotated[float, typer.Option(min=0, max=0.99, help="Share of positions that are not stored.")] = 0.7,
    matrices: Annotated[int, typer.Option(min=1, help="How many are multiplied in turn.")] = 6,
    n_rounds: Annotated[int, typer.Option("--rounds", min=1)] = 9,
    arithmetic: Annotated[Arithmetic, typer.Option(help="How all forms are multiplied (KRN-019).")] = (
        Arithmetic.float32
    ),
    threads: Threads = 1,
    json_file: JsonFile = None,
) -> None:
    """Compare products of matrices in 16 bits and in codes with those of float32, and the bytes of a stored weight."""
    restart_in_clean_environment(threads)
    kernels = place_of(Device.cpu, arithmetic=arithmetic).kernels
    rows_columns = shape_of(shape)
    rows = []
    print(f"{'form':14} {'bytes':>6} {'product':8} {'tokens':>6} {'ms':>8}  against float32")
    tokens = TOKENS if arithmetic is Arithmetic.float32 else TOKENS_IN_TILES
    for row in _measure(kernels, rows_columns, sparsity, matrices, tokens, n_rounds):
        rows.append(row)
        bare = f"{row['form']:14} {row['bytes']:6.2f} {row['product']:8} {row['tokens']:6} {row['ms']:8.2f}"
        print(f"{bare}  {row['ratio']:.2f} ({row['least']:.2f} to {row['most']:.2f})", flush=True)
    options = {
        "shape": shape,
        "sparsity": sparsity,
        "matrices": matrices,
        "rounds": n_rounds,
        "arithmetic": arithmetic.value,
    }
    write_json(json_file, {"machine": machine(threads), "options": options, "rows": rows})


def _measure(
    kernels: KernelSet, shape: tuple[int, int], sparsity: float, n: int, counts: Sequence[int], n_rounds: int
) -> Iterator[dict[str, Any]]:
    import ml_dtypes
    import numpy as np

    from seft_ref.quantise.grid import nearest, parse_grid, weights_of
    from seft_ref.topology.csr import flat, from_flat

    rng = np.random.default_rng(0)
    packed: dict[str, list[Any]] = {form: [] for form in FORMS}
    stored = 0
    for _ in range(n):
        topology = from_flat(shape, np.flatnonzero(rng.random(shape[0] * shape[1], dtype=np.float32) >= sparsity))
        weight = rng.standard_normal(shape, dtype=np.float32)
        values = weight.reshape(-1)[flat(topology)]
        stored += topology.nnz
        packed["float32"].append(kernels.pack(topology, values))
        packed["bfloat16"].append(kernels.compact(topology, values.astype(ml_dtypes.bfloat16)))
        for form in FORMS[2:]:
            codes = nearest(weight, topology, parse_grid(form))
            packed[form].append(kernels.compact(topology, codes))
            _check(kernels, kernels.pack(topology, weights_of(codes, np.dtype(np.float32))), packed[form][-1], rng)
    for tokens in counts:
        x, dy = (rng.standard_normal((tokens, k), dtype=np.float32) for k in shape[::-1])
        for product, multiply, operand in (("forward", kernels.matmul, x), ("dx", kernels.matmul_transposed, dy)):
            methods: dict[str, Callable[[], Any]] = {
                form: partial(_all, multiply, operand, packed[form]) for form in FORMS
            }
            for method in methods.values():
                method()  # the first product with one token builds masks
            for form, times, ratios, _ in rounds(methods, n_rounds, base="float32"):
                yield {
                    "form": form,
                    "bytes": sum(m.nbytes for m in packed[form]) / stored,
                    "product": product,
                    "tokens": tokens,
                    "ms": 1e3 * statistics.median(times) / n,
                    "ratio": statistics.median(ratios),
                    "least": min(ratios),
                    "most": max(ratios),
                }


def _all(multiply: Any, operand: Any, matrices: list[Any]) -> None:
    for matrix in matrices:
        multiply(operand, matrix)


def _check(kernels: KernelSet, wide: Any, codes: Any, rng: Any) -> None:
    """Exit if products of codes are not those of their float32 weights."""
    import numpy as np

    x, dy = (rng.standard_normal((17, k), dtype=np.float32) for k in wide.shape[::-1])
    same = np.array_equal(kernels.matmul(x, wide), kernels.matmul(x, codes))
    if not (same and np.array_equal(kernels.matmul_transposed(dy, wide), kernels.matmul_transposed(dy, codes))):
        raise SystemExit("products of codes are not those of their weights")
