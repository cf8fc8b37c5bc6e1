"""Cases of chapters 6 to 10 for what the other cases did not reach: other sizes, unequal budgets, refusals."""

from dataclasses import replace
from math import hypot
from typing import Any

import numpy as np

from conformance.gen import presets, rule_events, tiny
from conformance.gen.numbers import Area, Numbers, ids, reals
from conformance.gen.steps import World
from conformance.gen.train import GAP, described, run_answer
from conformance.oracle import select, select_pools, train, update_choices, update_counts
from conformance.oracle.event import Evidence, Outcome, Part, event

_BOTH = ("float64", "float32")


def selections() -> Area:
    """SEL-008, DLT-002, TRN-009: gaps, shares, norms."""
    area = Area("hole", "plain Python")
    for name, scores, where, counts, purpose in (
        ("far", [100.0, 101.0, 0.5, 0.75], [0, 0, 1, 1], [1, 1], "the smallest difference, not the smallest gap"),
        ("near", [-3.0, -2.0, 64.0, 66.0, 1.0], [1, 1, 2, 2, 0], [1, 1, 1], "a gap by a score with its sign"),
        ("zero", [0.0, -0.0, 8.0, 8.0, 1.0, 2.0], [2, 2, 1, 1, 0, 0], [1, 1, 1], "0 / 0 for a gap of equal zeros"),
        ("sides", [-1.0, 1.0, 4.0, 1.0], [0, 0, 1, 1], [1, 1], "a gap above 1 across zero"),
    ):
        for largest in (0, 1):
            scored = [(pool, i, x) for i, (pool, x) in enumerate(zip(where, scores, strict=True))]
            found = select_pools.select(scored, dict(enumerate(counts)), largest=bool(largest))
            near = select_pools.nearest([b for _, b in found.boundaries])
            given: dict[str, Any] = {"scores": reals(scores), "ids": ids(range(len(scores))), "pools": ids(where)}
            given |= {"counts": ids(counts), "largest": largest}
            answer: dict[str, Any] = {"chosen": ids(found.chosen)}
            told = (near[0] + 0.0, near[1] + 0.0, select_pools.gap(near)) if near else ()
            for i, key in enumerate(("inside", "outside", "gap")):
                answer[key] = reals(told[i : i + 1])
            side = "largest" if largest else "smallest"
            area.add(f"gap-{name}-{side}", "select.pools", "SEL-008 SEL-007", purpose, given, answer)
    for name, amount, shapes in (
        ("49", 49, [(1, 1), (6, 8)]),
        ("whole", 1, [(7, 7)]),
        ("reciprocal", 103, [(1, 1), (2, 51)]),
    ):
        stored = [m * n for m, n in shapes]
        given = {"by": "count", "amount": amount, "shapes": np.array(shapes, dtype=np.int64), "stored": ids(stored)}
        answer = {"n": ids(update_counts.delta_budgets("count", amount, shapes, stored))}
        purpose = "n · (m / total) or (n / total) · m in floating point, one below the share"
        area.add(f"share-{name}", "count.budgets", "DLT-002", purpose, given, answer)
    n = Numbers(123, 1)
    plain = n.lattice((19, 17), 3)
    for name, gradient, dtypes, purpose in (
        ("large", plain * 2.0**70, _BOTH, "squares that overflow in binary32, in a sum of many"),
        ("tiny", plain * 2.0**-80, _BOTH, "squares that underflow in binary32, in a sum of many"),
    ):
        given = {"out": 19, "in": 17, "gradient": gradient}
        answer = {"norm": hypot(*(float(g) for g in gradient.reshape(-1)))}
        area.add(f"norm-{name}", "gradient.norm", "EVT-005 TRN-009 NUM-004", purpose, given, answer, dtypes=dtypes)
    return area


def events() -> Area:
    """ADPT-001, EVT-009, GRD-003, GROW-007: events that no other case has."""
    area = Area("hole-event", "dictionaries by flat position")
    _refused(area)
    _made_up(area)
    _many_groups(area)
    _many_candidates(area)
    _uneven_pools(area)
    _many_drawn(area)
    _many_seeded(area)
    return area


def _many_candidates(area: Area) -> None:
    """GRD-003: more positions than a first look takes, with many equal scores, in one block of rows and in two."""
    for name, rows, width, k, scope in (("block", 500, 40, 70, "all"),):
        n = Numbers(129, rows)
        dy, x = n.lattice((1, rows), 40), n.lattice((1, width), 9)
        base, eta = n.subset(rows * width, 120), n.subset(rows * width, 40)
        gradient = (dy.T @ x).reshape(-1)
        open_to = sorted(set(range(rows * width)) - set(eta))
        chosen = select.largest([abs(float(gradient[p])) for p in open_to], open_to, k)
        given = {"out": rows, "in": width, "dy": [dy], "x": [x], "steps": 1, "base": ids(base), "delta": ids(eta)}
        given |= {"n": k, "scope": scope}
        answer = {"candidates": ids(chosen), "values": reals(gradient[chosen] + 0.0)}
        purpose = "candidates lost, or ties to a later position, where 16,384 scores or more are looked at in parts"
        clauses = "GRD-003 GROW-001 GROW-002 SEL-001"
        area.add(f"many-{name}", "gradient.candidates", clauses, purpose, given, answer)


