"""Cases of the adapters (ADP): forward, backward, merge, start values, and LoRA*.

Every gradient is checked against a complex step before it is written.
"""

from collections.abc import Callable
from copy import copy
from typing import Any

import numpy as np

from conformance.gen.numbers import Area, Array, Numbers, ids, reals
from conformance.oracle import adapters as oracle
from conformance.oracle import prune

_STEP = 1e-30
_ORACLE = "loops in binary64; gradients checked by complex step"
_CLAUSES = {
    "lora": "ADP-001 ADP-004 NUM-004",
    "spp": "ADP-006 ADP-008 NUM-004",
    "sparsepeft": "ADP-007 ADP-008 TOP-004 NUM-004",
}
_CATCHES = {
    "lora": "the scale lost or upside down, factors swapped, a merge on the support alone",
    "spp": "bands in turns, a gradient without c, the scale lost or upside down",
    "sparsepeft": "a mask of values that are not 0, gradients off the support, the scale lost or upside down",
}


class _Base:
    """A sparse weight with `stored` random positions; every fourth value is 0."""

    def __init__(self, n: Numbers, n_out: int, n_in: int, stored: int, *, biased: bool) -> None:
        self.shape = (n_out, n_in)
        self.positions = n.subset(n_out * n_in, stored)
        values = n.real(stored)
        values[::4] = 0.0
        self.values = values
        self.bias = n.real(n_out) if biased else None

    @property
    def held(self) -> dict[tuple[int, int], float]:
        return {divmod(p, self.shape[1]): float(v) for p, v in zip(self.positions, self.values, strict=True)}

    def everywhere(self) -> list[tuple[int, int]]:
        return [(o, i) for o in range(self.shape[0]) for i in range(self.shape[1])]

    def given(self) -> dict[str, Any]:
        out = {"out": self.shape[0], "in": self.shape[1], "positions": ids(self.positions)}
        return out | {"values": self.values, "bias": self.bias}


def _change(kind: str, base: _Base, a: Array, other: Array, s: float) -> dict[tuple[int, int], Any]:
    if kind == "spp":
        return oracle.proportional(base.held, a, other, s)
    return oracle.low_rank(a, other, s, base.everywhere() if kind == "lora" else base.held)


def _answer(kind: str, base: _Base, factors: list[Array], s: float, x: Array, dy: Array) -> dict[str, Any]:
    n_out, n_in = base.shape
    rows, drows = x.reshape(-1, n_in), dy.reshape(-1, n_out)
    a, other = factors
    weight = oracle.merged(base.held, _change(kind, base, a, other, s))
    if kind == "spp":
        grads = oracle.proportional_gradients(drows, rows, base.held, a, other, s)
    else:
        places = base.everywhere() if kind == "lora" else list(base.held)
        grads = oracle.low_rank_gradients(drows, rows, a, other, s, places)
    y, dx = oracle.forward(rows, weight, n_out, base.bias), oracle.backward(drows, weight, n_in)

    def forward(inputs: list[Array]) -> Array:
        z, first, second = inputs
        moved = oracle.merged(base.held, _change(kind, base, first, second, s))
        return oracle.forward(z, moved, n_out, base.bias)

    _check(forward, [rows, a, other], drows, [dx, *grads])
    merged = reals(weight.values())
    names = ("y", "dx", "da", "dc" if kind == "spp" else "db", "merged", "parameters")
    outputs = (y.reshape(dy.shape), dx.reshape(x.shape), *grads, merged, a.size + other.size)
    return dict(zip(names, outputs, strict=True))


def _check(forward: Callable[[list[Array]], Array], inputs: list[Array], dy: Array, grads: list[Array]) -> None:
    for j, g in enumerate(grads):
        direction = Numbers(20, j).real(g.shape)
        moved = [z + 1j * _STEP * direction if i == j else z.astype(complex) for i, z in enumerate(inputs)]
        slope = float((forward(moved) * dy).sum().imag / _STEP)
        scale = float(np.abs(g * direction).sum()) + 1e-3 * float(np.abs(dy).max(initial=0.0))
        assert abs(slope - float((g * direction).sum())) <= 1e-11 * scale, "a gradient of the oracle is wrong"


