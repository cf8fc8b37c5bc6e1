"""Drop, grow, adapt and the event on dictionaries from flat position to number (DLT, DROP, GROW, ADPT)."""

from dataclasses import dataclass, field, replace
from typing import Any

from conformance.oracle.select import Round, binary64, largest, smallest


@dataclass(frozen=True)
class State:
    """One target matrix; every dictionary is keyed by flat position.

    Attributes:
        size: out · in.
        base: b on B.
        phi: φ on η.
        m: first moments on η.
        v: second moments on η.
        age: ages on η.
    """

    size: int
    base: dict[int, float]
    phi: dict[int, float]
    m: dict[int, float] = field(default_factory=dict)
    v: dict[int, float] = field(default_factory=dict)
    age: dict[int, int] = field(default_factory=dict)


def effective(base: dict[int, float], phi: dict[int, float], rounded: Round = binary64) -> dict[int, float]:
    """Return b + φ, rounded once, where there is a slot and b elsewhere on the support (DLT-003, TOP-004)."""
    support = sorted(base.keys() | phi.keys())
    return {p: rounded(base.get(p, 0.0) + phi[p]) if p in phi else base[p] for p in support}


def dropped(phi: dict[int, float], n: int) -> list[int]:
    """Return the n positions of η with the smallest |φ| (DROP-001)."""
    return smallest([abs(x) for x in phi.values()], list(phi), n)


def grown(state: State, out: list[int], gradient: list[float], n: int, scope: str) -> list[int]:
    """Return at most n grown positions (GROW-001, GROW-002)."""
    occupied = state.phi.keys() - set(out)
    candidates = [p for p in range(state.size) if p not in occupied and (scope == "all" or p in state.base)]
    return largest([abs(gradient[p]) for p in candidates], candidates, min(n, len(candidates)))


def pruned(
    weights: dict[int, float], exempt: set[int], gradient: list[float], budget: int, rounded: Round = binary64
) -> list[int]:
    """Return the positions that adapt prunes (ADPT-001 to ADPT-003)."""
    excess = max(0, len(weights) - budget)
    open_to = [p for p in weights if p not in exempt]
    return smallest([abs(rounded(gradient[p] * weights[p])) for p in open_to], open_to, excess)


def without(state: State, gone: list[int]) -> State:
    """Return the state without the positions `gone` in base and delta (ADPT-004)."""
    lost = set(gone)

    def cut(values: dict[int, Any]) -> dict[int, Any]:
        return {p: x for p, x in values.items() if p not in lost}

    return State(state.size, cut(state.base), cut(state.phi), cut(state.m), cut(state.v), cut(state.age))


def evolve(
    state: State,
    gradient: list[float],
    *,
    n_drop: int,
    delta_budget: int,
    budget: int,
    scope: str = "all",
    adapts: bool = True,
    rounded: Round = binary64,
) -> tuple[State, dict[str, list[int]]]:
    """Return the state after an event and the positions dropped, grown and pruned (EVT-001 to EVT-006)."""
    out = dropped(state.phi, n_drop)
    into = grown(state, out, gradient, n_drop + delta_budget - len(state.phi), scope)
    eta = sorted((state.phi.keys() - set(out)) | set(into))
    fresh = {p for p in into if p not in state.phi}
    changed = replace(
        state,
        phi={p: state.phi.get(p, 0.0) for p in eta},
        m={p: state.m.get(p, 0.0) for p in eta},
        v={p: state.v.get(p, 0.0) for p in eta},
        age={p: state.age.get(p, 0) for p in eta},
    )
    gone: list[int] = []
    if adapts:
        weights = effective(changed.base, changed.phi, rounded)
        gone = pruned(weights, fresh, gradient, budget, rounded)
    return without(changed, gone), {"dropped": out, "grown": into, "pruned": gone}