def _many_drawn(area: Area) -> None:
    """RNG-003, GROW-004: candidates of more rows than are looked at at once, scored by their flat positions."""
    chosen = rule_events.rule(grow="random", adapts="never")
    made = rule_events.made(133, (514, 2), 20, 6, 1, chosen=chosen, missing=6)
    purpose = "draws that begin anew with every block of rows"
    _many(area, "drawn", "RNG-003 GROW-004 GRD-003 TRN-009", purpose, made, chosen, ())


def _many_seeded(area: Area) -> None:
    """DLT-006: new slots behind the part of a matrix that a first look takes."""
    chosen, shape = rule_events.rule(moments="seeded", adapts="never"), (129, 128)
    part, seen = rule_events.made(134, shape, 20, 6, 1, chosen=chosen, missing=6, steps=2)
    # numbers that repeat, which a vector file holds in few bytes, and some that are large
    gradient, square = ([float(p % k - k // 2) for p in range(shape[0] * shape[1])] for k in (7, 5))
    square = [x * x for x in square]
    for i, p in enumerate((3, 8192, 16383, 16384, 16401, 16450, 16511)):
        gradient[p], square[p] = (-1.0) ** i * (16 + i), 30.0 + i
    seen = replace(seen, gradient=gradient, square=square)
    purpose = "m and v of a new slot taken from another position, where the matrix is looked at in parts"
    _many(area, "seeded", "DLT-006 GROW-003 GRD-003 TRN-009", purpose, (part, seen), chosen, ("gradient", "square"))


def _many(
    area: Area,
    name: str,
    clauses: str,
    purpose: str,
    made: rule_events.Made,
    chosen: update_choices.Rule,
    asked: tuple[str, ...],
    pattern: tuple[int, int] | None = None,
) -> None:
    """Add an event over a matrix that is too large to be looked at at once, with the evidence asked for."""
    part, seen = made
    outcomes = event([part], [seen], chosen, 0.5, seed=3, step=20, pattern=pattern)
    told = rule_events.given_part(part, seen)
    evidence = {"gradient", "absolute", "square", "inputs", "row_moments", "column_moments"}
    told |= dict.fromkeys(sorted(evidence - set(asked)))
    given = {"parts": [told], "rule": chosen, "fraction": 0.5, "seed": 3, "step": 20}
    given |= {"pattern": list(pattern)} if pattern else {}
    area.add(f"many-{name}", "update.event", clauses, purpose, given, rule_events.answered(outcomes))


def _uneven_pools(area: Area) -> None:
    """EVT-009, GROW-002: rows without room, and rows without slots."""
    chosen = rule_events.rule(scope="row", adapts="never")
    part, seen = rule_events.made(130, (4, 4), 9, 7, 0, chosen=chosen)
    # row 0 is all slots, row 1 has none, row 2 lacks more than it has room for, row 3 is as it should be
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
    rule_events.add(area, "rows", "EVT-009 GROW-002 SEL-007", purpose, [(part, seen)], chosen, 0.5)


def _refused(area: Area) -> None:
    """ADPT-001: more is too many than may be pruned."""
    for name, choice in (
        ("matrix", {}),
        ("row", {"scope": "row"}),
        ("model", {"scope": "model"}),
    ):
        chosen = rule_events.rule(**choice)
        part, seen = rule_events.made(124, (3, 4), 4, 4, 2, chosen=chosen)
        # new slots come for all that are dropped, and there is no room for one of them
        seen = replace(seen, gradient=[0.0 if p in part.phi else 8.0 for p in range(12)])
        pairs = [(replace(part, budget=[0] * len(part.budget)), seen)]
        if name == "model":
            pairs.append((replace(pairs[0][0], matrix=1), seen))
        given = {"parts": [rule_events.given_part(*pair) for pair in pairs], "rule": chosen, "fraction": 1.0}
        given |= {"seed": 3, "step": 20}
        purpose = "as much pruned as may be, and the budget exceeded in silence"
        clauses = "ADPT-001 SEL-005"
        refusal = _refusal_of(pairs, chosen)
        assert "SEL-005" in refusal, f"{name}: {refusal or 'no refusal'}"
        area.add(f"refuse-{name}", "update.event", clauses, purpose, given, refused=clauses)


def _refusal_of(pairs: list[rule_events.Made], chosen: update_choices.Rule) -> str:
    """Return why an event that drops everything is refused; nothing if it is not."""
    try:
        event([p for p, _ in pairs], [s for _, s in pairs], chosen, 1.0, seed=3, step=20)
    except select_pools.RefusedError as error:
        return str(error)
    return ""


def _made_up(area: Area) -> None:
    """EVT-009: with scope model a matrix below its budget makes up for one above."""
    chosen = rule_events.rule(scope="model")
    for name, room, over in (("whole", 3, 3),):
        low = rule_events.made(125, (3, 4), 6, 4, 1, chosen=chosen, missing=room)
        high, seen = rule_events.made(126, (3, 5), 9, 4, 1, chosen=chosen, matrix=1)
        high = replace(high, budget=[high.budget[0] - over])
        low = (replace(low[0], delta_budget=[len(low[0].phi)]), low[1])
        pairs = (
            [low, (high, seen)]
            if name != "first"
            else [(replace(high, matrix=0), seen), (replace(low[0], matrix=1), low[1])]
        )
        purpose = "a matrix below its budget that does not make up for another"
        rule_events.add(area, f"made-up-{name}", "EVT-009 ADPT-001 DLT-001", purpose, pairs, chosen, 0.5)


def _many_groups(area: Area) -> None:
    """GRD-003, GROW-007: more rows than are looked at at once, in groups of unequal budgets."""
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
        chosen = rule_events.rule(**choice)
        mine = part
        if name == "rows":
            # every 17th row lacks two slots
            slots = [sum(p // width == r for p in eta) + 2 * (r % 17 == 0) for r in range(rows)]
            mine = replace(part, budget=[width] * rows, delta_budget=slots)
        nothing = [0.0] * (rows * width)
        seen = Evidence(gradient, nothing, nothing, [0.0] * width, [0.0] * rows, [0.0] * width, None, 1)
        purpose = "budgets or positions of the first rows for all that are looked at later"
        clauses = "GRD-003 EVT-009 DLT-001 TRN-009" + (" GROW-007" if pattern else "")
        _many(area, name, clauses, purpose, (mine, seen), chosen, ("gradient",), pattern)


def runs() -> Area:
    """EVT-010, DLT-001: whole runs."""
    area = Area("hole-run", "binary64 run")
    seft = update_choices.rule_of("seft")
    short = {"micro_batches": 1, "rows": 2}
    replaced = {"rule": seft | {"event_replaces_step": 1}, "steps": 6, "evolve_every": 3, "gradient_window": 3} | short
    grouped = {"rule": seft | {"scope": "group"}, "pattern": [2, 4], "steps": 7, "evolve_every": 2} | short
    narrow = {
        "rule": seft | {"adapt": "activation", "grow": "absolute"},
        "steps": 9,
        "evolve_every": 4,
        "gradient_window": 2,
        "rows": 2,
        "micro_batches": 2,
    }
    for name, more, tells, clauses, purpose in (
        ("replaced", replaced, _window_told, "EVT-010 TRN-005 GRD-004", "no step in the whole window of the event"),
        ("narrow", narrow, _narrow_told, "TRN-005 GRD-005 GRD-006", "a window that opens a step early or late"),
        ("groups", grouped, _budgets_told, "DLT-001 EVT-009 GROW-007", "K of a group from what it stores now"),
    ):
        settings = presets.SETTINGS | more
        for seed in range(300):
            world = tiny.world(Numbers(128, seed), tiny.CONFIG, pattern="pattern" in settings)
            mine = settings | {"seed": seed}
            run = train.run(tiny.CONFIG, *world, mine)
            if run.gap >= GAP and run.moves["grown"] and tells(mine, world, run):
                break
        else:
            msg = f"no seed for {name}"
            raise AssertionError(msg)
        area.add(name, "train.run", clauses, purpose, described(mine, world, tiny.CONFIG), run_answer(run))
    return area


def _window_told(settings: dict[str, Any], world: World, run: train.Run) -> bool:
    """Tell whether steps of the window move the loss by more than rounding."""
    still = train.run(tiny.CONFIG, *world, settings | {"lr": 0.0})
    return abs(still.losses[-1] - run.losses[-1]) > 2e-3 * run.losses[-1]


def _narrow_told(settings: dict[str, Any], world: World, run: train.Run) -> bool:
    """Tell whether a window of one step or of three would make another run."""
    others = (train.run(tiny.CONFIG, *world, settings | {"gradient_window": size}) for size in (1, 3))
    return all(other.events != run.events for other in others)


def _budgets_told(settings: dict[str, Any], world: World, run: train.Run) -> bool:
    """Tell whether the run would end otherwise if K were counted anew before every event."""
    other = _Forgetful(tiny.CONFIG, *world, settings).events_of()
    return other != run.events


class _Forgetful(train.Trainer):
    """A run whose pools have the budgets of what their base stores at the event."""

    def event(self, step: int, seen: list[Evidence]) -> list[Outcome]:
        """Count K anew, then evolve."""
        for i, part in enumerate(self.parts):
            width = part.shape[1] if self.pattern is None else self.pattern[1]
            budget = [sum(p // width == g for p in part.base) for g in range(len(part.budget))]
            self.parts[i] = replace(part, budget=budget)
        return super().event(step, seen)

    def events_of(self) -> train.Events:
        """Return base and slots after every event."""
        s, found = self.s, []
        for step in range(1, s["steps"] + 1):
            looked = self.look(step)
            self.optimize(step, looked.gradients)
            if train.window_of(s, step)[1]:
                try:
                    self.event(step, [self.evidence(i, [looked]) for i in range(len(self.parts))])
                except select_pools.RefusedError:
                    return []
                found.append([(list(part.phi), sorted(part.base)) for part in self.parts])
        return found


AREAS = (selections, events, runs)
