"""Cases of chapters 8 and 9: delta, drop, grow, optimizer."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from conformance.cases.case import Bound
from conformance.gen.numbers import Area, Array, Numbers, ids, reals
from conformance.oracle import select, update, update_adamw, update_counts
from conformance.oracle.select import Round
from conformance.oracle.update import State


def matrix_of(shape: tuple[int, int], base: dict[int, float], phi: dict[int, float]) -> dict[str, Any]:
    """Return base and delta as inputs of an operation."""
    return {
        "out": shape[0],
        "in": shape[1],
        "base": ids(base),
        "base_values": reals(base.values()),
        "delta": ids(phi),
        "delta_values": reals(phi.values()),
    }


def given_state(shape: tuple[int, int], state: State) -> dict[str, Any]:
    """Return a state as inputs of an operation."""
    inputs = matrix_of(shape, state.base, state.phi)
    return inputs | {"m": reals(state.m.values()), "v": reals(state.v.values()), "age": ids(state.age.values())}


def after_event(state: State, rounded: Round) -> dict[str, Any]:
    """Return the state after an event as outputs of `update.evolve`."""
    w = update.effective(state.base, state.phi, rounded)
    return {
        "base": ids(state.base),
        "base_values": reals(state.base.values()),
        "delta": ids(state.phi),
        "delta_values": reals(state.phi.values()),
        "m": reals(state.m.values()),
        "v": reals(state.v.values()),
        "age": ids(state.age.values()),
        "support": ids(w),
        "weights": reals(w.values()),
    }


def after_adamw(
    slots: Sequence[Array], lr: float, settings: update_adamw.Settings
) -> tuple[dict[str, Any], dict[str, Bound]]:
    """Return the outputs of `adamw.step` and their bounds.

    slots  φ, m, v, ages and gradients
    """
    new = [
        update_adamw.step(float(p), float(m), float(v), int(a), float(g), lr, settings)
        for p, m, v, a, g in zip(*slots, strict=True)
    ]
    after, age = [reals(x[i] for x in new) for i in range(3)], ids(x[3] for x in new)
    phi, m, _, _, gradient = slots
    gauge = np.abs(settings.beta1 * m) + np.abs((1 - settings.beta1) * gradient)
    c1, c2 = 1 - settings.beta1 ** age.astype(float), np.sqrt(1 - settings.beta2 ** age.astype(float))
    moved = lr / c1 * gauge / (np.sqrt(after[2]) / c2 + settings.eps)
    bounds = {"m": Bound(gauge, 2), "v": Bound(np.abs(after[2]), 2), "values": Bound(np.abs(phi) + moved, 2)}
    return {"values": after[0], "m": after[1], "v": after[2], "age": age}, bounds


def delta() -> Area:
    """Return cases of effective weights and of random initial positions (DLT-003, DLT-004, TOP-004)."""
    area = Area("delta")
    plain = ({0: 5.0, 1: 1.0, 2: 2.0, 7: -0.0}, {2: 0.5, 4: -3.0})
    for name, base, phi, purpose in (
        ("union", *plain, "the support taken from the base alone"),
        (
            "cancels",
            {0: 1.5, 3: 0.0},
            {0: -1.5, 4: 0.0},
            "entries that cancel to zero, or stored zeros, leave the support",
        ),
        (
            "negative-zero",
            {0: -0.0, 3: 1.5, 5: 0.0},
            {0: -0.0, 2: -0.0, 5: -0.0, 7: -2.0},
            "φ taken over as it is where the base stores nothing, not added to +0",
        ),
        ("no-delta", {1: 2.0, 6: -2.5}, {}, "an empty delta"),
        ("no-base", {}, {1: 2.0, 6: -2.5}, "an empty base"),
    ):
        w = update.effective(base, phi)
        answer = {"support": ids(w), "weights": reals(w.values())}
        area.add(
            f"effective-{name}",
            "delta.effective",
            "DLT-003 TOP-004",
            purpose,
            matrix_of((2, 4), base, phi),
            answer,
        )
    tiny = ({0: 1.0, 1: 2.0**24, 2: -1.0, 3: 1.0}, {0: 2.0**-25, 1: 1.0, 2: 2.0**-24, 3: 3 * 2.0**-25})
    for dtype, rounded in (("float64", select.binary64), ("float32", select.binary32)):
        w = update.effective(*tiny, rounded)
        answer = {"support": ids(w), "weights": reals(w.values())}
        name = f"effective-rounded-{dtype}"
        text = "b + φ kept wider than the compute dtype, or rounded twice"
        area.add(name, "delta.effective", "DLT-003", text, matrix_of((2, 2), *tiny), answer, dtypes=(dtype,))
    stored = Numbers(3, 1).subset(20 * 16, 200)
    for seed, matrix, n in ((0, 0, 32), (0, 13, 32), (5, 3, 1), (2**64 - 1, 1, 200), (1, 1, 0)):
        inputs = {"out": 20, "in": 16, "base": ids(stored), "n": n, "seed": seed, "matrix": matrix}
        answer = {"positions": ids(update_counts.initial_random(stored, n, seed, matrix))}
        text = "draws numbered by slot instead of flat position, or another stream"
        area.add(f"random-{matrix}-{n}", "delta.initial_random", "DLT-004 RNG-002", text, inputs, answer)
    inputs = {"out": 2, "in": 3, "base": ids([0, 2, 3]), "n": 2, "seed": 0, "matrix": 0}
    for name, change, clause in (
        ("too-many", {"n": 4}, "SEL-005"),
        ("fewer-than-none", {"n": -1}, "SEL-005"),
        ("seed-below-0", {"seed": -1}, "RNG-002"),
        ("seed-of-65-bits", {"seed": 2**64}, "RNG-002"),
    ):
        text = "cut, wrapped, or taken as it is"
        area.add(f"refuse-{name}", "delta.initial_random", clause, text, inputs | change, refused=clause)
    return area


def drop() -> Area:
    """Return cases of drop (DROP-001)."""
    area = Area("drop", "sorted tuples")
    n = Numbers(4, 1)
    cells = n.subset(12 * 11, 80)
    levels = dict(zip(cells, [float(x) / 4 for x in n.integers(80, -1, 1)], strict=True))
    spread = dict(zip(cells, [float(x) for x in n.real(80)], strict=True))
    for name, phi, k, purpose in (
        ("ties-at-zero", levels, 17, "ties among equal |φ| to a higher position or in library order"),
        ("ties-at-quarter", levels, 50, "the sign of φ counted: −1/4 before 1/4"),
        ("signed", spread, 20, "φ ranked instead of |φ|"),
        (
            "zeros",
            dict.fromkeys(cells, 0.0) | {cells[i]: -0.0 for i in range(0, 80, 3)},
            30,
            "−0 ranked below +0",
        ),
        ("none", spread, 0, "one slot dropped where none should be"),
        ("all", spread, 80, "a slot kept where all should go"),
        ("empty", {}, 0, "an empty delta"),
    ):
        inputs = {"out": 12, "in": 11, "delta": ids(phi), "delta_values": reals(phi.values()), "n": k}
        area.add(name, "update.drop", "DROP-001 SEL-002", purpose, inputs, {"dropped": ids(update.dropped(phi, k))})
    inputs = {
        "out": 12,
        "in": 11,
        "delta": ids(cells[:3]),
        "delta_values": reals([1.0, math.nan, 2.0]),
        "n": 1,
    }
    clauses = "EVT-005 SEL-004"
    area.add("refuse-nan", "update.drop", clauses, "NaN ranked", inputs, refused=clauses)
    inputs = {"out": 12, "in": 11, "delta": ids(cells[:2]), "delta_values": reals([1.0, 2.0]), "n": 3}
    area.add("refuse-too-many", "update.drop", "SEL-005", "more dropped than there are", inputs, refused="SEL-005")
    return area


def grow() -> Area:
    """Return cases of grow (GROW-001, GROW-002)."""
    area = Area("grow", "sorted tuples")
    n = Numbers(5, 1)
    shape, size = (9, 13), 117
    base = n.subset(size, 70)
    eta = sorted(n.subset(size, 12))
    out = eta[::3]
    levels, spread = n.lattice(shape, 2), n.real(shape)
    high = spread.copy().reshape(-1)
    high[out] = 9.0
    for name, gradient, k, scope, purpose in (
        ("ties", levels, 25, "all", "ties to a higher position"),
        ("signed", spread, 20, "all", "ḡ ranked instead of |ḡ|"),
        ("just-dropped", high.reshape(shape), 6, "all", "just-dropped positions left out of the candidates"),
        ("active", spread, 20, "active", "pruned positions grown in scope active"),
        ("active-ties", levels, 30, "active", "ties in scope active"),
        ("none", spread, 0, "all", "k = 0"),
        ("more-than-there-are", spread, 500, "all", "more asked for than there are candidates"),
        ("active-all", spread, 500, "active", "more asked for than the base has"),
        ("zero-gradient", np.zeros(shape), 10, "all", "positions without gradient left out"),
    ):
        state = State(size, dict.fromkeys(base, 1.0), dict.fromkeys(eta, 1.0))
        grown = update.grown(state, out, [float(x) for x in gradient.reshape(-1)], k, scope)
        inputs = {"out": shape[0], "in": shape[1], "base": ids(base), "delta": ids(eta), "dropped": ids(out)}
        inputs |= {"gradient": gradient, "n": k, "scope": scope}
        area.add(name, "update.grow", "GROW-001 GROW-002 SEL-001", purpose, inputs, {"grown": ids(grown)})
    inputs = {"out": 2, "in": 3, "base": ids([0, 2]), "delta": ids([2, 3]), "dropped": ids([]), "n": 1, "scope": "all"}
    clauses, text = "EVT-005 SEL-004", "ranked all the same"
    for name, bad, dtypes in (
        ("nan", [math.nan, 1, 2], None),
        ("infinite", [1, -math.inf, 2], None),
        ("norm", [1.5e308, 1.5e308, 1.5e308], ("float64",)),
    ):
        more: dict[str, Any] = {"dtypes": dtypes} if dtypes else {}
        spoilt = inputs | {"gradient": np.array([bad, [1.0, 2.0, 3.0]])}
        area.add(f"refuse-{name}", "update.grow", clauses, text, spoilt, refused=clauses, **more)
    for name, bad_delta in (("order", [3, 2]), ("twice", [2, 2]), ("far", [2, 6]), ("negative", [-1, 2])):
        spoilt = inputs | {"gradient": np.ones((2, 3)), "delta": ids(bad_delta)}
        text = "flat positions that are those of no topology"
        area.add(f"refuse-positions-{name}", "update.grow", "TOP-003", text, spoilt, refused="TOP-003")
    return area


def optimizer() -> Area:
    """Return cases of AdamW and clipping (OPT-001 to OPT-005)."""
    area = Area("adamw", "binary64 by the written formula")
    n = Numbers(9, 1)
    size = 12
    ages = ids([0, 0, 1, 2, 5, 10, 50, 100, 999, 5000, 3, 0])
    phi, m, v, g = n.real(size, 0.01), n.real(size, 0.1), n.real(size, 0.1) ** 2, n.real(size, 0.125)
    v = v.astype(np.float32).astype(np.float64)
    fresh = ages == 0
    for x in (phi, m, v):
        x[fresh] = 0.0
    _adamw_case(
        area,
        "ages",
        "OPT-001 OPT-002 OPT-003 OPT-005",
        "one step counter for all slots",
        (phi, m, v, ages, g),
        0.001,
        {},
    )
    decay = {"weight_decay": 0.25}
    _adamw_case(
        area,
        "decay",
        "OPT-001",
        "decay after the update, through the gradient, or on the base",
        (phi, m, v, ages, g),
        0.125,
        decay,
    )
    other = {"beta1": 0.5, "beta2": 0.75, "eps": 0.125}
    text = "eps inside the root or before the correction, β exchanged"
    _adamw_case(area, "large-eps", "OPT-001", text, (phi, m, v, ages, g), 0.0625, other)
    small = g * 2.0**-20
    zeros = np.zeros(size)
    text = "the first step of a slot depends on more than the sign of its gradient"
    first = (zeros, zeros, zeros, np.zeros(size, dtype=np.int64), small)
    _adamw_case(area, "first-step", "OPT-005 OPT-001 OPT-003", text, first, 0.001, {})
    _adamw_case(
        area,
        "zero-gradient",
        "OPT-001",
        "0 / 0 in a slot without gradient",
        (zeros, zeros, zeros, ages, zeros),
        0.001,
        {},
    )
    old = ids([15, 31, 63, 127, 255, 511, 1023, 2047, 4095, 4999, 7, 2])
    text = "an age too many or too few, or a power in binary32, where V8's and Java's pow are off by a last bit"
    _adamw_case(area, "powers", "OPT-001 OPT-002 OPT-009", text, (phi, m, v, old, g), 0.125, {"eps": 2.0**-6})
    text = "a scalar rounded to binary32 on its way to a dtype that is wider"
    hyper = {"beta1": 0.8, "beta2": 0.95, "eps": 0.1, "weight_decay": 0.3}
    _adamw_case(area, "scalars", "OPT-001 OPT-002", text, (phi, m, v, ages, g), 0.07, hyper)
    nothing = (zeros[:0], zeros[:0], zeros[:0], ages[:0], zeros[:0])
    _adamw_case(area, "empty", "OPT-001", "a matrix without slots", nothing, 0.001, {})
    for norm, top in ((2.0, 1.0), (0.5, 1.0), (1.0, 1.0), (0.0, 1.0), (3.0, 0.0), (1e-7, 1e-7), (1e30, 0.5)):
        factor = update_adamw.clip_factor([norm], top)
        bound = {"factor": Bound(np.asarray(abs(factor)), 2)}
        text = "gradients scaled up, or the 1e-6 forgotten"
        area.add(
            f"clip-{norm}-{top}",
            "adamw.clip",
            "OPT-004",
            text,
            {"norm": norm, "max_norm": top},
            {"factor": factor},
            bounds=bound,
        )
    return area


def _adamw_case(
    area: Area,
    name: str,
    clauses: str,
    purpose: str,
    slots: tuple[Array, ...],
    lr: float,
    hyper: dict[str, Any],
) -> None:
    answer, bounds = after_adamw(slots, lr, update_adamw.Settings(**hyper))
    inputs = dict(zip(("values", "m", "v", "age", "gradient"), slots, strict=True)) | {"lr": lr} | hyper
    area.add(name, "adamw.step", clauses + " NUM-002", purpose, inputs, answer, bounds=bounds)


AREAS = (delta, drop, grow, optimizer)
