"""Cases of chapter 8: whole events, and the pass after the last step."""

import math
from copy import copy
from typing import Any

import numpy as np

from conformance.gen.numbers import Area, Array, Numbers, ids, reals
from conformance.gen.update import after_event, given_state, matrix_of
from conformance.oracle import select, update
from conformance.oracle.update import State


def _state(n: Numbers, shape: tuple[int, int], stored: int, slots: int, outside: int, limit: int) -> State:
    """Return a state with `slots` slots, `outside` of them off the base, and few different values."""
    size = shape[0] * shape[1]
    base = n.subset(size, stored)
    off = [p for p in range(size) if p not in set(base)]
    eta = sorted([base[i] for i in n.subset(stored, slots - outside)] + [off[i] for i in n.subset(len(off), outside)])

    def column(values: Array) -> dict[int, float]:
        return dict(zip(eta, [float(x) for x in values], strict=True))

    b = dict(zip(base, [float(x) / 2 for x in n.integers(stored, -limit, limit)], strict=True))
    ages = dict(zip(eta, [int(x) for x in n.integers(slots, 1, 50)], strict=True))
    return State(size, b, column(n.lattice(slots, limit) / 4), column(n.real(slots)), column(abs(n.real(slots))), ages)


def _evolve_case(
    area: Area,
    name: str,
    clauses: str,
    purpose: str,
    shape: tuple[int, int],
    state: State,
    gradient: Array,
    **how: Any,
) -> None:
    inputs = given_state(shape, state) | {"gradient": gradient} | how
    dtypes = how.pop("dtypes", ("float64", "float32"))
    rounded = select.binary32 if dtypes == ("float32",) else select.binary64
    inputs.pop("dtypes", None)
    how = how | {"adapts": bool(how["adapts"])}
    after, _ = update.evolve(state, [float(x) for x in gradient.reshape(-1)], rounded=rounded, **how)
    answer = after_event(after, rounded)
    area.add(name, "update.evolve", f"EVT-001 EVT-006 NUM-001 {clauses}", purpose, inputs, answer, dtypes=dtypes)


_ALL = (
    "DROP-001 DROP-002 GROW-001 GROW-002 GROW-003 ADPT-001 ADPT-002 ADPT-003 ADPT-004 DLT-005 EVT-002 EVT-003 CHG-002"
)


def evolve() -> Area:
    """Return cases of whole events of the rule `seft`."""
    area = Area("evolve", "dictionaries by flat position")
    zeros = {2: 0.0}
    example = State(4, {0: 5.0, 1: 1.0, 2: 2.0}, {2: 0.5}, zeros, zeros, {2: 7})
    how: dict[str, Any] = {"n_drop": 1, "delta_budget": 1, "budget": 3, "scope": "all", "adapts": 1}
    _evolve_case(
        area,
        "example",
        _ALL,
        "the example of chapter 8",
        (1, 4),
        example,
        reals([1, 1, 0.1, 9]).reshape(1, 4),
        **how,
    )
    shape = (10, 12)
    for i in range(6):
        n = Numbers(6, i)
        state = _state(n, shape, 64, 20, 4 * (i % 3), 3)
        budget = max(64, len(state.base.keys() | state.phi.keys()))
        how = {"n_drop": 3 + i, "delta_budget": 20, "budget": budget, "scope": "all", "adapts": 1}
        text = "ties at every boundary: order of the parts, exemption, moments of cancelled pairs"
        _evolve_case(area, f"ties-{i}", _ALL, text, shape, state, n.lattice(shape, 3), **how)
        if i < 3:
            how = how | {"scope": "active"}
            _evolve_case(
                area,
                f"active-{i}",
                "GROW-001 GROW-003",
                "growth leaves the base",
                shape,
                state,
                n.lattice(shape, 3),
                **how,
            )
            how = how | {"scope": "all", "adapts": 0}
            text = "adapt runs where it is left out"
            _evolve_case(area, f"no-adapt-{i}", "GROW-002 DROP-002", text, shape, state, n.lattice(shape, 3), **how)
    _special(area, shape)
    return area