def _factors(kind: str, n: Numbers, base: _Base, rows: int) -> list[Array]:
    n_out, n_in = base.shape
    return [n.real((rows, n_in)), n.real(n_out if kind == "spp" else (n_out, rows))]


def _given(
    kind: str, base: _Base, factors: list[Array], alpha: float, rank: int, x: Array, dy: Array
) -> dict[str, Any]:
    out = base.given() | {"a": factors[0], "alpha": alpha, "x": x, "dy": dy}
    return out | ({"c": factors[1], "rank": rank} if kind == "spp" else {"b": factors[1]})


def pairs() -> Area:
    """Return cases of LoRA, SPP and SparsePEFT (ADP-001, ADP-003, ADP-004, ADP-006 to ADP-009)."""
    area = Area("adapter", _ORACLE)
    n = Numbers(60, 1)
    for kind, clauses in _CLAUSES.items():
        # `rows` is the rank. For SPP it is the number of bands, because the rank of SPP is 2 in all these cases.
        for name, n_out, n_in, stored, rows, lead, alpha, biased in (
            ("plain", 12, 7, 30, 3, (4,), 6.0, False),
            ("bias", 8, 9, 25, 2, (2, 3), 0.5, True),
            ("one-row", 5, 6, 11, 1, (3,), 4.0, False),
            ("every-position", 6, 5, 30, 2, (5,), 1.0, True),
            ("few-positions", 32, 5, 9, 16, (2,), 16.0, False),
            ("nothing-stored", 4, 3, 0, 2, (2,), 2.0, True),
            ("no-tokens", 4, 3, 6, 2, (0,), 2.0, False),
        ):
            base = _Base(n, n_out, n_in, stored, biased=biased)
            factors = _factors(kind, n, base, rows)
            x, dy = n.real((*lead, n_in)), n.real((*lead, n_out))
            s = alpha / (2 if kind == "spp" else rows)
            answer = _answer(kind, base, factors, s, x, dy)
            inputs = _given(kind, base, factors, alpha, 2, x, dy)
            area.add(f"{kind}-{name}", f"adapter.{kind}", clauses, _CATCHES[kind], inputs, answer)
        _start_of(area, n, kind)
        _refusals(area, n, kind)
    for kind in _CLAUSES:
        _alone(area, Numbers(60, 4), kind)
    return area


def _start_of(area: Area, n: Numbers, kind: str) -> None:
    """Add an untrained adapter: its second factor is 0, and its products are exact (ADP-003)."""
    base = _Base(n, 6, 5, 13, biased=True)
    base.values, base.bias = n.lattice(13), n.lattice(6)
    factors = [f * 0.0 if j else f for j, f in enumerate(_factors(kind, n, base, 3))]
    x, dy = n.lattice((4, 5)), n.lattice((4, 6))
    answer = _answer(kind, base, factors, 2.0, x, dy)
    inputs = _given(kind, base, factors, 6.0 if kind != "spp" else 4.0, 2, x, dy)
    text = "an adapter that changes the model before it has learnt anything"
    area.add(f"{kind}-start", f"adapter.{kind}", f"ADP-003 {_CLAUSES[kind]}", text, inputs, answer)


def _refusals(area: Area, n: Numbers, kind: str) -> None:
    base = _Base(n, 6, 5, 13, biased=False)
    a, other = _factors(kind, n, base, 3)
    x, dy = n.real((4, 5)), n.real((4, 6))
    wrong: list[tuple[str, list[Array], float, int]] = [
        ("narrow-a", [a[:, :1], other], 2.0, 2),
        ("wide-a", [n.real((3, 6)), other], 2.0, 2),
        ("short", [a, other[:1]], 2.0, 2),
        ("alpha-0", [a, other], 0.0, 2),
        ("alpha-negative", [a, other], -1.0, 2),
        ("alpha-infinite", [a, other], float("inf"), 2),
    ]
    if kind == "spp":
        wrong += [
            ("rank-0", [a, other], 2.0, 0),
            ("bands", [n.real((4, 5)), other], 2.0, 2),
            ("more-bands", [n.real((12, 5)), other], 2.0, 2),
            ("no-bands", [a[:0], other], 2.0, 2),
        ]
    else:
        wrong += [("other-rank", [a[:2], other], 2.0, 2), ("rank-0", [a[:0], other[:, :0]], 2.0, 2)]
    for name, factors, alpha, rank in wrong:
        inputs = _given(kind, base, [np.ascontiguousarray(f) for f in factors], alpha, rank, x, dy)
        text = "factors broadcast, cut or rounded until they fit"
        area.add(f"{kind}-refuse-{name}", f"adapter.{kind}", "ADP-009", text, inputs, refused="ADP-009")


