"""Cases of events that the other cases lack: unequal budgets, several matrices, many positions."""

from dataclasses import replace
from typing import Any

from conformance.gen import event as whole_events
from conformance.gen.numbers import Area, Numbers, ids, reals
from conformance.oracle import select, select_pools, update_choices
from conformance.oracle.event import Part, event
from conformance.oracle.event_evidence import Evidence


def events() -> Area:
    """Return cases of events with unequal budgets or many rows (ADPT-001, EVT-009, GRD-003, GROW-007)."""
    area = Area("hole-event", "dictionaries by flat position")
    _refused(area)
    _steep(area)
    _loud(area)
    _seeds(area)
    _cancelled(area)
    _made_up(area)
    _many_groups(area)
    _many_candidates(area)
    _uneven_pools(area)
    _many_drawn(area)
    _many_seeded(area)
    return area


def _many_candidates(area: Area) -> None:
    """Add a choice of candidates from more than 16,384 positions with many equal scores (GRD-003)."""
    rows, width, k = 500, 40, 70
    n = Numbers(129, rows)
    dy, x = n.lattice((1, rows), 40), n.lattice((1, width), 9)
    base, eta = n.subset(rows * width, 120), n.subset(rows * width, 40)
    gradient = (dy.T @ x).reshape(-1)
    open_to = sorted(set(range(rows * width)) - set(eta))
    chosen = select.largest([abs(float(gradient[p])) for p in open_to], open_to, k)
    inputs = {"out": rows, "in": width, "dy": [dy], "x": [x], "steps": 1, "base": ids(base), "delta": ids(eta)}
    inputs |= {"n": k, "scope": "all"}
    answer = {"candidates": ids(chosen), "values": reals(gradient[chosen] + 0.0)}
    purpose = "candidates lost, or ties to a later position, where 16,384 scores or more are looked at in parts"
    clauses = "GRD-003 GROW-001 GROW-002 SEL-001"
    area.add("many-block", "gradient.candidates", clauses, purpose, inputs, answer)


def _many_drawn(area: Area) -> None:
    """Add random candidates over several blocks of rows, drawn by flat position (RNG-003, GROW-004)."""
    chosen = whole_events.rule(grow="random", adapts="never")
    made = whole_events.made(133, (514, 2), 20, 6, 1, chosen=chosen, missing=6)
    purpose = "draws that begin anew with every block of rows"
    _many(area, "drawn", "RNG-003 GROW-004 GRD-003 TRN-009", purpose, made, chosen, ())


