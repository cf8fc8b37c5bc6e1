"""An update rule as a record of named choices (chapter 8), and which choices contradict each other (EVT-012).

Only this file reads `scope`; other code asks the rule, or the pools that `seft_ref.update.pools` makes from it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args, get_type_hints

from seft_ref.errors import ConfigError

Drop = Literal["magnitude", "change", "fisher", "weight", "random"]
Drops = Literal["slot", "weight"]
Grow = Literal["gradient", "absolute", "fisher", "moments", "curvature", "random"]
GrowScope = Literal["anywhere", "active"]
Candidates = Literal["all", "first-step"]
Moments = Literal["zero", "seeded"]
Adapt = Literal["sensitivity", "absolute", "fisher", "token-fisher", "magnitude", "activation", "curvature", "random"]
Adapts = Literal["always", "end", "never"]
Counts = Literal["support", "values"]
Exempt = Literal["new", "slots", "none"]
Scope = Literal["matrix", "row", "group", "model"]
Events = Literal["period", "phases"]
DropSchedule = Literal["cosine", "linear", "constant"]
FirstEvent = Literal["fraction", "all"]

CLAUSE_OF = {
    "evolves": "EVT-001",
    "drop": "DROP-003",
    "drops": "DROP-004",
    "grow": "GROW-004",
    "grow_scope": "GROW-001",
    "regrow": "GROW-005",
    "candidates": "GROW-006",
    "moments": "DLT-006",
    "adapt": "ADPT-005",
    "adapts": "EVT-008",
    "counts": "ADPT-006",
    "exempt": "ADPT-007",
    "scope": "EVT-009",
    "events": "SCH-003",
    "drop_schedule": "SCH-001",
    "first_event": "SCH-008",
    "evolve_until": "SCH-007",
    "event_replaces_step": "EVT-010",
}
"""The clause of chapter 8 that defines each choice, and that refuses an unknown value."""


@dataclass(frozen=True, slots=True)
class Rule:
    """The choices of an update rule; the defaults are the preset `sensitivity` (table of chapter 8)."""

    evolves: bool = True
    drop: Drop = "magnitude"
    drops: Drops = "slot"
    grow: Grow = "gradient"
    grow_scope: GrowScope = "anywhere"
    regrow: bool = True
    candidates: Candidates = "all"
    moments: Moments = "zero"
    adapt: Adapt = "sensitivity"
    adapts: Adapts = "always"
    counts: Counts = "support"
    exempt: Exempt = "new"
    scope: Scope = "matrix"
    events: Events = "period"
    drop_schedule: DropSchedule = "cosine"
    first_event: FirstEvent = "fraction"
    evolve_until: float = 1.0
    event_replaces_step: bool = False

    def __post_init__(self) -> None:
        """Refuse unknown values and choices that contradict each other (EVT-012).

        Contradictions with other settings are refused by `TrainSettings`.
        """
        for name, hint in get_type_hints(Rule).items():
            value, allowed = getattr(self, name), get_args(hint)
            if allowed and value not in allowed:
                raise ConfigError(CLAUSE_OF[name], f"{name} is {value!r}; choose one of {', '.join(allowed)}")
            if hint is bool and not isinstance(value, bool):
                raise ConfigError(CLAUSE_OF[name], f"{name} is {value!r}; choose true or false")
        # SCH-007
        if not isinstance(self.evolve_until, int | float) or not 0 < self.evolve_until <= 1:
            raise ConfigError("SCH-007", f"evolve_until is {self.evolve_until!r}, must be above 0 and at most 1")
        for wrong, why in (
            (
                self.candidates == "first-step" and self.grow not in ("gradient", "absolute", "fisher"),
                f"candidates first-step keeps sums of gradients alone, which grow {self.grow} does not use",
            ),
            (
                self.candidates == "first-step" and (self.grow_scope == "active" or self.scope != "matrix"),
                "candidates first-step lie anywhere in a matrix; use all, or grow_scope anywhere and scope matrix",
            ),
            (
                self.candidates == "first-step" and "inputs" in self.asks(),
                f"candidates first-step keeps no inputs, which adapt {self.adapt} looks at",
            ),
            (
                self.by_group and (self.adapts != "always" or self.counts != "support"),
                "scope group holds N of M only with adapts always and counts support",
            ),
            (
                self.by_group and (self.exempt != "new" or self.drops != "slot"),
                "scope group holds N of M only with exempt new and drops slot",
            ),
            (
                self.by_group and self.grow_scope == "active",
                "scope group moves an N:M pattern, grow_scope active keeps it; choose one",
            ),
            (
                self.drops == "weight" and self.grow_scope == "active",
                "drops weight moves stored weights, grow_scope active keeps them where they are; choose one",
            ),
            (
                self.by_row and self.exempt == "slots",
                "scope row with exempt slots can leave a row nothing to prune",
            ),
        ):
            if wrong:
                raise ConfigError("EVT-012", why)

    @property
    def over_model(self) -> bool:
        """Whether all matrices are one pool (EVT-009)."""
        return self.scope == "model"

    @property
    def by_row(self) -> bool:
        """Whether every row is a pool, with budgets of its own (EVT-009)."""
        return self.scope == "row"

    @property
    def by_group(self) -> bool:
        """Whether every group of an N:M pattern has a budget of its own, so that the pattern moves (EVT-009)."""
        return self.scope == "group"

    @property
    def only_on_support(self) -> bool:
        """Whether events read gradients on the support alone, because nothing else may grow (GRD-009)."""
        return self.grow_scope == "active"

    def asks(self) -> frozenset[str]:
        """Return the names of the evidence that an event reads: gradient, absolute, square, tokens, inputs."""
        evidence_names = {
            "gradient": {"gradient"},
            "absolute": {"absolute"},
            "fisher": {"square"},
            "curvature": {"gradient", "inputs"},
        }.get(self.grow, set())
        if self.adapts == "always":
            evidence_names = evidence_names | _ADAPT_ASKS[self.adapt]
        if self.drop == "fisher":
            evidence_names = evidence_names | {"square"}
        if self.moments == "seeded":
            evidence_names = evidence_names | {"gradient", "square"}
        return frozenset(evidence_names)

    def asks_on_support(self) -> frozenset[str]:
        """Return the names of the evidence that an event reads on the support: adapt's, and square for drop fisher."""
        evidence_names = _ADAPT_ASKS[self.adapt] - {"inputs"} if self.adapts == "always" else set[str]()
        return frozenset(evidence_names | ({"square"} if self.drop == "fisher" else set()))

    def asks_at_end(self) -> frozenset[str]:
        """Return the names of the evidence that the last adapt pass reads."""
        return frozenset() if self.adapts == "never" else frozenset(_ADAPT_ASKS[self.adapt])


