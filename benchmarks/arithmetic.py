"""Time products and a training step in bfloat16 (KRN-019), beside float32, dense NumPy and PyTorch in bfloat16.

    float32           this project's products of float32
    bfloat16          this project's products of rounded numbers, on the tiles of AMX
    numpy             dense NumPy, float32
    torch bfloat16    dense PyTorch: x and the result are converted, the weight is bfloat16 already

A step is that of `benchmarks step`; PyTorch's in bfloat16 is under autocast. PyTorch has a process of its own.
"""

import os
import statistics
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import typer

from benchmarks.beside import Beside
from benchmarks.rounds import JsonFile, Threads, machine, restart_in_clean_environment, rounds, timed
from benchmarks.step import CONFIG, made_up_run, torch_peer
from seft_cli import console
from seft_cli.output import write_json

SHAPES = ((576, 576), (1536, 576), (576, 1536), (2048, 2048), (4096, 4096))
TOKENS = (128, 512, 2048)
COLUMNS = ("what", "tokens", "ms in float32", "to float32", "to dense NumPy", "to PyTorch in bfloat16")


def arithmetic(
    sparsity: Annotated[float, typer.Option(min=0, max=0.99, help="Share of positions that are not stored.")] = 0.7,
    n_rounds: Annotated[int, typer.Option("--rounds", min=1)] = 9,
    threads: Threads = 1,
    json_file: JsonFile = None,
) -> None:
    """Compare products and a training step in bfloat16 with those in float32, and with PyTorch's in bfloat16."""
    restart_in_clean_environment(threads)
    from seft_ref.kernels.cpu import tiles

    reason = tiles.without_tiles()
    if reason:
        raise console.Refused(f"{reason}; there is nothing to measure")
    rows: list[list[str | int]] = []
    raw: list[dict[str, Any]] = []
    cases = [
        (f"{product}, {n_out} x {n_in}", n, _product(product, (n_out, n_in), n, sparsity))
        for n_out, n_in in SHAPES
        for n in TOKENS
        for product in ("forward", "dx")
    ]
    for what, n, make in [*cases, ("a step of the 135M model", 512, lambda: _step(sparsity))]:
        methods, peers = make()
        times = {name: own for name, own, _, _ in rounds(methods, n_rounds, base="float32", peers=peers)}
        ratios = {
            peer: [theirs / ours for theirs, ours in zip(times[peer], times["bfloat16"], strict=True)]
            for peer in times
            if peer != "bfloat16"
        }
        cells = [_cell(ratios.get(peer)) for peer in ("float32", "numpy", "torch bfloat16")]
        rows.append([what, n, f"{1e3 * statistics.median(times['float32']):.2f}", *cells])
        raw.append({"what": what, "tokens": n, "seconds": times})
        print(*rows[-1], sep="  ", flush=True)
    options = {"sparsity": sparsity, "rounds": n_rounds}
    write_json(
        json_file, {"machine": machine(threads), "options": options, "columns": COLUMNS, "rows": rows, "raw": raw}
    )


def _cell(ratios: list[float] | None) -> str:
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}..{max(ratios):.2f})" if ratios else ""


Made = tuple[dict[str, Callable[[], Any]], dict[str, Callable[[int], Any]]]


def _product(product: str, shape: tuple[int, int], n: int, sparsity: float) -> Callable[[], Made]:
    def make() -> Made:
        import numpy as np

        from seft_ref.kernels import cpu
        from seft_ref.kernels.cpu import tiles
        from seft_ref.topology.csr import flat, from_flat

        rng = np.random.default_rng(0)
        topology = from_flat(shape, np.flatnonzero(rng.random(shape[0] * shape[1], dtype=np.float32) >= sparsity))
        weight = np.zeros(shape, dtype=np.float32)
        weight.reshape(-1)[flat(topology)] = rng.standard_normal(topology.nnz, dtype=np.float32)
        packed = cpu.pack(topology, weight.reshape(-1)[flat(topology)])
        of_rows = product == "forward"
        operand = rng.standard_normal((n, shape[of_rows]), dtype=np.float32)
        turned = weight.T if of_rows else weight
        methods: dict[str, Callable[[], Any]] = {"numpy": partial(np.matmul, operand, turned)}
        for arithmetic, kernels in (("float32", cpu), ("bfloat16", tiles)):
            methods[arithmetic] = partial(kernels.matmul if of_rows else kernels.matmul_transposed, operand, packed)
        exact = methods["numpy"]()
        for result in (methods["float32"](), methods["bfloat16"]()):
            if not np.allclose(result, exact, atol=0.02 * np.abs(exact).max()):
                raise SystemExit(f"products of {shape} differ from NumPy's")
        return methods, {"torch bfloat16": Beside(_torch_product, operand, turned)}

    return make


def _torch_product(operand: Any, weight: Any) -> Callable[[int], Any]:
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    x, w = torch.from_numpy(operand), torch.from_numpy(weight.copy()).bfloat16()
    return timed(lambda: (x.bfloat16() @ w).float())


def _step(sparsity: float) -> Made:
    import numpy as np

    from seft_ref.kernels import cpu
    from seft_ref.kernels.cpu import tiles

    ours, tokens, *_ = made_up_run(CONFIG, sparsity, cpu)
    rough, *_ = made_up_run(CONFIG, sparsity, tiles)
    if not np.isclose(ours.step(tokens), rough.step(tokens), rtol=1e-3):
        raise SystemExit("the losses of float32 and bfloat16 differ")
    methods = {"float32": lambda: ours.step(tokens), "bfloat16": lambda: rough.step(tokens)}
    return methods, {"torch bfloat16": Beside(_torch_step, sparsity, tokens)}


def _torch_step(sparsity: float, tokens: Any) -> Callable[[int], Any]:
    import torch

    peer = torch_peer(CONFIG, sparsity)

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16):
            return peer(tokens)

    return timed(step)