def _many_seeded(area: Area) -> None:
    """Add new slots beyond the first block of a matrix (DLT-006)."""
    chosen, shape = whole_events.rule(moments="seeded", adapts="never"), (129, 128)
    part, evidence = whole_events.made(134, shape, 20, 6, 1, chosen=chosen, missing=6, steps=2)
    # the numbers repeat, because the vector file stays small then; a few positions have large ones
    gradient, square = ([float(p % k - k // 2) for p in range(shape[0] * shape[1])] for k in (7, 5))
    square = [x * x for x in square]
    for i, p in enumerate((3, 8192, 16383, 16384, 16401, 16450, 16511)):
        gradient[p], square[p] = (-1.0) ** i * (16 + i), 30.0 + i
    evidence = replace(evidence, gradient=gradient, square=square)
    purpose = "m and v of a new slot taken from another position, where the matrix is looked at in parts"
    _many(area, "seeded", "DLT-006 GROW-003 GRD-003 TRN-009", purpose, (part, evidence), chosen, ("gradient", "square"))


def _many(
    area: Area,
    name: str,
    clauses: str,
    purpose: str,
    made: whole_events.Made,
    chosen: update_choices.Rule,
    kinds: tuple[str, ...],
    pattern: tuple[int, int] | None = None,
) -> None:
    """Add an event over a matrix of several blocks; it has evidence of `kinds` only."""
    part, own_evidence = made
    outcomes = event([part], [own_evidence], chosen, 0.5, seed=3, step=20, pattern=pattern)
    entry = whole_events.given_part(part, own_evidence)
    evidence = {"gradient", "absolute", "square", "inputs", "row_moments", "column_moments"}
    entry |= dict.fromkeys(sorted(evidence - set(kinds)))
    inputs = {"parts": [entry], "rule": chosen, "fraction": 0.5, "seed": 3, "step": 20}
    inputs |= {"pattern": list(pattern)} if pattern else {}
    area.add(f"many-{name}", "update.event", clauses, purpose, inputs, whole_events.answered(outcomes))


def _uneven_pools(area: Area) -> None:
    """Add an event with rows that have no room for new slots, and rows without slots (EVT-009, GROW-002)."""
    chosen = whole_events.rule(scope="row", adapts="never")
    part, evidence = whole_events.made(130, (4, 4), 9, 7, 0, chosen=chosen)
    # row 0 is full of slots, row 1 has none, row 2 lacks more slots than it has room for, row 3 is ordinary
    eta = [0, 1, 2, 3, 8, 9, 10, 12, 14]
    base = {p: float(p % 5 - 2) / 2 for p in [*range(10), 12, 13, 14]}
    values = dict(zip(eta, (0.5, -0.25, 0.75, -0.5, 0.25, -0.75, 0.25, 1.0, -0.25), strict=True))
    kept: dict[str, dict[int, Any]] = {
        "age": dict.fromkeys(eta, 4),
        "m": dict.fromkeys(eta, 0.125),
        "v": dict.fromkeys(eta, 0.25),
    }
    part = replace(part, base=base, phi=values, kept=kept, budget=[4, 4, 4, 3], delta_budget=[4, 0, 6, 2])
    purpose = "a row that cannot grow as many as it lacks refused, or filled from another row"
    whole_events.add(area, "rows", "EVT-009 GROW-002 SEL-007", purpose, [(part, evidence)], chosen, 0.5)


def _refused(area: Area) -> None:
    """Add events in which more weights are over the budget than may be pruned (ADPT-001)."""
    for name, choice in (
        ("matrix", {}),
        ("row", {"scope": "row"}),
        ("model", {"scope": "model"}),
    ):
        chosen = whole_events.rule(**choice)
        part, evidence = whole_events.made(124, (3, 4), 4, 4, 2, chosen=chosen)
        # every dropped slot is replaced by a new one, which is exempt, and the budget is 0
        evidence = replace(evidence, gradient=[0.0 if p in part.phi else 8.0 for p in range(12)])
        pairs = [(replace(part, budget=[0] * len(part.budget)), evidence)]
        if name == "model":
            pairs.append((replace(pairs[0][0], matrix=1), evidence))
        inputs = {"parts": [whole_events.given_part(*pair) for pair in pairs], "rule": chosen, "fraction": 1.0}
        inputs |= {"seed": 3, "step": 20}
        purpose = "as much pruned as may be, and the budget exceeded in silence"
        clauses = "ADPT-001 SEL-005"
        refusal = _refusal_of(pairs, chosen)
        assert "SEL-005" in refusal, f"{name}: {refusal or 'no refusal'}"
        area.add(f"refuse-{name}", "update.event", clauses, purpose, inputs, refused=clauses)


def _cancelled(area: Area) -> None:
    """Add an event that takes weights out of the base with their slots, but not those that grow again (DROP-004)."""
    chosen = whole_events.rule(drop="weight", drops="weight", adapts="never")
    part, evidence = whole_events.made(47, (4, 5), 12, 6, 0, chosen=chosen)
    # every slot is stored, and half of the dropped ones have the largest gradients
    part = replace(part, base=dict(sorted((dict.fromkeys(part.phi, 0.5) | part.base).items())))
    evidence = replace(evidence, gradient=[9.0 if p in list(part.phi)[::2] else float(p % 3) for p in range(20)])
    purpose = "b lost at a position that is dropped and grown in one event"
    whole_events.add(area, "cancelled-weight", "DROP-004 GROW-003", purpose, [(part, evidence)], chosen, 1.0)


def _steep(area: Area) -> None:
    """Add events with a gradient whose norm is beyond binary64 (EVT-005.2)."""
    for name, shape in (("norm", (2, 3)), ("norm-of-blocks", (600, 3))):
        # GRD-003: two entries whose norm is beyond binary64, in the first and in the last row
        part, evidence = whole_events.made(46, shape, 4, 2, 0, chosen=whole_events.rule())
        gradient = [1.5e308 if p in (0, shape[0] * 3 - 1) else 0.0 for p in range(shape[0] * 3)]
        entry = whole_events.given_part(part, replace(evidence, gradient=gradient))
        entry |= dict.fromkeys(("absolute", "square", "inputs", "row_moments", "column_moments"))
        inputs = {"parts": [entry], "rule": whole_events.rule(), "fraction": 0.5, "seed": 0, "step": 1}
        text, clauses = "a norm beyond binary64 that is not looked at, or block by block", "EVT-005 SEL-004"
        area.add(f"refuse-{name}", "update.event", clauses, text, inputs, refused=clauses, dtypes=("float64",))


def _loud(area: Area) -> None:
    """Add events with a slot whose score overflows (EVT-005.3)."""
    chosen = whole_events.rule(drop="fisher", adapts="never")
    for dtype, large in (("float64", 2.0**600), ("float32", 2.0**80)):
        part, evidence = whole_events.made(139, (2, 4), 5, 3, 0, chosen=chosen)
        part = replace(part, phi={p: large if p == max(part.phi) else x for p, x in part.phi.items()})
        entry = whole_events.given_part(part, replace(evidence, square=[1.0] * 8))
        inputs = {"parts": [entry], "rule": chosen, "fraction": 0.3, "seed": 0, "step": 1}
        text, clauses = "a slot's infinite score ranked", "EVT-005 SEL-004"
        name = f"refuse-overflow-slot-{dtype}"
        area.add(name, "update.event", clauses, text, inputs, refused=clauses, dtypes=(dtype,))


def _seeds(area: Area) -> None:
    """Add new slots with moments whose factors need rounding (DLT-006.2)."""
    for optimizer in ("adamw", "spiel-adamw", "sgd"):
        chosen = whole_events.rule(moments="seeded", adapts="never", beta1=0.9, beta2=0.999, momentum=0.9)
        how: dict[str, Any] = {"chosen": chosen, "optimizer": optimizer, "missing": 2, "steps": 3}
        part, evidence = whole_events.made(140, (2, 4), 5, 3, 1, **how)
        # thirteen bits, so that products need rounding
        gradient, square = ([(4096 + (k * p + 977) % 4096) / 4096 for p in range(8)] for k in (1873, 3301))
        pair = part, replace(evidence, gradient=gradient, square=square)
        text = "factors in the compute dtype, or a product and a difference for one factor"
        whole_events.add(area, f"factors-{optimizer}", "DLT-006 OPT-009", text, [pair], chosen, 0.5)


def _refusal_of(pairs: list[whole_events.Made], chosen: update_choices.Rule) -> str:
    """Return why the event is refused at a fraction of 1; return an empty text if it is not refused."""
    try:
        event([p for p, _ in pairs], [s for _, s in pairs], chosen, 1.0, seed=3, step=20)
    except select_pools.RefusedError as error:
        return str(error)
    return ""


def _made_up(area: Area) -> None:
    """Add an event of scope model in which a matrix below its budget makes up for one above it (EVT-009)."""
    chosen = whole_events.rule(scope="model")
    low = whole_events.made(125, (3, 4), 6, 4, 1, chosen=chosen, missing=3)
    high, evidence = whole_events.made(126, (3, 5), 9, 4, 1, chosen=chosen, matrix=1)
    high = replace(high, budget=[high.budget[0] - 3])
    low = (replace(low[0], delta_budget=[len(low[0].phi)]), low[1])
    purpose = "a matrix below its budget that does not make up for another"
    pairs = [low, (high, evidence)]
    whole_events.add(area, "made-up-whole", "EVT-009 ADPT-001 DLT-001", purpose, pairs, chosen, 0.5)


def _many_groups(area: Area) -> None:
    """Add events over several blocks of rows, with unequal budgets (GRD-003, GROW-007)."""
    n, (rows, width) = Numbers(127, 1), (514, 2)
    base = {2 * g + n.integer(0, 1): float(n.integer(-2, 2)) / 2 for g in range(rows) if g % 3 and g % 9 == 1}
    eta = [p for p in sorted(base) if n.integer(0, 1) == 0]
    phi = {p: float(n.integer(-2, 2)) / 4 for p in eta}
    kept: dict[str, dict[int, Any]] = {"age": dict.fromkeys(eta, 3)}
    kept |= {name: {p: float(n.integer(0, 8)) / 8 for p in eta} for name in ("m", "v")}
    budget = [int(g % 3 > 0) for g in range(rows)]
    part = Part((rows, width), 0, base, phi, kept, budget, [len(eta)], "adamw")
    gradient = [float(x) for x in n.lattice(rows * width, 40)]
    for name, choice, pattern in (("groups", {"scope": "group"}, (1, 2)), ("rows", {"scope": "row"}, None)):
        chosen = whole_events.rule(**choice)
        mine = part
        if name == "rows":
            # every 17th row lacks two slots
            slots = [sum(p // width == r for p in eta) + 2 * (r % 17 == 0) for r in range(rows)]
            mine = replace(part, budget=[width] * rows, delta_budget=slots)
        nothing = [0.0] * (rows * width)
        evidence = Evidence(gradient, nothing, nothing, [0.0] * width, [0.0] * rows, [0.0] * width, None, 1)
        purpose = "budgets or positions of the first rows for all that are looked at later"
        clauses = "GRD-003 EVT-009 DLT-001 TRN-009" + (" GROW-007" if pattern else "")
        _many(area, name, clauses, purpose, (mine, evidence), chosen, ("gradient",), pattern)


AREAS = (events,)
