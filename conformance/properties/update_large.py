"""Properties of sizes beyond every boundary of an index type: update."""

from typing import Any

import numpy as np

from conformance.answers.answer import ids, reals
from conformance.oracle import (
    update,
    update_optimizers,
)
from conformance.oracle.update import State
from conformance.properties.draws import Array, Draw, Many, Shape
from conformance.properties.large import BEYOND, FAR, FARTHER, far_at, lengths, most_of, sees_beyond, shapes, sides
from conformance.properties.states import given_state, matrix_of
from conformance.properties.trial import Trial, property_of


def tiled(values: Any, n: int) -> Array:
    """Return n entries that repeat the values in order."""
    x = np.asarray(values)
    return np.tile(x, n // max(len(x), 1) + 1)[:n]


def _state(many: Many, shape: Shape, stored: int, slots: int) -> State:
    """Return a state with many equal values, and slots on the base and off it."""
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
    sees=(BEYOND, FARTHER),
    seeded=1,
)
def _delta(d: Draw, t: Trial) -> None:
    """Many weights are b + φ on the slots, and first slots are drawn among many, or far, positions."""
    for shape in shapes(d)[1:]:
        size = shape[0] * shape[1]
        state = _state(Many(d), shape, size - size // 9, size // 3)
        w = update.effective(state.base, state.phi)
        sees_beyond(t, shape, list(w))
        t.case("delta.effective", matrix_of(shape, state.base, state.phi))
    for shape in [shapes(d)[3], *far_at(d)]:
        at = most_of(Many(d), shape)
        n, seed, matrix = d.integer(len(at) // 3, len(at) // 2), d.integer(0, 2**40), d.integer(0, 300)
        sees_beyond(t, shape, at)
        inputs = sides(shape) | {"base": ids(at), "n": n, "seed": seed, "matrix": matrix}
        t.case("delta.initial_random", inputs)


@property_of(
    "update.large",
    "DROP-001 GROW-001 GROW-002 ADPT-001 ADPT-002 SEL-001 SEL-002",
    "core",
    "update.drop update.grow update.adapt",
    sees=(BEYOND, FAR, "more than 65,536 rows", "more than 65,536 columns"),
    seeded=1,
)
def _update(d: Draw, t: Trial) -> None:
    """Among many positions, drop, grow and adapt choose the same as sorted tuples, whatever the ties."""
    for shape in [*shapes(d), *far_at(d)]:
        eta, many = most_of(Many(d), shape), Many(d)
        phi = dict(zip(eta, (many.lattice((len(eta),), 99) / 16).tolist(), strict=True))
        n = d.integer(len(eta) // 3, len(eta) - 1)
        sees_beyond(t, shape, eta)
        inputs = sides(shape) | {"delta": ids(eta), "delta_values": reals(phi.values()), "n": n}
        t.case("update.drop", inputs)
    for shape in shapes(d)[1:]:
        size, many = shape[0] * shape[1], Many(d)
        state = _state(many, shape, size // 2, size // 4)
        flat, scope = (many.lattice((size,), 200) / 16).tolist(), d.choice(("all", "active"))
        out = [p for p, age in state.age.items() if age > 6]
        n = d.integer(size // 8, size // 4)
        inputs = sides(shape) | {"base": ids(state.base), "delta": ids(state.phi), "dropped": ids(out), "n": n}
        inputs |= {"gradient": reals(flat).reshape(shape), "scope": scope}
        t.case("update.grow", inputs)
        w = update.effective(state.base, state.phi)
        budget = len(w) - d.integer(size // 8, size // 4)
        inputs = matrix_of(shape, state.base, state.phi) | {"gradient": reals(flat).reshape(shape), "budget": budget}
        t.case("update.adapt", inputs)


@property_of(
    "update.evolve-large",
    "EVT-001 EVT-003 EVT-006 GROW-003 ADPT-003 ADPT-004 DLT-005 CHG-002",
    "core",
    "update.evolve",
    sees=(BEYOND, "more than 65,536 rows", "more than 65,536 columns"),
    seeded=1,
)
def _evolve(d: Draw, t: Trial) -> None:
    """An event of a matrix with many slots equals drop, grow and adapt on dictionaries."""
    for shape in shapes(d)[1:3]:
        size, many = shape[0] * shape[1], Many(d)
        state = _state(many, shape, size // 2, size - size // 200)
        gradient = many.lattice(shape, 200) / 16
        support, slots = len(state.base.keys() | state.phi.keys()), len(state.phi)
        how: dict[str, Any] = {"n_drop": slots // 2, "delta_budget": slots + size // 50, "budget": support}
        how |= {"scope": d.choice(("all", "active")), "adapts": 1}
        sees_beyond(t, shape, range(support))
        t.case("update.evolve", given_state(shape, state) | how | {"gradient": gradient})


@property_of("adamw.large", "OPT-001 OPT-002 OPT-005", "core", "adamw.step", sees=(BEYOND,), seeded=1)
def _adamw(d: Draw, t: Trial) -> None:
    """A step of AdamW follows the written formula at each of many slots."""
    for n in lengths(d)[1:]:
        # 997 different slots are repeated, which is as many as a hundred examples of the small property have
        many, kinds = Many(d), 997
        slots = [many.lattice((kinds,), 99) / 64 for _ in range(4)]
        slots = [slots[0], slots[1], abs(slots[2]), many.integers(kinds, 0, 60), slots[3]]
        lr = 2.0 ** -d.integer(2, 12)
        inputs = dict(zip(("values", "m", "v", "age", "gradient"), (tiled(x, n) for x in slots), strict=True))
        t.saw(BEYOND, n > 65_536)
        t.case("adamw.step", inputs | {"lr": lr, "weight_decay": 0.125})


@property_of(
    "score.large",
    "DROP-003 GROW-004 ADPT-005 RNG-003",
    "rules",
    "score.drop score.grow score.adapt",
    sees=(BEYOND, "a position above 2³²"),
    seeded=1,
)
def _scores(d: Draw, t: Trial) -> None:
    """Scores of many slots, candidates and weights follow the written formulas; products of integers are exact."""
    shape, many = (257 + d.integer(0, 9), 257), Many(d)
    size = shape[0] * shape[1]
    t.saw(BEYOND, size > 65_536)
    phi, origin, g = (many.lattice((size,), 99) for _ in range(3))
    at = np.arange(size)
    inputs: dict[str, Any] = {"criterion": "change", "positions": at, "values": phi, "origin": origin}
    t.case("score.drop", inputs)
    size_inputs: dict[str, Any] = {"out": shape[0], "in": shape[1], "positions": at}
    rows, cols = abs(many.lattice((shape[0],), 99)), abs(many.lattice((shape[1],), 99))
    inputs = size_inputs | {"criterion": "moments", "row_moments": rows, "column_moments": cols}
    t.case("score.grow", inputs)
    inputs = size_inputs | {"criterion": "sensitivity", "weight": phi, "gradient": g}
    t.case("score.adapt", inputs)
    far = many.subset(2**40, 300)
    t.saw("a position above 2³²", far[-1] > 2**32)
    words = {"seed": d.integer(0, 2**40), "matrix": d.integer(0, 99), "step": d.integer(0, 9)}
    inputs = words | {"criterion": "random", "positions": far, "values": phi[:300]}
    # only float64 is asked, because draws are binary64 whatever the dtype
    t.case("score.drop", inputs, dtypes=("float64",))


@property_of(
    "optimizer.large", "OPT-001 OPT-006 OPT-007", "rules", "optimizer.step", sees=(BEYOND, "rows of SM3"), seeded=1
)
def _optimizer(d: Draw, t: Trial) -> None:
    """A step of every optimizer follows the written formula at each of many slots."""
    shape, kinds, lr = (300 + d.integer(0, 9), 257), 257, 2.0 ** -d.integer(1, 9)
    n, h = shape[0] * shape[1], update_optimizers.Hyper()
    t.saw(BEYOND, n > 65_536)
    for kind, keeps in update_optimizers.KEEPS.items():
        many = Many(d)
        phi, g, m, v = (many.lattice((kinds,), 9) / 8 for _ in range(4))
        columns = {"m": m, "v": abs(v), "u": m, "age": many.integers(kinds, 0, 50)}
        more: dict[str, Any] = {}
        if kind == "sm3":
            more = {"rows": np.full(shape[0], float(d.integer(1, 9))), "columns": abs(many.lattice((shape[1],), 9))}
            t.saw("rows of SM3")
        inputs = {"kind": kind, "out": shape[0], "in": shape[1], "positions": np.arange(n), "lr": lr}
        inputs |= {name: tiled(columns[name], n) for name in keeps} | more
        inputs |= {"values": tiled(phi, n), "gradient": tiled(g, n)}
        inputs |= {name: getattr(h, name) for name in ("beta1", "beta2", "eps", "weight_decay", "momentum")}
        t.case("optimizer.step", inputs)
