"""Properties of sizes beyond every boundary of an index type: the operations of `core` (chapters 2, 3, 6, 8 and 9).

One example goes through all sizes, from small to large, so that a failure shows at the smallest one. Arrays come from a
word of the run's seed: they are too long to be drawn number by number, or to be stored as frozen cases.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from conformance.cases.case import Bound
from conformance.gen.numbers import Array, ids, reals
from conformance.gen.update import after_adamw, after_event, given_state, matrix_of
from conformance.oracle import select, select_rng, update, update_adamw, update_counts
from conformance.oracle.update import State
from conformance.properties.draws import Draw, Many, Shape
from conformance.properties.trial import Trial, property_of

__all__ = ["BEYOND", "lengths", "shapes", "tiled"]

BEYOND = "more than 65,536 entries"
_FAR = "a position above 2³¹"
_FARTHER = "a position above 2³²"


def lengths(d: Draw) -> list[int]:
    """Return lengths of vectors: around 256, in between, and beyond 65,536."""
    return [255 + d.integer(0, 2), d.integer(1301, 5000), 65_536 + d.integer(1, 300)]


def shapes(d: Draw) -> list[Shape]:
    """Return shapes: a width around 256, one beyond 65,536, rows beyond 65,536, and entries beyond 65,536."""
    return [
        (3, 255 + d.integer(0, 2)),
        (1, 65_900 + d.integer(0, 99)),
        (65_900 + d.integer(0, 99), 1),
        (257 + d.integer(0, 3), 257 + d.integer(0, 9)),
    ]


def _far(d: Draw) -> list[Shape]:
    """Return shapes that have few stored entries, at positions that no integer of 32 bits holds."""
    return [(2, 1_100_000_000 + d.integer(0, 10**6)), (65_600 + d.integer(0, 99), 65_537 + d.integer(0, 99))]


def _sees(t: Trial, shape: Shape, at: Array | Sequence[int]) -> None:
    t.saw(BEYOND, len(at) > 65_536)
    t.saw(_FAR, len(at) and at[-1] >= 2**31)
    t.saw(_FARTHER, len(at) and at[-1] >= 2**32)
    t.saw("more than 65,536 rows", shape[0] > 65_536)
    t.saw("more than 65,536 columns", shape[1] > 65_536)


def _size(shape: Shape) -> dict[str, Any]:
    return {"out": shape[0], "in": shape[1]}


def _most(many: Many, shape: Shape) -> list[int]:
    """Return most positions of a matrix, or few of one that is too large."""
    size = shape[0] * shape[1]
    if size > 2**22:
        return [*many.subset(size - 1, 40).tolist(), size - 1]
    return list(many.subset(size, size - size // 200).tolist())


def tiled(values: Any, n: int) -> Array:
    """Return n entries that repeat the given ones."""
    x = np.asarray(values)
    return np.tile(x, n // max(len(x), 1) + 1)[:n]


@property_of(
    "select.large",
    "SEL-001 SEL-002 SEL-003",
    "core",
    "select.largest select.smallest",
    sees=(BEYOND, _FARTHER),
    seeded=1,
)
def _select(d: Draw, t: Trial) -> None:
    """Of many scores with many ties, and ids beyond 32 bits, the same are chosen as by sorted tuples."""
    for n in lengths(d):
        many = Many(d)
        scores = many.lattice((n,), 300) / 8
        where = many.subset(2**34, n)
        _sees(t, (1, n), where)
        for name, choose in (("largest", select.largest), ("smallest", select.smallest)):
            k = d.integer(n // 3, n)
            answer = {"chosen": ids(choose(scores.tolist(), where.tolist(), k))}
            t.case(f"select.{name}", {"scores": scores, "ids": where, "k": k}, answer)


@property_of(
    "topology.large",
    "TOP-001 TOP-002 TOP-003",
    "core",
    "topology.of topology.positions",
    sees=(BEYOND, _FAR, _FARTHER, "more than 65,536 rows", "more than 65,536 columns"),
    seeded=1,
)
def _topology(d: Draw, t: Trial) -> None:
    """Rows, columns and flat positions belong together where rows, columns, slots or positions are many."""
    # every width at which an index of 8 or 16 bits ends
    boundaries = [(2, width) for width in (255, 256, 257, 65_535, 65_536)]
    for shape in boundaries + shapes(d) + _far(d):
        at = _most(Many(d), shape)
        _sees(t, shape, at)
        indptr, columns = select.rows_and_columns(shape, at)
        told = {"indptr": ids(indptr), "indices": ids(columns)}
        t.case("topology.of", _size(shape) | {"positions": ids(at)}, told)
        t.case("topology.positions", _size(shape) | told, {"positions": ids(at)})


@property_of(
    "change.large",
    "CHG-001 CHG-002",
    "core",
    "change.source change.realign",
    sees=(BEYOND, _FAR, _FARTHER),
    seeded=1,
)
def _change(d: Draw, t: Trial) -> None:
    """Many slots, and slots at far positions, move to where they belong."""
    for shape in shapes(d)[2:] + _far(d):
        many = Many(d)
        old = _most(many, shape)
        # some of the old ones leave, some positions are new
        new = sorted({*_most(many, shape), *old[:: d.integer(2, 5)]})
        values = many.lattice((len(old),), 10**6) / 64
        _sees(t, shape, old)
        given = _size(shape) | {"old": ids(old), "new": ids(new)}
        t.case("change.source", given, {"source": ids(select.source(old, new))})
        moved = reals(select.realign(values.tolist(), old, new, -1.5))
        t.case("change.realign", given | {"values": values, "fill": -1.5}, {"values": moved})


def _state(many: Many, shape: Shape, stored: int, slots: int) -> State:
    """Return a state on few levels, with slots on the base and off it."""
    size = shape[0] * shape[1]
    base, eta = (many.subset(size, n).tolist() for n in (stored, slots))
    b, phi, m, v = (
        (many.lattice((n,), top) / 8).tolist() for n, top in ((stored, 40), (slots, 40), (slots, 9), (slots, 9))
    )
    age = many.integers(slots, 0, 9).tolist()
    columns = [dict(zip(eta, x, strict=True)) for x in (phi, m, [abs(x) for x in v], age)]
    return State(size, dict(zip(base, b, strict=True)), *columns)


@property_of(
    "delta.large",
    "DLT-003 DLT-004 RNG-002 TOP-004",
    "core",
    "delta.effective delta.initial_random",
    sees=(BEYOND, _FARTHER),
    seeded=1,
)
def _delta(d: Draw, t: Trial) -> None:
    """Many weights are b + φ on the slots, and first slots are drawn among many, or far, positions."""
    for shape in shapes(d)[1:]:
        size = shape[0] * shape[1]
        state = _state(Many(d), shape, size - size // 9, size // 3)
        w = update.effective(state.base, state.phi)
        _sees(t, shape, list(w))
        answer = {"support": ids(w), "weights": reals(w.values())}
        t.case("delta.effective", matrix_of(shape, state.base, state.phi), answer)
    for shape in [shapes(d)[3], *_far(d)]:
        at = _most(Many(d), shape)
        n, seed, matrix = d.integer(len(at) // 3, len(at) // 2), d.integer(0, 2**40), d.integer(0, 300)
        _sees(t, shape, at)
        given = _size(shape) | {"base": ids(at), "n": n, "seed": seed, "matrix": matrix}
        t.case("delta.initial_random", given, {"positions": ids(update_counts.initial_random(at, n, seed, matrix))})


@property_of(
    "update.large",
    "DROP-001 GROW-001 GROW-002 ADPT-001 ADPT-002 SEL-001 SEL-002",
    "core",
    "update.drop update.grow update.adapt",
    sees=(BEYOND, _FAR, "more than 65,536 rows", "more than 65,536 columns"),
    seeded=1,
)
def _update(d: Draw, t: Trial) -> None:
    """Drop, grow and adapt choose among many positions, whatever the ties."""
    for shape in [*shapes(d), *_far(d)]:
        eta, many = _most(Many(d), shape), Many(d)
        phi = dict(zip(eta, (many.lattice((len(eta),), 99) / 16).tolist(), strict=True))
        n = d.integer(len(eta) // 3, len(eta) - 1)
        _sees(t, shape, eta)
        given = _size(shape) | {"delta": ids(eta), "delta_values": reals(phi.values()), "n": n}
        t.case("update.drop", given, {"dropped": ids(update.dropped(phi, n))})
    for shape in shapes(d)[1:]:
        size, many = shape[0] * shape[1], Many(d)
        state = _state(many, shape, size // 2, size // 4)
        flat, scope = (many.lattice((size,), 200) / 16).tolist(), d.choice(("all", "active"))
        out = [p for p, age in state.age.items() if age > 6]
        n = d.integer(size // 8, size // 4)
        given = _size(shape) | {"base": ids(state.base), "delta": ids(state.phi), "dropped": ids(out), "n": n}
        given |= {"gradient": reals(flat).reshape(shape), "scope": scope}
        t.case("update.grow", given, {"grown": ids(update.grown(state, out, flat, n, scope))})
        w = update.effective(state.base, state.phi)
        budget = len(w) - d.integer(size // 8, size // 4)
        given = matrix_of(shape, state.base, state.phi) | {"gradient": reals(flat).reshape(shape), "budget": budget}
        t.case("update.adapt", given, {"pruned": ids(update.pruned(w, set(), flat, budget))})


@property_of(
    "update.evolve-large",
    "EVT-001 EVT-003 EVT-006 GROW-003 ADPT-003 ADPT-004 DLT-005 CHG-002",
    "core",
    "update.evolve",
    sees=(BEYOND, "more than 65,536 rows", "more than 65,536 columns"),
    seeded=1,
)
def _evolve(d: Draw, t: Trial) -> None:
    """An event of a matrix with many slots is drop, grow, adapt on dictionaries."""
    for shape in shapes(d)[1:3]:
        size, many = shape[0] * shape[1], Many(d)
        state = _state(many, shape, size // 2, size - size // 200)
        gradient = many.lattice(shape, 200) / 16
        support, slots = len(state.base.keys() | state.phi.keys()), len(state.phi)
        how: dict[str, Any] = {"n_drop": slots // 2, "delta_budget": slots + size // 50, "budget": support}
        how |= {"scope": d.choice(("all", "active")), "adapts": 1}
        after, _ = update.evolve(state, gradient.reshape(-1).tolist(), **how)
        _sees(t, shape, range(support))
        t.case("update.evolve", given_state(shape, state) | how | {"gradient": gradient}, after_event(after, float))


def _product(many: Many, shape: Shape, tokens: int, at: Array) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the inputs of a product, and its outputs; sums of integers are exact in every order."""
    values, x, dy = (many.lattice(size, 4) for size in ((len(at),), (tokens, shape[1]), (tokens, shape[0])))
    row, column = at // shape[1], at % shape[1]
    y, dx = np.zeros((tokens, shape[0])), np.zeros((tokens, shape[1]))
    for one in range(tokens):
        np.add.at(y[one], row, values * x[one, column])
        np.add.at(dx[one], column, values * dy[one, row])
    dvalues = np.sum(dy[:, row] * x[:, column], axis=0)
    given = _size(shape) | {"positions": at, "values": values, "x": x, "dy": dy}
    return given, {"y": y, "dx": dx, "dvalues": dvalues, "shape": ids(shape)}


