"""Whole events by any rule, over one or several matrices, and the ratios of their records (chapter 8, TRN-009)."""

from typing import Any

from conformance.answers.answer import Inputs, Refusal, answers, ids, reals
from conformance.oracle import event_ratios
from conformance.oracle.event import Outcome, Part, event
from conformance.oracle.event_evidence import Evidence
from conformance.oracle.select_pools import RefusedError

__all__ = ["KEPT", "given_part"]

KEPT = ("age", "m", "v", "u", "origin")
"""The values that a part may have for every slot."""


def given_part(part: Part, evidence: Evidence) -> dict[str, Any]:
    """Return a matrix and its evidence as an entry of the input `parts`."""
    shape = part.shape
    inputs = {"out": shape[0], "in": shape[1], "matrix": part.matrix, "base": ids(part.base)}
    inputs |= {"base_values": reals(part.base.values()), "delta": ids(part.phi)}
    inputs |= {"delta_values": reals(part.phi.values())}
    inputs |= {name: (ids if name == "age" else reals)(part.kept[name].values()) for name in KEPT if name in part.kept}
    inputs |= {n: reals(getattr(evidence, n)).reshape(shape) for n in ("gradient", "absolute", "square")}
    inputs |= {n: reals(getattr(evidence, n)) for n in ("inputs", "row_moments", "column_moments")}
    if evidence.tokens:
        inputs["tokens"] = reals(evidence.tokens).reshape(shape)
    if evidence.candidates is not None:
        inputs["candidates"] = ids(sorted(evidence.candidates))
    inputs |= {"lost": ids(sorted(part.lost)), "budget": ids(part.budget), "delta_budget": ids(part.delta_budget)}
    return inputs | {"steps": evidence.steps, "optimizer": part.optimizer, "first": int(part.first)}


def _part(entry: dict[str, Any]) -> Part:
    """Return a matrix of the input `parts`."""
    eta = entry["delta"].tolist()
    kept = {name: dict(zip(eta, entry[name].tolist(), strict=True)) for name in KEPT if entry.get(name) is not None}
    return Part(
        (entry["out"], entry["in"]),
        entry["matrix"],
        dict(zip(entry["base"].tolist(), entry["base_values"].tolist(), strict=True)),
        dict(zip(eta, entry["delta_values"].tolist(), strict=True)),
        kept,
        entry["budget"].tolist(),
        entry["delta_budget"].tolist(),
        entry["optimizer"],
        bool(entry["first"]),
        frozenset(entry["lost"].tolist()),
    )


def _evidence(entry: dict[str, Any]) -> Evidence:
    """Return the evidence for a matrix of the input `parts`, zeros where the call has none."""
    rows, columns = entry["out"], entry["in"]

    def flat(name: str, n: int) -> list[float]:
        return [0.0] * n if entry.get(name) is None else entry[name].reshape(-1).tolist()

    size, candidates = rows * columns, entry.get("candidates")
    return Evidence(
        flat("gradient", size),
        flat("absolute", size),
        flat("square", size),
        flat("inputs", columns),
        flat("row_moments", rows),
        flat("column_moments", columns),
        None if candidates is None else frozenset(candidates.tolist()),
        entry["steps"],
        flat("tokens", 0),
    )


_ALSO = {"EVT-005": ("EVT-005", "SEL-004"), "SEL-004": ("EVT-005", "SEL-004"), "SEL-005": ("ADPT-001", "SEL-005")}
"""Clause of the oracle -> the clauses that say the same of an event, of which a port names one."""


def _outcomes(a: Inputs) -> tuple[list[Part], list[Evidence], list[Outcome]]:
    parts, evidence = [_part(entry) for entry in a["parts"]], [_evidence(entry) for entry in a["parts"]]
    how = {"seed": a["seed"], "step": a["step"], "pattern": None if a["pattern"] is None else tuple(a["pattern"])}
    try:
        outcomes = event(parts, evidence, a["rule"], a["fraction"], **how, rounded=a.rounded)
    except RefusedError as error:
        raise Refusal(*_ALSO[str(error).split(":")[0]]) from error
    return parts, evidence, outcomes


@answers("update.event")
def _event(a: Inputs) -> dict[str, Any]:
    _, _, outcomes = _outcomes(a)
    parts = [one.part for one in outcomes]
    outputs: dict[str, Any] = {
        "base": [ids(part.base) for part in parts],
        "base_values": [reals(part.base.values()) for part in parts],
        "delta": [ids(part.phi) for part in parts],
        "delta_values": [reals(part.phi.values()) for part in parts],
    }
    for name in KEPT:
        make = ids if name == "age" else reals
        outputs[name] = [make(part.kept[name].values()) if name in part.kept else None for part in parts]
    for name in ("dropped", "grown", "cancelled", "pruned"):
        outputs[name] = [ids(getattr(one, name)) for one in outcomes]
    outputs["records"] = [
        one.record | {name: reals(near or ()) for name, near in one.boundaries.items()} for one in outcomes
    ]
    return outputs


@answers("event.ratios")
def _ratios(a: Inputs) -> dict[str, Any]:
    every = zip(*_outcomes(a), strict=True)
    records = [event_ratios.ratios(part, evidence, a["rule"], one) for part, evidence, one in every]
    return {name: [one[name] for one in records] for name in ("churn", "overlap", "gradient_norm")}
