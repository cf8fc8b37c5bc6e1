"""The goals of the benchmarks, least ratios against peers: benchmarks print those they miss, a page tabulates all."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WIDE = 2048
"""Goals of products apply to matrices with at least this many rows and columns."""
THREADS = (1, 2)
"""The numbers of threads that a page shows results for."""


@dataclass(frozen=True, slots=True)
class Goal:
    """A least ratio: every row of a benchmark that has these fields is to be that many times as fast as the peer."""

    what: str
    kind: str
    """the benchmark: kernels, step or generate"""
    rows: Mapping[str, Any]
    """fields and values of the rows that the goal applies to"""
    least: tuple[float, float]
    """the least ratio on one thread, and on more"""
    peer: str = "numpy"

    def ratios(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Return by matrix, or `model`, how many times as fast as the peer the rows of this goal are."""
        own = [r for r in rows if all(r[name] == value for name, value in self.rows.items())]
        if self.kind == "step":
            return {r["what"]: r["ratio"][self.peer] for r in own if self.peer in r["ratio"]}
        wide = [r for r in own if min(r["shape"]) >= WIDE]
        if self.kind == "generate":
            return {_matrix(r): r["ratio"]["ours"] for r in wide}
        by_matrix: dict[str, dict[str, float]] = {}
        for r in wide:
            by_matrix.setdefault(_matrix(r), {})[r["method"]] = r["ratio"]
        both = {"ours", self.peer}
        return {matrix: of["ours"] / of[self.peer] for matrix, of in by_matrix.items() if both <= of.keys()}

    def of_threads(self, threads: int) -> float:
        """Return the least ratio for a number of threads."""
        return self.least[min(threads, len(self.least)) - 1]


def _matrix(row: Mapping[str, Any]) -> str:
    return f"{row['shape'][0]}x{row['shape'][1]}"


def _products() -> Iterator[Goal]:
    for product, pattern, tokens, least, peer in (
        ("forward", "70%", 128, 2.8, "numpy"),
        ("forward", "70%", 512, 2.3, "numpy"),
        ("forward", "70%", 2048, 2.0, "numpy"),
        ("forward", "50%", 512, 1.25, "numpy"),
        ("forward", "2:4", 512, 1.25, "numpy"),
        ("forward", "90%", 512, 3.3, "numpy"),
        *(
            ("forward", "70%", tokens, least, peer)
            for tokens in (128, 512, 2048)
            for peer, least in (("torch", 3.5), ("scipy csr", 4.0), ("torch csr", 4.0))
        ),
        ("dx", "70%", 128, 1.8, "numpy"),
        ("dx", "70%", 512, 1.8, "numpy"),
        ("dx", "70%", 2048, 1.8, "numpy"),
        ("dx, copy", "70%", 128, 1.9, "numpy"),
        ("dx, copy", "70%", 512, 1.9, "numpy"),
        ("dx, copy", "70%", 2048, 1.9, "numpy"),
        ("sample", "99%", 128, 16, "numpy"),
        ("sample", "99%", 512, 16, "numpy"),
    ):
        rows = {"product": product, "pattern": pattern, "tokens": tokens}
        yield Goal(f"{product} at {pattern}, {tokens} tokens", "kernels", rows, (least, least), peer)


LAYERS = ("2048x2048", "5632x2048", "4096x4096")
GOALS = (
    *_products(),
    *(
        Goal(f"a step of a layer of {layer} at 70%", "step", {"what": layer, "sparsity": 0.7}, (least, least), peer)
        for layer in LAYERS
        for peer, least in (("torch", 3.8), ("torch lora", 2.5))
    ),
    Goal("a step of the model at 70%", "step", {"what": "model", "sparsity": 0.7}, (4, 5.5), "torch"),
    *(
        Goal(f"one token at {pattern}, from memory", "generate", {"pattern": pattern}, (least, least))
        for pattern, least in (("50%", 1.6), ("70%", 2.6), ("90%", 5))
    ),
)


def missed(kind: str, rows: Sequence[Mapping[str, Any]], threads: int) -> str:
    """Return the text that a benchmark prints after its rows, with a line for every goal that a row misses."""
    lines = []
    for goal in GOALS:
        if goal.kind == kind:
            least = goal.of_threads(threads)
            below = [f"{matrix} {ratio:.2f}" for matrix, ratio in goal.ratios(rows).items() if ratio < least]
            lines += [f"{goal.what} against {goal.peer}, goal {least:g}: {', '.join(below)}"] if below else []
    return "\n".join(["", "goals missed:" if lines else "all goals met", *lines])