def exact(answer: dict[str, Any], *names: str) -> dict[str, Bound]:
    """Return bounds of 0: sums of integers that no rounding touches (KRN-007)."""
    return {name: Bound(np.zeros(answer[name].shape), 0) for name in names}


@property_of(
    "kernel.large",
    "KRN-001 KRN-002 KRN-003 KRN-007 KRN-012",
    "core",
    "kernel.sparse kernel.store",
    sees=(BEYOND, "more than 65,536 rows", "more than 65,536 columns"),
    reduced=True,
    seeded=1,
)
def _kernel(d: Draw, t: Trial) -> None:
    """Products over many stored positions, or of wide and high matrices, are exact on integers."""
    for shape in shapes(d):
        many, tokens = Many(d), d.integer(1, 2)
        at = ids(_most(many, shape))
        _sees(t, shape, at)
        given, answer = _product(many, shape, tokens, at)
        t.case("kernel.sparse", given, answer, bounds=exact(answer, "y", "dx", "dvalues"))
        slots = many.subset(len(at), len(at) // 3)[::-1].copy()
        new, values = many.lattice((len(slots),), 4), given["values"].copy()
        values[slots] = new
        dense = np.zeros(shape[0] * shape[1])
        dense[at] = values
        told = {name: given[name] for name in ("out", "in", "positions", "values", "x")} | {"slots": slots, "new": new}
        t.case("kernel.store", told, {"y": given["x"] @ dense.reshape(shape).T})


@property_of(
    "gradient.large",
    "GRD-001 GRD-002",
    "core",
    "gradient.whole gradient.at",
    sees=(BEYOND, "more than 65,536 rows", "more than 65,536 columns"),
    reduced=True,
    seeded=1,
)
def _gradient(d: Draw, t: Trial) -> None:
    """Gradients of large matrices are exact on integers."""
    for shape in shapes(d)[1:]:
        many, tokens = Many(d), d.integer(1, 3)
        dy, x = many.lattice((tokens, shape[0]), 5), many.lattice((tokens, shape[1]), 5)
        at = ids(_most(many, shape))
        _sees(t, shape, at)
        answer = {"values": np.sum(dy[:, at // shape[1]] * x[:, at % shape[1]], axis=0)}
        given = {"dy": dy, "x": x}
        t.case("gradient.at", _size(shape) | given | {"positions": at}, answer, bounds=exact(answer, "values"))
        whole = dy.T @ x
        t.case("gradient.whole", given, {"gradient": whole}, bounds={"gradient": Bound(np.zeros(shape), 0)})


@property_of(
    "gradient.candidates-large", "GRD-003 GROW-001 GROW-002 SEL-001", "core", "gradient.candidates",
    sees=(BEYOND, "more than 65,536 rows", "more than 65,536 columns"), seeded=1,
)  # fmt: skip
def _candidates(d: Draw, t: Trial) -> None:
    """Candidates of large matrices are the largest entries of the whole gradient outside the delta."""
    for shape in shapes(d)[1:]:
        many, tokens, size = Many(d), d.integer(1, 3), shape[0] * shape[1]
        _sees(t, shape, range(size))
        dy, x = many.lattice((tokens, shape[0]), 5), many.lattice((tokens, shape[1]), 5)
        whole = dy.T @ x
        base, eta = many.subset(size, size // 2), many.subset(size, size // 5)
        n, scope = d.integer(size // 10, size // 5), d.choice(("all", "active"))
        open_to = np.setdiff1d(base if scope == "active" else np.arange(size), eta)
        flat = whole.reshape(-1)
        chosen = select.largest(np.abs(flat[open_to]).tolist(), open_to.tolist(), n)
        told = _size(shape) | {"dy": [dy], "x": [x], "steps": 1, "base": base, "delta": eta, "n": n, "scope": scope}
        t.case("gradient.candidates", told, {"candidates": ids(chosen), "values": flat[chosen] + 0.0})


@property_of("adamw.large", "OPT-001 OPT-002 OPT-005", "core", "adamw.step", sees=(BEYOND,), seeded=1)
def _adamw(d: Draw, t: Trial) -> None:
    """A step of many slots is the written formula at every one of them."""
    for n in lengths(d)[1:]:
        # as many different slots as one example of the small property has a hundred times, over and over
        many, kinds = Many(d), 997
        slots = [many.lattice((kinds,), 99) / 64 for _ in range(4)]
        slots = [slots[0], slots[1], abs(slots[2]), many.integers(kinds, 0, 60), slots[3]]
        lr = 2.0 ** -d.integer(2, 12)
        answer, bounds = after_adamw(slots, lr, update_adamw.Settings(weight_decay=0.125))
        given = dict(zip(("values", "m", "v", "age", "gradient"), (tiled(x, n) for x in slots), strict=True))
        t.saw(BEYOND, n > 65_536)
        t.case(
            "adamw.step",
            given | {"lr": lr, "weight_decay": 0.125},
            {name: tiled(x, n) for name, x in answer.items()},
            bounds={name: Bound(tiled(bound.gauge, n), bound.terms) for name, bound in bounds.items()},
        )


@property_of(
    "rng.large", "RNG-001 RNG-002 SCH-003 DLT-002", "core", "rng.draws schedule.events count.budget",
    sees=("more than 65,536 numbers", "a matrix of more than 2³² entries"), seeded=1,
)  # fmt: skip
def _numbers(d: Draw, t: Trial) -> None:
    """Many and far draws, events of long runs, and slots of large matrices are those of Python's integers."""
    words, n = [d.integer(0, 2**63) for _ in range(3)], 65_536 + d.integer(1, 99)
    key, numbers = select_rng.key(*words), [*range(n), 2**31, 2**32 + 1, 2**40 + d.integer(0, 9)]
    draws = np.array([select_rng.draw(key, i) for i in numbers], dtype=np.uint64)
    t.saw("more than 65,536 numbers", n > 65_536)
    t.case("rng.draws", {"words": np.array(words, dtype=np.uint64), "numbers": ids(numbers)}, {"draws": draws})
    steps, every = 65_540 + d.integer(0, 99), d.integer(1, 2)
    t.case("schedule.events", {"steps": steps, "evolve_every": every}, {"at": ids(range(every, steps, every))})
    rows, cols, density = 65_537 + d.integer(0, 999), 65_537 + d.integer(0, 999), d.integer(1, 63) / 64
    t.saw("a matrix of more than 2³² entries", math.prod((rows, cols)) > 2**32)
    stored = d.choice((rows * cols, 2**31 + d.integer(0, 9)))
    given = {"density": density, "out": rows, "in": cols, "stored": stored}
    t.case("count.budget", given, {"n": update_counts.delta_budget(density, rows, cols, stored)})
