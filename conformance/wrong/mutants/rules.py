"""Wrong criteria, evidence, presets and events by the choices of chapter 8."""

from collections.abc import Callable
from typing import Any

import numpy as np

from conformance.wrong.mutants.base import Mutant, Operation, Values, after, changed, flipped, mutant, right, unchecked

__all__ = ["MUTANTS"]


def choosing(**new: Any) -> Operation:
    """An event under a rule with other choices."""
    return lambda a: right("update.event")(a | {"rule": a["rule"] | new})


def of_parts(**new: Callable[[Values], Any]) -> Operation:
    """An event whose parts have other entries."""
    return lambda a: right("update.event")(
        a | {"parts": [part | {name: f(part) for name, f in new.items()} for part in a["parts"]]}
    )


def told(name: str, change: Callable[[Any], Any]) -> Operation:
    """An event whose record tells something else."""
    return after("update.event", lambda out, _: {"records": [r | {name: change(r[name])} for r in out["records"]]})


def scope_taken_for_matrix(a: Values) -> Values:
    # one budget for what has one a row or a group
    names = ("budget", "delta_budget")
    parts = [part | {name: np.array([np.sum(part[name])]) for name in names} for part in a["parts"]]
    return right("update.event")(a | {"rule": a["rule"] | {"scope": "matrix"}, "parts": parts})


def matrices_apart(a: Values) -> Values:
    found = [right("update.event")(a | {"parts": [part]}) for part in a["parts"]]
    return {name: [one for each in found for one in each[name]] for name in found[0]}


def base_moves_in(out: Values, a: Values) -> Values:
    """Grown positions become positions of the base."""
    both = [np.union1d(base, new) for base, new in zip(out["base"], out["grown"], strict=True)]
    more = []
    for old, values, new in zip(out["base"], out["base_values"], both, strict=True):
        wide = np.zeros(len(new), dtype=values.dtype)
        wide[np.searchsorted(new, old)] = values
        more.append(wide)
    return {"base": both, "base_values": more}


def taken_for(op: str, one: str, other: str) -> Operation:
    """One criterion computed as another where its inputs allow it."""

    def f(a: Values) -> Values:
        if a["criterion"] != one:
            return right(op)(a)
        return right(op)(a | {"criterion": other})

    return f


def scored(op: str, criterion: str, score: Callable[[Values], Any]) -> Operation:
    """One criterion by another formula; what the engine refuses stays refused."""

    def f(a: Values) -> Values:
        out = right(op)(a)
        return {"scores": np.asarray(score(a))} if a["criterion"] == criterion else out

    return f


def in_wide(op: str, criterion: str, score: Callable[[Values], Any]) -> Operation:
    """One criterion in binary64, rounded at the end."""

    def f(a: Values) -> Values:
        out = right(op)(a)
        if a["criterion"] != criterion or out["scores"].dtype != np.float32:
            return out
        wide = {k: v.astype(np.float64) if getattr(v, "dtype", None) == np.float32 else v for k, v in a.items()}
        return {"scores": np.asarray(score(wide)).astype(np.float32)}

    return f


def narrow_draws(op: str) -> Operation:
    return after(
        op,
        lambda out, a: (
            {"scores": out["scores"].astype(np.float32).astype(np.float64)} if a["criterion"] == "random" else {}
        ),
    )