def _alone(area: Area, n: Numbers, kind: str) -> None:
    """Add adapters with an alpha far below 1, an alpha of NaN, and a second factor longer than out (ADP-009)."""
    base = _Base(n, 6, 5, 13, biased=False)
    factors, x, dy = _factors(kind, n, base, 3), n.real((4, 5)), n.real((4, 6))
    alpha = 2.0**-20
    inputs = _given(kind, base, factors, alpha, 2, x, dy)
    answer = _answer(kind, base, factors, alpha / (2 if kind == "spp" else 3), x, dy)
    text = "an alpha below 1 refused"
    area.add(f"{kind}-alpha-small", f"adapter.{kind}", f"ADP-009 {_CLAUSES[kind]}", text, inputs, answer)
    long = np.concatenate([factors[1], factors[1][:2]])
    for name, other, scale, text in (
        ("alpha-nan", factors[1], float("nan"), "an alpha compared with both ends, which NaN is beyond neither of"),
        ("alpha-far", factors[1], 1e40, "a scale that is infinite in float32, and NaN beside a factor of 0"),
        ("long", long, 2.0, "a factor cut to the rows that there are"),
    ):
        inputs = _given(kind, base, [factors[0], other], scale, 2, x, dy)
        area.add(f"{kind}-refuse-{name}", f"adapter.{kind}", "ADP-009", text, inputs, refused="ADP-009")


def initial() -> Area:
    """Return cases of the start values of adapters (ADP-002, ADP-009)."""
    area = Area("adapter-initial", "integers, then binary64")
    for kind, n_out, n_in, rows, seed, matrix in (
        ("lora", 5, 7, 3, 0, 0),
        ("lora", 4, 9, 2, 2**64 - 1, 13),
        ("sparsepeft", 6, 5, 4, 11, 2),
        ("spp", 32, 3, 16, 11, 2),
        ("spp", 6, 11, 3, 1, 1),
    ):
        zero = np.zeros(n_out if kind == "spp" else (n_out, rows))
        inputs = {"kind": kind, "out": n_out, "in": n_in, "rows": rows, "seed": seed, "matrix": matrix}
        answer = {"a": oracle.start(rows, n_in, seed, matrix), "other": zero, "parameters": rows * n_in + zero.size}
        text = "another stream, draws numbered by column, a bound of 1/in"
        inputs["like"] = np.zeros(0)
        area.add(f"{kind}-{rows}x{n_in}", "adapter.initial", "ADP-002 RNG-002", text, inputs, answer)
    for kind, rows in (("lora", 0), ("spp", 4), ("spp", 0)):
        inputs = {"kind": kind, "out": 6, "in": 5, "rows": rows, "seed": 1, "matrix": 0, "like": np.zeros(0)}
        text = "a rank of nothing, bands with a remainder"
        area.add(f"refuse-{kind}-{rows}", "adapter.initial", "ADP-009", text, inputs, refused="ADP-009")
    return area


