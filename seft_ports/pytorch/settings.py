"""The settings of a run: a preset, and choices that replace those of the preset, by the names of chapter 8 of SPEC.md.

Settings(preset="seft", density=0.02, evolve_every=100, drop="fisher", scope="row")
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any, get_args, get_type_hints

from seft_ports.pytorch import presets
from seft_ports.pytorch.errors import SeftError
from seft_ports.pytorch.presets import CHOICES, CLAUSES, DEFAULTS, PRESETS
from seft_ports.pytorch.schedule import check_windows

__all__ = ["Settings"]

_OWN: Any = None
"""Stands for the value that the preset has."""
_ASKS: dict[str, set[str]] = {
    "gradient": {"gradient"},
    "absolute": {"absolute"},
    "fisher": {"square"},
    "curvature": {"gradient", "inputs"},
}
"""Criterion of growth -> the evidence that it uses (GROW-004); criteria that are missing use no gradient."""
_ADAPT_ASKS: dict[str, set[str]] = {
    "sensitivity": {"gradient"},
    "absolute": {"absolute"},
    "fisher": {"square"},
    "token-fisher": {"tokens"},
    "activation": {"inputs"},
    "curvature": {"inputs"},
}
"""The same for adapt (ADPT-005)."""
_STREAMED = ("sensitivity", "absolute", "fisher", "token-fisher", "magnitude")


@dataclass(frozen=True, slots=True)
class Settings:
    """How the support evolves; learning rate, clipping, steps and data are set in the trainer.

    A setting that is not given has the value of the preset (EVT-011), or else the default in `presets.DEFAULTS`. After
    `Settings(...)` every attribute has its value.

    Attributes:
        density: slots of the delta as a share of a matrix, or with `budget_by` nnz of its stored weights (DLT-002).
        evolve_every: steps between events.
        drop_fraction: share of slots dropped at step 0; `drop_schedule` says how it falls (SCH-001, SCH-006).
        gradient_window: steps whose mean gradient an event uses; with `events` phases A of SCH-005, 0 too.
        preset: the preset that supplies the choices that are not given; it has no other effect.
        budget_by: how many slots a matrix has: by `density` of numel or nnz, by `count` or by `rank` (DLT-002).
        slots: slots of all matrices, with budget_by count.
        rank: the rank of a LoRA adapter with as many parameters, with budget_by rank.
        initial_positions: how the first slots are chosen: by the gradient of the first step, at random, or by the
            magnitude of the weights (DLT-004).
        initial_scope: whether the first slots lie among stored weights, `active`, or `anywhere`.
        optimizer: the `kind` of the `SeftOptimizer` (OPT-001, OPT-006 to OPT-008).
        pattern: (N, M) of a base pruned to a pattern, which every event keeps (EVT-007).
        seed: the seed of all random choices.
        keep_dtype: compute in the 16-bit dtype of the model's weights. By default such weights are refused, because
            SEFT computes them in float32 (CKP-001).

    The other attributes are the choices of the table of chapter 8. dataclasses.replace keeps them: make new settings
    for another preset.

    Raises:
        SeftError: for a value out of range or an unknown name, by the clause that TRN-008 names; EVT-012 for choices
            that contradict each other; EVT-007 for those that a pattern does not allow.
    """

    density: float = _OWN
    evolve_every: int = _OWN
    drop_fraction: float = _OWN
    gradient_window: int = _OWN
    preset: presets.Preset = "active-only"
    budget_by: presets.BudgetBy = _OWN
    slots: int = _OWN
    rank: int = _OWN
    initial_positions: presets.InitialPositions = _OWN
    initial_scope: presets.InitialScope = _OWN
    optimizer: presets.Optimizer = _OWN
    pattern: Sequence[int] | None = None
    seed: int = 0
    keep_dtype: bool = False
    evolves: bool = _OWN
    drop: presets.Drop = _OWN
    drops: presets.Drops = _OWN
    grow: presets.Grow = _OWN
    grow_scope: presets.GrowScope = _OWN
    regrow: bool = _OWN
    candidates: presets.Candidates = _OWN
    moments: presets.Moments = _OWN
    adapt: presets.Adapt = _OWN
    adapts: presets.Adapts = _OWN
    counts: presets.Counts = _OWN
    exempt: presets.Exempt = _OWN
    scope: presets.Scope = _OWN
    events: presets.Events = _OWN
    drop_schedule: presets.DropSchedule = _OWN
    first_event: presets.FirstEvent = _OWN
    evolve_until: float = _OWN
    event_replaces_step: bool = _OWN

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise SeftError("EVT-011", f"there is no preset {self.preset!r}; there are {', '.join(PRESETS)}")
        if self.pattern is not None:
            # because JSON has turned the tuple into a list
            object.__setattr__(self, "pattern", tuple(self.pattern))
        own = DEFAULTS | self._of_pattern() | PRESETS[self.preset]
        for field in fields(self):
            if getattr(self, field.name) is None and field.name in own:
                object.__setattr__(self, field.name, own[field.name])
        self._check_names()
        self._check_ranges()
        check_windows(self.events, self.evolve_every, self.gradient_window)
        for clause, wrong, why in _contradictions(self):
            if wrong:
                raise SeftError(clause, why)

    def _of_pattern(self) -> dict[str, Any]:
        """Return the defaults that an N:M pattern has of its own."""
        # EVT-007
        return {} if self.pattern is None or self.scope == "group" else {"grow_scope": "active"}

    def _check_names(self) -> None:
        for name, hint in get_type_hints(Settings).items():
            value, allowed = getattr(self, name), get_args(hint)
            if name in CLAUSES and allowed and value not in allowed:
                raise SeftError(CLAUSES[name], f"{name} is {value!r}; it is one of {', '.join(allowed)}")
            if hint is bool and not isinstance(value, bool):
                raise SeftError(CLAUSES.get(name, "CKP-001"), f"{name} is {value!r}; it is True or False")
            kind = {int: Integral, float: Real}.get(hint)
            if kind is not None and value is not None and (isinstance(value, bool) or not isinstance(value, kind)):
                raise SeftError("TRN-008", f"{name} is {value!r}; it is a number of type {kind.__name__}")

    def _check_ranges(self) -> None:
        if not 0 < self.density <= 1:
            raise SeftError("DLT-002", f"density {self.density} is outside (0, 1]")
        if not 0 <= self.drop_fraction <= 1:
            raise SeftError("SCH-001", f"drop_fraction {self.drop_fraction} is outside [0, 1]")
        if self.evolve_every < 1:
            raise SeftError("TRN-008", f"evolve_every {self.evolve_every} is below 1")
        if not 0 < self.evolve_until <= 1:
            raise SeftError("SCH-007", f"evolve_until {self.evolve_until} is outside (0, 1]")
        if not 0 <= self.seed < 1 << 64:
            raise SeftError("RNG-002", f"the seed {self.seed} is not in 0 ... 2**64 - 1")
        if self.pattern is not None and not (len(self.pattern) == 2 and 0 < self.pattern[0] <= self.pattern[1]):
            raise SeftError("TOP-005", f"{self.pattern} is no N:M pattern")

    @property
    def choices(self) -> dict[str, Any]:
        """The choices of the rule, by name."""
        return {name: getattr(self, name) for name in CHOICES}

    @property
    def prunes(self) -> bool:
        """Whether events prune."""
        return self.adapts == "always"

    @property
    def ends_by_pruning(self) -> bool:
        """Whether the pass after the last step may have to prune, by the gradient of that step (EVT-004)."""
        grows = self.evolves and self.grow_scope != "active" and self.adapts != "never"
        return grows and (self.adapts == "end" or self.counts == "values") and bool(self.asks_at_end())

    @property
    def may_grow(self) -> bool:
        """Whether a run may end with more stored weights than it was given (EVT-008)."""
        return self.adapts == "never" and (self.grow_scope, self.initial_scope) != ("active", "active")

    def keeps(self, *, starts: bool = False) -> str:
        """Return where a window keeps g, `|g|` and g²; one of `window.KEEPS` (GRD-007, GRD-009).

        starts  whether the step chooses the first slots too, which may lie anywhere (DLT-004)
        """
        if starts and self.initial_scope == "anywhere":
            return "all"
        if self.candidates == "first-step":
            return "first-step"
        return "support" if self.grow_scope == "active" else "all"

    @property
    def streams(self) -> bool:
        """Whether `Stream` decides an event of this rule; it processes the gradient of one step without keeping it."""
        plain = {
            name: CHOICES[name] for name in ("drop", "drops", "grow", "regrow", "candidates", "moments", "counts")
        } | {"exempt": "new", "scope": "matrix", "gradient_window": 1, "events": "period"}
        return self.adapt in _STREAMED and all(getattr(self, name) == value for name, value in plain.items())

    def asks(self) -> frozenset[str]:
        """Return the evidence of an event: gradient, absolute, square, tokens, inputs (chapter 6)."""
        evidence_names = _ASKS.get(self.grow, set())
        if self.prunes:
            evidence_names = evidence_names | _ADAPT_ASKS.get(self.adapt, set())
        if self.drop == "fisher":
            evidence_names = evidence_names | {"square"}
        if self.moments == "seeded":
            evidence_names = evidence_names | {"gradient", "square"}
        return frozenset(evidence_names)

    def asks_at_end(self) -> frozenset[str]:
        """Return the evidence that the last adapt pass uses."""
        return frozenset(_ADAPT_ASKS.get(self.adapt, set()))


def _contradictions(s: Settings) -> Iterator[tuple[str, bool, str]]:
    """Yield clause, whether the settings break it, and why, of each row of EVT-012 and of EVT-007."""
    group, first = s.scope == "group", s.candidates == "first-step"
    for wrong, why in (
        (
            s.initial_scope == "anywhere" and s.adapts != "never",
            "initial_scope anywhere starts above the budget that adapts holds; use active, or adapts never",
        ),
        (
            s.grow == "moments" and s.optimizer != "sm3",
            "grow moments looks at the accumulators of sm3; choose optimizer sm3",
        ),
        (s.moments == "seeded" and s.optimizer == "sm3", "sm3 keeps nothing of a slot that could be seeded"),
        (
            first and s.grow not in ("gradient", "absolute", "fisher"),
            f"candidates first-step keeps sums of gradients alone, which grow {s.grow} does not use",
        ),
        (
            first and (s.grow_scope == "active" or s.scope != "matrix"),
            "candidates first-step lie anywhere in a matrix; use all, or grow_scope anywhere and scope matrix",
        ),
        (
            first and "inputs" in s.asks(),
            f"candidates first-step keeps no inputs, which adapt {s.adapt} looks at",
        ),
        (group and s.pattern is None, "scope group needs an N:M pattern: give pattern=(2, 4)"),
        (
            group and (s.adapts, s.counts, s.exempt, s.drops) != ("always", "support", "new", "slot"),
            "scope group holds N of M only with adapts always, counts support, exempt new and drops slot",
        ),
        (
            group and s.grow_scope == "active",
            "scope group moves an N:M pattern, grow_scope active keeps it; choose one",
        ),
        (
            s.drops == "weight" and s.grow_scope == "active",
            "drops weight moves stored weights, grow_scope active keeps them, as an N:M pattern does; choose one",
        ),
        (s.scope == "row" and s.exempt == "slots", "scope row with exempt slots can leave a row nothing to prune"),
        (s.budget_by == "count" and s.slots < 1, "budget_by count needs slots"),
        (s.budget_by == "rank" and s.rank < 1, "budget_by rank needs rank"),
        (
            s.budget_by != "count" and s.slots != 0,
            f"slots is not used with budget_by {s.budget_by}; set budget_by count",
        ),
        (s.budget_by != "rank" and s.rank != 0, f"rank is not used with budget_by {s.budget_by}; set budget_by rank"),
    ):
        yield "EVT-012", wrong, why
    has_pattern = s.pattern is not None
    yield (
        "EVT-007",
        has_pattern and s.initial_scope == "anywhere",
        "initial_scope anywhere breaks an N:M pattern; use active",
    )
    yield (
        "EVT-007",
        has_pattern and s.evolves and not group and s.grow_scope != "active",
        "growth anywhere breaks an N:M pattern; use grow_scope active or scope group, and candidates all",
    )