def _special(area: Area, shape: tuple[int, int]) -> None:
    n = Numbers(6, 50)
    state = _state(n, shape, 64, 15, 3, 3)
    deficit = {"n_drop": 4, "delta_budget": 20, "budget": 67, "scope": "all", "adapts": 1}
    text = "slots that adapt took are not refilled"
    _evolve_case(area, "refill", "GROW-002 DLT-005 EVT-003", text, shape, state, n.real(shape), **deficit)
    none = {"n_drop": 0, "delta_budget": 15, "budget": 67, "scope": "all", "adapts": 1}
    _evolve_case(
        area,
        "nothing-to-do",
        "EVT-006 SEL-005",
        "an event with n_drop 0 changes something",
        shape,
        state,
        n.real(shape),
        **none,
    )
    over = none | {"budget": 60}
    text = "adapt needs growth, or picks by |W| or |g|"
    _evolve_case(area, "adapt-only", "ADPT-001 ADPT-002 ADPT-004", text, shape, state, n.lattice(shape, 3), **over)
    whole = {"n_drop": 15, "delta_budget": 15, "budget": 64, "scope": "all", "adapts": 1}
    _evolve_case(area, "drop-all", _ALL, "every slot dropped at once", shape, state, n.real(shape), **whole)
    same = n.real(shape).reshape(-1) / 8
    same[list(state.phi)] = n.real(len(state.phi)) + 20
    cancel = {"n_drop": 5, "delta_budget": 15, "budget": 67, "scope": "all", "adapts": 1}
    text = "a position dropped and grown at once loses value, moments or age"
    _evolve_case(area, "cancelled", "GROW-003 GROW-001", text, shape, state, same.reshape(shape), **cancel)
    weak = same.copy()
    weak[list(state.phi)] = 20.0
    tight = {"n_drop": 5, "delta_budget": 15, "budget": 56, "scope": "all", "adapts": 1}
    low = State(state.size, state.base, {p: -state.base.get(p, 0.0) for p in state.phi}, state.m, state.v, state.age)
    text = "cancelled pairs exempt from adapt, zeros counted as absent, or a slot kept after pruning"
    _evolve_case(
        area,
        "cancelled-not-exempt",
        "ADPT-003 ADPT-004 TOP-004",
        text,
        shape,
        low,
        weak.reshape(shape),
        **tight,
    )
    _empty_matrices(area)
    _rounded_sensitivity(area)
    _pattern(area)
    _refusals(area, shape, state, n)


def _empty_matrices(area: Area) -> None:
    gradient = reals([1, 2, 3, 4, 5, 6]).reshape(2, 3)
    nothing = State(6, {}, {})
    how: dict[str, Any] = {"n_drop": 0, "delta_budget": 0, "budget": 0, "scope": "all", "adapts": 1}
    _evolve_case(area, "K-0", "ADPT-001 EVT-003", "a matrix without weights", (2, 3), nothing, gradient, **how)
    bare = State(6, {1: 1.0, 5: -2.0}, {})
    how = how | {"budget": 2}
    _evolve_case(area, "d-0", "GROW-002 EVT-003", "a matrix without slots", (2, 3), bare, gradient, **how)
    full = State(6, {1: 1.0, 5: -2.0}, {1: 0.25, 5: -0.5}, {1: 1.0, 5: 2.0}, {1: 1.0, 5: 2.0}, {1: 3, 5: 3})
    how = {"n_drop": 1, "delta_budget": 2, "budget": 2, "scope": "all", "adapts": 1}
    _evolve_case(
        area,
        "d-K",
        _ALL,
        "as many slots as weights: new slots fill the budget",
        (2, 3),
        full,
        gradient,
        **how,
    )
    how = how | {"n_drop": 2}
    _evolve_case(area, "d-K-all", _ALL, "every weight replaced at once", (2, 3), full, gradient, **how)


def _rounded_sensitivity(area: Area) -> None:
    """Add two products that are equal in binary32, where the lower position is pruned, and differ in binary64."""
    a, b = 1 + 2.0**-23, 1 + 3 * 2.0**-23
    base = {0: a, 1: 1.0, 2: 8.0, 3: 1.0}
    gradient = reals([b, 1 + 4 * 2.0**-23, 8.0, 9.0]).reshape(1, 4)
    state = State(4, base, {})
    for dtype in ("float64", "float32"):
        how = {"n_drop": 0, "delta_budget": 0, "budget": 3, "scope": "all", "adapts": 1, "dtypes": (dtype,)}
        text = "sensitivity computed in another precision than the compute dtype"
        _evolve_case(area, f"sensitivity-{dtype}", "ADPT-002 NUM-001", text, (1, 4), state, gradient, **how)