def star() -> Area:
    """Return cases of LoRA* on small integers, so that every implementation merges into the same numbers (ADP-005)."""
    area = Area("adapter-star", "loops over sorted tuples")
    stream = Numbers(60, 3)
    for name, n_out, n_in, pattern, still, purpose in (
        ("rows", 8, 10, None, False, "the first mask kept, or ranked before the merge"),
        ("pattern", 6, 12, (2, 4), False, "the pattern of the base forgotten"),
        ("pattern-zero", 6, 8, (2, 4), False, "a base refused, because a weight that it kept is 0"),
        ("one-of-two", 5, 8, (1, 2), False, "the pattern of the base forgotten"),
        ("rows-start", 7, 10, None, True, "a support that changes though nothing was learnt"),
        ("pattern-start", 4, 8, (2, 4), True, "a support that changes though nothing was learnt"),
    ):
        # a copy, because the cases behind this one were published without it
        n = copy(stream) if name == "pattern-zero" else stream
        norms = n.integers(n_in, 1, 3).astype(np.float64)
        w = np.where(n.lattice((n_out, n_in)) < 0, -1.0, 1.0) * n.integers((n_out, n_in), 1, 9)
        kept = _pruned(w, norms, pattern)
        if name == "pattern-zero":
            w[divmod(kept.pop(3), n_in)] = 0.0
        a, b = n.lattice((2, n_in), 2), n.lattice((n_out, 2), 2) * (0.0 if still else 1.0)
        weights = {divmod(p, n_in): float(w.reshape(-1)[p]) for p in kept}
        every = [(o, i) for o in range(n_out) for i in range(n_in)]
        full = oracle.merged(weights, oracle.low_rank(a, b, 2.0, every))
        merged = reals(full.values()).reshape(n_out, n_in)
        again = _pruned(merged, norms, pattern)
        assert (again == kept) == still, name
        inputs = _star_given(n_out, n_in, kept, w, a, b, norms, pattern)
        answer = {"kept": ids(again), "values": merged.reshape(-1)[again] + 0.0}
        clauses = f"ADP-005 ADP-004 {'PRN-004' if pattern else 'PRN-003'}" + (" ADP-003" if still else "")
        area.add(name, "adapter.lora_star", clauses, purpose, inputs, answer)
    w, norms = n.lattice((4, 8)) + 20, np.ones(8)
    a, b = n.lattice((2, 8), 2), n.lattice((4, 2), 2)
    inputs = _star_given(4, 8, _pruned(w, norms, None)[1:], w, a, b, norms, None)
    text = "a support of another size than the base's"
    area.add("refuse-count", "adapter.lora_star", "ADP-005", text, inputs, refused="ADP-005")
    kept = _pruned(w, norms, None)
    more = sorted([*kept, next(p for p in range(32) if p not in kept)])
    inputs = _star_given(4, 8, more, w, a, b, norms, None)
    text = "a support that may shrink"
    area.add("refuse-fewer", "adapter.lora_star", "ADP-005", text, inputs, refused="ADP-005")
    more = sorted([*_pruned(w, norms, (2, 4)), next(p for p in range(32) if p not in _pruned(w, norms, (2, 4)))])
    inputs = _star_given(4, 8, more, w, a, b, norms, (2, 4))
    area.add("refuse-pattern-fewer", "adapter.lora_star", "ADP-005", text, inputs, refused="ADP-005")
    for name, bad in (("nan", float("nan")), ("infinite", float("inf"))):
        broken = b.copy()
        broken[1, 0] = bad
        inputs = _star_given(4, 8, _pruned(w, norms, None), w, a, broken, norms, None)
        area.add(f"refuse-{name}", "adapter.lora_star", "ADP-005", "NaN ranked", inputs, refused="ADP-005")
    return area


_SPARSITY = 0.6


def _pruned(w: Array, norms: Array, pattern: tuple[int, int] | None) -> list[int]:
    if pattern is None:
        return prune.wanda(w, list(norms), _SPARSITY)
    return prune.pattern(np.abs(w) * norms, *pattern)


def _star_given(
    n_out: int,
    n_in: int,
    kept: list[int],
    w: Array,
    a: Array,
    b: Array,
    norms: Array,
    pattern: tuple[int, int] | None,
) -> dict[str, Any]:
    out = {"out": n_out, "in": n_in, "positions": ids(kept), "values": w.reshape(-1)[kept], "a": a, "b": b}
    out |= {"alpha": 4.0, "square_sums": norms**2, "sparsity": _SPARSITY}
    return out | {"pattern": None if pattern is None else ids(pattern)}


AREAS = (pairs, initial, star)
