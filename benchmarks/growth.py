"""Benchmark of growth: find the positions of the largest |dW| from dy and x (GRD-003); the peers form dW whole.

    numpy           dW = dyᵀ x, |dW|, np.partition for the k-th, the positions above it
    torch           torch.topk of |dyᵀ x|
                    in a process of its own (`beside`)
    ours            seft_ref.matrix.evidence.evidence, some rows at a time
    product         dyᵀ x alone, a lower bound

Before anything is timed, ours and torch must find at least 99.9 % of the positions that NumPy finds. Positions of the
update are excluded. Memory is the most that a call allocates through NumPy, its result included. That of torch is not
measured, because it follows from the shapes.
"""

import json
import statistics
import tracemalloc
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.beside import Beside
from benchmarks.rounds import JsonFile, Threads, machine, restart_in_clean_environment, rounds
from seft_cli.output import write_json

SHAPES = ((2048, 2048), (5632, 2048), (2048, 5632), (8192, 2048))
"""Matrices of models of a billion parameters: those of TinyLlama 1.1B, and the widest of LLaMA 3.2 1B."""
TOKENS = (512, 2048)
GROWN = 0.002
"""Share of positions that grow, a fifth of an update of 1 %."""
GOALS = {"numpy": 1 / 1.1, "torch": 2.0}
MEMORY_GOAL = 0.1


@dataclass(frozen=True)
class GrowthRow:
    """One shape: median milliseconds, ratios of the peers' times to ours, peaks in bytes."""

    shape: tuple[int, int]
    tokens: int
    milliseconds: dict[str, float]
    ratio: dict[str, float]
    ratio_range: dict[str, tuple[float, float]]
    peak: dict[str, int]


def growth(
    json_file: JsonFile = None,
    threads: Threads = 1,
    quick: Annotated[bool, typer.Option(help="One shape, 512 tokens, three rounds.")] = False,
) -> None:
    """Compare exact top-k growth with dense NumPy and torch, in time and memory."""
    restart_in_clean_environment(threads)
    print(json.dumps(machine(threads), indent=1))
    rows = []
    print(f"{'shape':>11} {'tokens':>6}   ms: ours numpy torch product   others/ours (range)    peak MiB ours/numpy")
    for shape in SHAPES[:1] if quick else SHAPES:
        for tokens in TOKENS[:1] if quick else TOKENS:
            row = _measure(shape, tokens, threads, 3 if quick else 7)
            rows.append(row)
            print(_format(row), flush=True)
    for other, goal in GOALS.items():
        missed = [f"{r.shape[0]}x{r.shape[1]}/{r.tokens} {r.ratio[other]:.2f}" for r in rows if r.ratio[other] < goal]
        print(f"against {other}, goal {goal:.2f}: {'missed at ' + ', '.join(missed) if missed else 'met'}")
    worst = max(row.peak["ours"] / row.peak["numpy"] for row in rows)
    print(f"memory: at most {worst:.3f} of numpy's, goal {MEMORY_GOAL}: {'met' if worst <= MEMORY_GOAL else 'missed'}")
    write_json(json_file, {"machine": machine(threads), "rows": [asdict(row) for row in rows]})


def _measure(shape: tuple[int, int], tokens: int, threads: int, n_rounds: int) -> GrowthRow:
    methods = _methods(shape, tokens, threads)
    answers = {"ours": methods["ours"](), "numpy": methods["numpy"](), "torch": methods["torch"](True)}
    for name, positions in answers.items():
        # 0.1 % may differ, because sums in another order may swap positions whose scores differ by one bit
        same = np.intersect1d(positions, answers["numpy"]).size
        if same < 0.999 * answers["numpy"].size:
            raise SystemExit(f"{name} finds {same} of {answers['numpy'].size} positions")
    times = {name: own for name, own, _, _ in rounds(methods, n_rounds)}
    ratios = {
        name: [theirs / ours for theirs, ours in zip(times[name], times["ours"], strict=True)]
        for name in ("numpy", "torch", "product")
    }
    return GrowthRow(
        shape,
        tokens,
        {name: 1000 * statistics.median(own) for name, own in times.items()},
        {name: statistics.median(r) for name, r in ratios.items()},
        {name: (min(r), max(r)) for name, r in ratios.items()},
        {name: _peak(methods[name]) for name in ("ours", "numpy")},
    )