def _pattern(area: Area) -> None:
    n = Numbers(6, 77)
    shape = (6, 8)
    base = [r * 8 + c for r in range(6) for c in (0, 2, 5, 7)]
    values = dict(zip(base, [float(x) / 2 for x in n.integers(24, -4, 4)], strict=True))
    eta = base[1::4]
    state = State(
        48,
        values,
        dict.fromkeys(eta, 0.25),
        dict.fromkeys(eta, 1.0),
        dict.fromkeys(eta, 2.0),
        dict.fromkeys(eta, 4),
    )
    how = {"n_drop": 3, "delta_budget": 6, "budget": 24, "scope": "active", "adapts": 1}
    text = "growth breaks a 2:4 pattern"
    gradient = n.real(shape)
    _evolve_case(area, "two-of-four", "EVT-007 GROW-001", text, shape, state, gradient, **how)
    spoilt = gradient.copy()
    spoilt[0, 1], spoilt[5, 6] = math.nan, math.inf
    text = "a gradient off the support refused, or ranked, although nothing there may grow"
    _evolve_case(area, "active-nan", "GRD-009 GROW-001 EVT-005", text, shape, state, spoilt, **how)


def _refusals(area: Area, shape: tuple[int, int], state: State, n: Numbers) -> None:
    inputs = given_state(shape, state)
    inputs |= {"n_drop": 4, "delta_budget": 15, "budget": 67, "scope": "all", "adapts": 1}
    off = next(p for p in range(state.size) if p not in state.base and p not in state.phi)
    for name, bad, at in (
        ("nan-on-slot", math.nan, next(iter(state.phi))),
        ("nan-off-support", math.nan, off),
        ("infinite", math.inf, next(iter(state.base))),
        ("minus-infinite", -math.inf, off),
    ):
        gradient = n.real(shape).reshape(-1)
        gradient[at] = bad
        more = inputs | {"gradient": gradient.reshape(shape)}
        area.add(
            f"refuse-{name}",
            "update.evolve",
            "EVT-005",
            "an event with such a gradient",
            more,
            refused="EVT-005 SEL-004",
        )
    # a copy, because the case behind this one was published without it
    steep = copy(n).real(shape)
    steep[0, 0], steep[-1, -1] = 1.5e308, -1.5e308
    text, clauses = "an event whose gradient has a norm beyond binary64", "EVT-005 SEL-004"
    more = inputs | {"gradient": steep}
    area.add("refuse-norm", "update.evolve", clauses, text, more, refused=clauses, dtypes=("float64",))
    more = inputs | {"gradient": n.real(shape), "n_drop": 16}
    area.add("refuse-n-drop", "update.evolve", "SEL-005", "more dropped than there are", more, refused="SEL-005")


def adapt() -> Area:
    """Return cases of the pass after the last step."""
    area = Area("adapt", "sorted tuples")
    shape = (8, 9)
    # EVT-005.3: weights are ranked only if some are to leave; 1e30 · 1e30 overflows in binary32
    inputs = {"out": 1, "in": 4, "base": ids([0, 1, 2]), "base_values": reals([1e30, 1.0, 2.0]), "delta": ids([1])}
    inputs |= {"delta_values": reals([0.5]), "gradient": np.array([[1e30, 1.0, 0.5, 9.0]])}
    inputs |= {"budget": 3}
    text = "a score that nobody ranks refused"
    area.add("unranked", "update.adapt", "EVT-005", text, inputs, {"pruned": ids([])})
    for i, budget in enumerate((30, 40, 44, 100)):
        n = Numbers(8, i)
        state = _state(n, shape, 36, 12, 8, 2)
        gradient = n.lattice(shape, 2)
        w = update.effective(state.base, state.phi)
        gone = update.pruned(w, set(), [float(x) for x in gradient.reshape(-1)], budget)
        inputs = matrix_of(shape, state.base, state.phi) | {"gradient": gradient, "budget": budget}
        text = "new slots exempt in the last pass, ties, or values counted instead of support"
        area.add(
            f"last-{budget}",
            "update.adapt",
            "EVT-004 ADPT-001 ADPT-002 SEL-002 TOP-004",
            text,
            inputs,
            {"pruned": ids(gone)},
        )
    return area


AREAS = (
    evolve,
    adapt,
)