def row_of(a: Values, name: str) -> Any:
    return a[name].reshape(-1)[a["positions"] // a["in"]]


def column_of(a: Values, name: str) -> Any:
    return a[name].reshape(-1)[a["positions"] % a["in"]]


def at(a: Values, name: str) -> Any:
    return a[name].reshape(-1)[a["positions"]]


def of_micro_batches(out: Values, a: Values) -> Values:
    """|g| and g² of micro-batches instead of steps."""
    parts = [abs(dy.T @ x) for dys, xs in zip(a["dy"], a["x"], strict=True) for dy, x in zip(dys, xs, strict=True)]
    total = sum(parts) / max(len(a["dy"]), 1)
    return {"absolute": np.asarray(total, dtype=out["absolute"].dtype).reshape(out["absolute"].shape)}


def absolute_mean(out: Values, _: Values) -> Values:
    return {"gradient": np.abs(out["gradient"])}


def summed(name: str) -> Operation:
    """Evidence that is not divided by what it sums."""
    return after("window.evidence", lambda out, a: {name: out[name] * out[name].dtype.type(len(a["dy"]))})


def counted_rows_only(out: Values, a: Values) -> Values:
    """H over the rows whose gradient is not 0."""
    rows = [
        x[np.any(dy != 0, axis=1)]
        for dys, xs in zip(a["dy"], a["x"], strict=True)
        for dy, x in zip(dys, xs, strict=True)
    ]
    seen = np.concatenate(rows)
    return {"inputs": (seen * seen).sum(axis=0) / seen.dtype.type(max(len(seen), 1))}


def of_the_last_step(a: Values) -> Values:
    return right("window.candidates")(a | {"gradients": a["gradients"][::-1]})


def without_default(out: Values, _: Values) -> Values:
    return {"choices": [c for c in out["choices"] if not c.startswith(("evolve_until", "drop_schedule"))]}


def another_default(out: Values, _: Values) -> Values:
    return {"choices": [c.replace("drop_fraction=0.3", "drop_fraction=0.2") for c in out["choices"]]}


_CHECKED = [
    "ADPT-005",
    "ADPT-006",
    "ADPT-007",
    "DLT-006",
    "DROP-003",
    "DROP-004",
    "EVT-007",
    "EVT-008",
    "EVT-009",
    "EVT-012",
    "GROW-001",
    "GROW-004",
    "GROW-006",
    "SCH-007",
]


def n_for_the_budget_of_a_group(a: Values) -> Values:
    if a["pattern"] is None:
        return right("update.event")(a)
    parts = [part | {"budget": np.full_like(part["budget"], a["pattern"][0])} for part in a["parts"]]
    return right("update.event")(a | {"parts": parts})


def looked_at_where_it_is_scored(a: Values) -> Values:
    parts = [part | {"gradient": np.nan_to_num(part["gradient"])} for part in a["parts"]]
    return right("update.event")(a | {"parts": parts})


def gaps_in_the_dtype_of_scores(a: Values) -> Values:
    found, scores, best = right("select.pools")(a), a["scores"], None
    for p, k in enumerate(a["counts"]):
        mine = np.sort(scores[a["pools"] == p])
        mine = mine[::-1] if a["largest"] else mine
        if not 0 < k < len(mine):
            continue
        inside, outside = mine[k - 1], mine[k]
        top = max(abs(inside), abs(outside))
        gap = abs(inside - outside) / top if top else top
        if best is None or gap < best[0]:
            best = gap, inside, outside
    names = ("gap", "inside", "outside")
    told = {} if best is None else {n: np.array([x + 0], scores.dtype) for n, x in zip(names, best, strict=True)}
    return found | told


def norm_in_the_dtype(a: Values) -> Values:
    if not np.isfinite(a["gradient"]).all():
        return right("gradient.norm")(a)
    return {"norm": float(np.sqrt(np.sum(a["gradient"] * a["gradient"])))}


MUTANTS: list[Mutant] = [
    mutant("DLT-001 EVT-009", "update.event", n_for_the_budget_of_a_group, "N for what a group stored at load"),
    mutant("EVT-005", "update.event", looked_at_where_it_is_scored, "NaN off what is scored goes unseen"),
    mutant("SEL-008", "select.pools", gaps_in_the_dtype_of_scores, "gaps in the compute dtype"),
    mutant("TRN-009", "gradient.norm", norm_in_the_dtype, "a norm that overflows"),
    mutant("DROP-003", "update.event", choosing(drop="magnitude"), "always drops by |φ|"),
    mutant("DROP-004", "update.event", choosing(drops="slot"), "the base of a dropped weight stays"),
    mutant("GROW-004", "update.event", choosing(grow="gradient"), "always grows by |ḡ|"),
    mutant("GROW-005", "update.event", choosing(regrow=1), "just-dropped positions always candidates"),
    mutant("GROW-006", "update.event", choosing(candidates="all"), "all positions candidates"),
    mutant(
        "GRD-007",
        "update.event",
        of_parts(candidates=lambda p: None if p["candidates"] is None else p["candidates"][:1]),
        "one candidate alone",
    ),
    mutant("GROW-007 EVT-009 TOP-005", "update.event", scope_taken_for_matrix, "scope taken for matrix"),
    mutant("ADPT-005", "update.event", choosing(adapt="sensitivity"), "always adapts by |ḡ · W|"),
    mutant("ADPT-006", "update.event", choosing(counts="support"), "always counts the support"),
    mutant("ADPT-007", "update.event", choosing(exempt="new"), "only new slots exempt"),
    mutant("DLT-006", "update.event", choosing(moments="zero"), "new slots start without moments"),
    mutant("DLT-006", "update.event", of_parts(steps=lambda p: 1), "A taken for 1"),
    mutant("EVT-008", "update.event", choosing(adapts="always"), "always adapts"),
    mutant("SCH-008", "update.event", choosing(first_event="fraction"), "the first event like the others"),
    mutant("RNG-003", "update.event", changed("update.event", seed=lambda a: a["seed"] + 1), "another seed"),
    mutant("RNG-003", "update.event", changed("update.event", step=lambda a: a["step"] - 1), "steps from 0"),
    mutant("SEL-007 DLT-001", "update.event", matrices_apart, "matrices always apart"),
    mutant("DLT-001", "update.event", of_parts(budget=lambda p: p["budget"] + 1), "a budget of K + 1"),
    mutant("EVT-006", "update.event", after("update.event", base_moves_in), "grown positions join the base"),
    mutant(
        "OPT-008",
        "update.event",
        of_parts(row_moments=lambda p: None if p["row_moments"] is None else p["row_moments"] * 0 + 1),
        "rows forgotten at events",
    ),
    mutant("TRN-009", "update.event", told("dropped", lambda n: 0), "no count of dropped slots"),
    mutant("TRN-009", "update.event", told("reactivated", lambda n: n + 1), "one reactivated too many"),
    mutant("SEL-008 TRN-009", "update.event", told("drop", lambda b: b[:0]), "no boundary of the drop"),
    *unchecked("update.event", "EVT-005"),
    mutant("DROP-003", "score.drop", taken_for("score.drop", "change", "magnitude"), "|φ| for |φ − φ₀|"),
    mutant(
        "DROP-003",
        "score.drop",
        scored("score.drop", "fisher", lambda a: a["square"] * np.abs(a["values"])),
        "square · |φ|",
    ),
    mutant(
        "DROP-003 NUM-006",
        "score.drop",
        in_wide("score.drop", "fisher", lambda a: a["square"] * (a["values"] * a["values"])),
        "fisher rounded once",
    ),
    mutant(
        "RNG-003",
        "score.drop",
        changed("score.drop", matrix=lambda a: 0 if a["matrix"] else a["matrix"]),
        "one key for all matrices",
    ),
    *unchecked("score.drop", "EVT-005"),
    mutant(
        "GROW-004",
        "score.grow",
        scored(
            "score.grow",
            "absolute",
            lambda a: np.abs(at(a, "gradient")) if a["gradient"] is not None else at(a, "absolute") * 2,
        ),
        "|ḡ| for the mean of |g|",
    ),
    mutant(
        "GROW-004 OPT-008",
        "score.grow",
        scored("score.grow", "moments", lambda a: np.minimum(row_of(a, "row_moments"), column_of(a, "column_moments"))),
        "min(r, c) for r · c",
    ),
    mutant(
        "GROW-004 GRD-006",
        "score.grow",
        scored("score.grow", "curvature", lambda a: at(a, "gradient") ** 2 * column_of(a, "inputs")),
        "ḡ² · h",
    ),
    mutant(
        "NUM-006",
        "score.grow",
        in_wide(
            "score.grow",
            "curvature",
            lambda a: np.where(
                column_of(a, "inputs") != 0,
                at(a, "gradient") ** 2 / np.where(column_of(a, "inputs") != 0, column_of(a, "inputs"), 1),
                0,
            ),
        ),
        "curvature rounded once",
    ),
    mutant("RNG-003", "score.grow", narrow_draws("score.grow"), "draws in binary32"),
    *unchecked("score.grow", "EVT-005"),
    mutant("ADPT-005", "score.adapt", taken_for("score.adapt", "activation", "magnitude"), "|W| for |W| · sqrt(h)"),
    mutant(
        "ADPT-005 GRD-006",
        "score.adapt",
        scored("score.adapt", "curvature", lambda a: a["weight"] ** 2 * column_of(a, "inputs")),
        "W² · h",
    ),
    mutant(
        "NUM-006",
        "score.adapt",
        in_wide("score.adapt", "activation", lambda a: np.abs(a["weight"]) * np.sqrt(column_of(a, "inputs"))),
        "activation rounded once",
    ),
    mutant(
        "RNG-003",
        "score.adapt",
        changed("score.adapt", use=lambda a: None if a["use"] is None else 3),
        "the last pass draws like any other",
    ),
    *unchecked("score.adapt", "EVT-005"),
    mutant("GRD-004", "window.evidence", after("window.evidence", absolute_mean), "|·| after the mean kept as ḡ"),
    mutant("GRD-005", "window.evidence", after("window.evidence", of_micro_batches), "|g| of micro-batches"),
    mutant(
        "GRD-005",
        "window.evidence",
        after("window.evidence", lambda o, _: {"square": o["gradient"] * o["gradient"]}),
        "ḡ² for square",
    ),
    mutant("GRD-004 NUM-003", "window.evidence", summed("gradient"), "the sum for the mean"),
    mutant("GRD-006", "window.evidence", after("window.evidence", counted_rows_only), "h of counted rows alone"),
    mutant("GRD-001", "window.evidence", flipped("window.evidence", "gradient"), "the gradient transposed"),
    mutant("GRD-007", "window.candidates", of_the_last_step, "candidates of the last step"),
    mutant(
        "GRD-005",
        "window.candidates",
        after("window.candidates", lambda o, _: {"square": o["gradient"] * o["gradient"]}),
        "ḡ² for square",
    ),
    *unchecked("window.candidates", "SEL-005", "EVT-005"),
    mutant(
        "EVT-011",
        "preset.rule",
        changed("preset.rule", name=lambda a: "seft" if a["name"] == "literal" else a["name"]),
        "literal taken for seft",
    ),
    mutant("EVT-011", "preset.rule", after("preset.rule", another_default), "another drop fraction"),
    *unchecked("preset.rule", "EVT-011"),
    *unchecked("rule.check", *_CHECKED),
]