def _made_up(shape: tuple[int, int], tokens: int) -> tuple[Any, Any, Any, Any, int]:
    """Return random dy and x, the stored positions, those of the update, and how many positions grow."""
    rng = np.random.default_rng(0)
    n = shape[0] * shape[1]
    dy = rng.standard_normal((tokens, shape[0]), dtype=np.float32)
    x = rng.standard_normal((tokens, shape[1]), dtype=np.float32)
    stored = np.flatnonzero(rng.random(n) < 0.3)
    own = np.sort(rng.choice(stored, n // 100, replace=False))
    return dy, x, stored, own, int(GROWN * n)


def _methods(shape: tuple[int, int], tokens: int, threads: int) -> dict[str, Callable[..., Any]]:
    from seft_ref.kernels import cpu
    from seft_ref.layers.linear import WeightGradient
    from seft_ref.matrix.evidence import View, evidence
    from seft_ref.matrix.of_step import Accumulated
    from seft_ref.matrix.window import Window
    from seft_ref.topology.csr import from_flat
    from seft_ref.update.delta import Base, new_delta
    from seft_ref.update.rules import Rule

    dy, x, stored, own, k = _made_up(shape, tokens)
    base = Base(from_flat(shape, stored), np.ones(stored.size, dtype=np.float32))
    # the gradient is given as its two factors, because a backward pass has those
    window = Window(shape, latest=Accumulated(shape, (WeightGradient(dy, x),)))
    view = View(window, base, new_delta(shape, own, base.values))
    # adapt at the end only, because the evidence for it costs the same whatever method finds the candidates
    rule = Rule(adapts="end")

    def ours() -> Any:
        (scored,) = evidence([view], rule, np.array([k]), kernels=cpu)
        return scored.candidates[np.sort(np.argpartition(-scored.candidate_scores, k - 1)[:k])]

    def numpy() -> Any:
        scores = np.abs(dy.T @ x).reshape(-1)
        scores[own] = -1
        return np.flatnonzero(scores >= np.partition(scores, scores.size - k)[scores.size - k])

    peer = Beside(_torch_growth, shape, tokens, threads)
    return {"ours": ours, "numpy": numpy, "torch": peer, "product": partial(np.matmul, dy.T, x)}


def _torch_growth(shape: tuple[int, int], tokens: int, threads: int) -> Callable[..., Any]:
    """Return PyTorch's growth; it returns the positions only if asked, because they would cross a pipe."""
    import torch

    torch.set_num_threads(threads)
    dy, x, _, own, k = _made_up(shape, tokens)
    torch_dy, torch_x, torch_own = (torch.from_numpy(a) for a in (dy, x, own))

    def growth(answer: bool = False) -> Any:
        scores = (torch_dy.T @ torch_x).abs_().reshape(-1)
        scores[torch_own] = -1
        found = torch.topk(scores, k, sorted=False).indices
        return found.numpy() if answer else None

    return growth


def _peak(method: Callable[[], Any]) -> int:
    """Return the peak of the bytes that NumPy allocates during a call."""
    tracemalloc.start()
    try:
        method()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _format(row: GrowthRow) -> str:
    ms = " ".join(f"{row.milliseconds[name]:.1f}" for name in ("ours", "numpy", "torch", "product"))
    ratios = "  ".join(
        f"{name} {row.ratio[name]:.2f} ({row.ratio_range[name][0]:.2f}-{row.ratio_range[name][1]:.2f})"
        for name in ("numpy", "torch")
    )
    peaks = "/".join(f"{row.peak[name] / 2**20:.1f}" for name in ("ours", "numpy"))
    return f"{row.shape[0]:>5}x{row.shape[1]:<5} {row.tokens:>6}   {ms}   {ratios}   {peaks}"
