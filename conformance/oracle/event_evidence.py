"""The evidence that an event gets from a gradient window, and the kinds that a rule asks for (chapter 6, EVT-005)."""

import math
from collections.abc import Sequence, Set
from dataclasses import dataclass, field

from conformance.oracle import select_pools
from conformance.oracle.update_choices import Rule


@dataclass(frozen=True)
class Evidence:
    """The evidence of a window; gradient, absolute and square are flat over the matrix (GRD).

    Attributes:
        gradient: ḡ.
        absolute: mean of |g|.
        square: mean of g · g.
        inputs: h, one per column.
        row_moments: r of SM3, one per row.
        column_moments: c of SM3, one per column.
        candidates: the positions of GRD-007; None if all positions are candidates.
        steps: A, the number of steps in the window.
        tokens: Σ dy² x² / A, used on the support (GRD-008); empty if not asked for.
    """

    gradient: list[float]
    absolute: list[float]
    square: list[float]
    inputs: list[float]
    row_moments: list[float]
    column_moments: list[float]
    candidates: frozenset[int] | None = None
    steps: int = 1
    tokens: list[float] = field(default_factory=list)


def kept_at(support: Set[int], evidence: Evidence, rule: Rule) -> Set[int] | None:
    """Return the positions at which a window keeps gradients; None for all (GRD-007, GRD-009).

    support  the positions of base and delta
    """
    if evidence.candidates is not None:
        return evidence.candidates | support
    return support if rule["grow_scope"] == "active" else None


def refuse_infinite(values: Sequence[float]) -> None:
    """Refuse numbers that are not finite (EVT-005)."""
    if not all(map(math.isfinite, values)):
        msg = "EVT-005: NaN or infinity"
        raise select_pools.RefusedError(msg)


_GROWTH = {
    "gradient": {"gradient"},
    "absolute": {"absolute"},
    "fisher": {"square"},
    "curvature": {"gradient", "inputs"},
}
ADAPTATION = {
    "sensitivity": {"gradient"},
    "absolute": {"absolute"},
    "fisher": {"square"},
    "token-fisher": {"tokens"},
    "activation": {"inputs"},
    "curvature": {"inputs"},
}
"""The evidence that a criterion asks for; criteria without an entry ask for none."""


def asked_by(rule: Rule) -> set[str]:
    """Return the names of the evidence that the rule asks for at an event."""
    names = set(_GROWTH.get(rule["grow"], ()))
    if rule["adapts"] == "always":
        names |= ADAPTATION.get(rule["adapt"], set())
    if rule["drop"] == "fisher":
        names |= {"square"}
    return names | {"gradient", "square"} if rule["moments"] == "seeded" else names