ON_SUPPORT = {"sensitivity": "gradient", "absolute": "absolute", "fisher": "square", "token-fisher": "tokens"}
"""Criterion of adapt -> the evidence that it reads on the support (ADPT-005)."""
_ADAPT_ASKS: dict[str, set[str]] = {
    **{criterion: {name} for criterion, name in ON_SUPPORT.items()},
    "magnitude": set(),
    "activation": {"inputs"},
    "curvature": {"inputs"},
    "random": set(),
}


def rule_of(choices: Mapping[str, object], pattern: tuple[int, int] | None) -> Rule:
    """Return the rule with these choices, by name.

    With an N:M pattern that events keep, `grow_scope` is active unless it is given (EVT-007).

    Raises:
        ConfigError: EVT-012 for choices that contradict each other; the clause of a choice for an unknown name.
    """
    stays = pattern is not None and choices.get("scope") != "group"
    chosen: dict[str, Any] = {**({"grow_scope": "active"} if stays else {}), **choices}
    if stays and chosen.get("candidates") == "first-step" and "grow_scope" not in choices:
        # EVT-012: the error of `Rule` would advise grow_scope anywhere, which an N:M pattern does not allow
        raise ConfigError(
            "EVT-012",
            "candidates first-step lie anywhere in a matrix, and this model has an N:M pattern; set candidates all and "
            "initial_scope active",
        )
    if stays and chosen.get("drops") == "weight" and "grow_scope" not in choices:
        raise ConfigError(
            "EVT-012",
            "drops weight moves stored weights, and the N:M pattern of this model keeps them where they are; method "
            "sparse-full trains every stored weight where it is",
        )
    return Rule(**chosen)  # its __post_init__ checks every value


CHOICES = tuple(f.name for f in fields(Rule))
"""The names of all choices, in the order of the table of chapter 8."""
