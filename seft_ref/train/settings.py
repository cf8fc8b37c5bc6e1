"""The settings of a run: everything besides model and text that determines its result (TRN-008).

settings = settings_of("seft", steps=200, grow="curvature", optimizer="sgd", momentum=0.9)
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import Field, asdict, dataclass, field, fields, is_dataclass
from numbers import Integral, Real
from typing import Any, Literal, cast, get_args

from seft_ref.adapters.methods import ADAPTERS, Adapter, adapter_named, name_of_adapter, settings_of_adapter
from seft_ref.arrays.rng import counter_key
from seft_ref.errors import ConfigError
from seft_ref.update.delta import Extent, budget_by_count, budget_by_nnz, budget_by_numel, budget_by_rank
from seft_ref.update.optimizers import AdamW, Optimizer, Sm3, name_of, optimizer_named
from seft_ref.update.presets import DEFAULT, PRESETS, Setting, preset_named
from seft_ref.update.rules import CHOICES, Rule, rule_of
from seft_ref.update.schedule import LrSchedule, Timetable, learning_rate_at, spiel_phases

BudgetBy = Literal["numel", "nnz", "count", "rank"]
_KINDS: dict[Any, tuple[type, str]] = {int: (Integral, "a whole number"), float: (Real, "a number")}
"""Type of a field -> what its value must be. Numbers of NumPy become numbers of Python, as JSON has no others."""
METHODS: dict[str, dict[str, Setting]] = {
    "sparse-full": {"evolves": False, "budget_by": "nnz", "density": 1.0, "initial_positions": "magnitude"},
    "shira": {"evolves": False, "budget_by": "rank", "rank": 8, "initial_positions": "random"},
}
"""Methods that the paper compares with, as settings of a sparse update (ADP-010); `ADAPTERS` has the others."""
NAMES = (*PRESETS, *METHODS, *ADAPTERS)
"""Every preset or method that `settings_of` takes."""
_OPTIMIZER_SETTINGS = ("beta1", "beta2", "eps", "weight_decay", "slot_warmup", "momentum")


def _setting(
    default: Any,
    meaning: str,
    *,
    least: int | None = None,
    clause: str = "TRN-008",
    of_slots: bool = False,
    absent_at_default: bool = False,
) -> Any:
    """Return a field of `TrainSettings` with what checks, command line and docs say of it.

    meaning            what it is, as a noun phrase
    least              the lowest whole number that is allowed
    clause             the clause that refuses another value
    of_slots           whether only a sparse update has it
    absent_at_default  whether a description lacks it at its default, as those of older states do (CKP-007.7)
    """
    about = {"meaning": meaning, "least": least, "clause": clause}
    return field(default=default, metadata=about | {"of_slots": of_slots, "absent_at_default": absent_at_default})


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """Settings of a run; `settings_of` makes them from a preset.

    Defaults are those of chapters 8 to 10; units are steps, tokens and ratios.
    """

    label: str = "seft"
    """the preset that `settings_of` started from; no code depends on it"""
    rule: Rule = field(default_factory=Rule)
    pattern: tuple[int, int] | None = None
    """(N, M) of a base pruned to a pattern"""
    steps: int = _setting(80, "steps of the optimizer", least=1)
    batch: int = _setting(4, "rows of one micro-batch", least=1)
    micro_batches: int = _setting(1, "micro-batches of a step, whose gradients are added up (TRN-002)", least=1)
    length: int = _setting(128, "tokens of a row", least=2)
    budget_by: BudgetBy = _setting(
        "numel",
        "how the number of slots is given: density of all positions, density of stored ones, count or rank (DLT-002)",
        clause="DLT-002",
        of_slots=True,
    )
    density: float = _setting(
        0.02, "share of the positions that are slots, with budget_by numel or nnz", clause="DLT-002", of_slots=True
    )
    slots: int = _setting(0, "slots of all matrices, with budget_by count", of_slots=True)
    rank: int = _setting(
        0, "rank of lora, lora-star and sparse-peft, and of the budget of shira (budget_by rank)", of_slots=True
    )
    evolve_every: int = _setting(20, "steps from one event to the next (SCH-003)", least=1, of_slots=True)
    drop_fraction: float = _setting(
        0.2,
        "share of the slots that an event at step 0 would drop; drop_schedule says how it falls (SCH-001, SCH-006)",
        clause="SCH-001",
        of_slots=True,
    )
    gradient_window: int = _setting(
        1, "steps whose gradients an event looks at, the last ones up to its own (TRN-005)", of_slots=True
    )
    event_batches: int = _setting(
        1,
        "steps whose data an event looks at, its own included (TRN-023)",
        least=1,
        of_slots=True,
        absent_at_default=True,
    )
    initial_positions: Literal["gradient", "random", "magnitude"] = _setting(
        "gradient",
        "which positions are the first slots: those with the largest gradients or weights, or random ones (DLT-004)",
        clause="DLT-004",
        of_slots=True,
    )
    initial_scope: Literal["active", "anywhere"] = _setting(
        "active",
        "where the first slots may lie: at stored weights only, or anywhere in a matrix (DLT-004)",
        clause="DLT-004",
        of_slots=True,
    )
    start_batches: int = _setting(
        1,
        "steps whose data give the gradient for initial_positions gradient (DLT-004.3)",
        least=1,
        of_slots=True,
        absent_at_default=True,
    )
    lr: float = _setting(1e-3, "the highest learning rate")
    warmup_steps: int = _setting(0, "steps in which the rate rises from 0 to lr (SCH-004)", least=0)
    lr_schedule: LrSchedule = _setting(
        "constant",
        "the rate after the warm-up: it stays constant, or falls to 0 linearly or by a cosine (SCH-004)",
        clause="SCH-004",
    )
    optimizer: Optimizer = field(default_factory=AdamW)
    max_norm: float = _setting(1.0, "norm to which larger gradients are scaled down; 0 turns clipping off (OPT-004)")
    seed: int = _setting(0, "seed of all random choices: data, first slots, random scores (RNG-001)")
    adapter: Adapter | None = None
    """the adapter that is trained in place of a sparse update (ADP-010)"""

    def __post_init__(self) -> None:
        """Refuse settings that are out of range or contradict each other (TRN-008, EVT-012)."""
        self._check_types()
        counter_key(self.seed)
        for one in flat_settings():
            value, least, allowed = getattr(self, one.name), one.metadata["least"], get_args(one.type)
            if least is not None and value < least:
                raise ConfigError(one.metadata["clause"], f"{one.name} is {value}, must be at least {least}")
            if allowed and value not in allowed:
                raise ConfigError(
                    one.metadata["clause"], f"{one.name} is {value!r}; choose one of {', '.join(allowed)}"
                )
        if not 0 < self.density <= 1:
            raise ConfigError(
                "DLT-002",
                f"density is {self.density}, must be above 0 and at most 1 (0.02 trains 2 % of the positions)",
            )
        if not 0 <= self.drop_fraction <= 1:
            raise ConfigError("SCH-001", f"drop_fraction is {self.drop_fraction}, must lie in 0 to 1")
        self._check_window()
        self._check_numbers()
        self._check_contradictions()
        learning_rate_at(1, self.steps, self.lr, self.warmup_steps, self.lr_schedule)

    def _check_types(self) -> None:
        # TRN-008
        if not isinstance(self.optimizer, get_args(Optimizer)):
            raise ConfigError("TRN-008", f"optimizer is {self.optimizer!r}, must be the name of one, or an optimizer")
        for part in (self, self.optimizer, self.adapter):
            for each in fields(part) if is_dataclass(part) else ():
                if each.type not in _KINDS:
                    continue
                (kind, noun), value = _KINDS[each.type], getattr(part, each.name)
                if isinstance(value, bool) or not isinstance(value, kind):
                    raise ConfigError("TRN-008", f"{each.name} is {value!r}, must be {noun}")
                object.__setattr__(
                    part, each.name, int(value) if isinstance(value, Integral) else float(cast(Real, value))
                )
        pair = self.pattern
        if pair is not None and not (isinstance(pair, tuple) and [type(n) for n in pair] == [int, int]):
            raise ConfigError("EVT-007", f"pattern is {pair!r}, must be a pair of whole numbers, (2, 4) for 2:4")
        if pair is not None and not 1 <= pair[0] <= pair[1]:
            raise ConfigError("TOP-005", f"pattern is {pair!r}, must keep 1 to M of M neighbours, (2, 4) for 2:4")

    def _check_window(self) -> None:
        if self.rule.events == "phases":
            spiel_phases(self.steps, self.evolve_every, self.gradient_window)
        elif not 1 <= self.gradient_window <= self.evolve_every:
            raise ConfigError(
                "TRN-005",
                f"gradient_window is {self.gradient_window}, must lie in 1 to evolve_every {self.evolve_every}",
            )

    def _check_numbers(self) -> None:
        # TRN-008
        for name in ("lr", "max_norm", "weight_decay"):
            value = getattr(self.optimizer if name == "weight_decay" else self, name)
            if not 0 <= value < math.inf:
                raise ConfigError("TRN-008", f"{name} is {value}, must be finite and not negative")
        for name in ("beta1", "beta2", "momentum"):
            value = getattr(self.optimizer, name, 0.0)
            if not 0 <= value < 1:
                raise ConfigError("TRN-008", f"{name} is {value}, must lie in 0 to below 1")
        if (warmup := getattr(self.optimizer, "slot_warmup", 0)) < 0:
            raise ConfigError("TRN-008", f"slot_warmup is {warmup}, must be 0 or more steps")
        eps = getattr(self.optimizer, "eps", 1.0)
        if not 0 < eps < math.inf:
            raise ConfigError("TRN-008", f"eps is {eps}, must be finite and above 0")

    def _check_contradictions(self) -> None:
        # EVT-012
        rule, sm3 = self.rule, isinstance(self.optimizer, Sm3)
        for wrong, why in (
            (
                self.initial_scope == "anywhere" and rule.adapts != "never",
                "initial_scope anywhere starts above the budget that adapts holds; set adapts never",
            ),
            (rule.grow == "moments" and not sm3, "grow moments looks at the accumulators of sm3; set optimizer sm3"),
            (rule.moments == "seeded" and sm3, "sm3 keeps nothing for a slot that moments seeded could fill"),
            (
                rule.by_group and self.pattern is None,
                "scope group needs an N:M pattern; this model's record of pruning names none",
            ),
            (self.budget_by == "count" and self.slots < 1, "budget_by count needs slots"),
            (self.budget_by == "rank" and self.rank < 1, "budget_by rank needs rank"),
            (
                self.budget_by != "count" and self.slots != 0,
                f"slots is not used with budget_by {self.budget_by}; set budget_by count",
            ),
            (
                self.start_batches > 1 and self.initial_positions != "gradient",
                f"start_batches is not used with initial_positions {self.initial_positions}",
            ),
            (
                self.budget_by != "rank" and self.rank != 0,
                f"rank is not used with budget_by {self.budget_by}; set budget_by rank",
            ),
        ):
            if wrong:
                raise ConfigError("EVT-012", why)
        # EVT-007
        if self.pattern is not None and self.initial_scope == "anywhere":
            raise ConfigError(
                "EVT-007", "initial_scope anywhere breaks the N:M pattern of this model; set initial_scope active"
            )
        if self.pattern is not None and rule.evolves and rule.grow_scope != "active" and not rule.by_group:
            raise ConfigError(
                "EVT-007", "this model has an N:M pattern: use grow_scope active or scope group, and candidates all"
            )

    def timetable(self) -> Timetable:
        """Return the timetable, which tells which steps have events (SCH-003, SCH-005)."""
        return Timetable(self.rule, self.steps, self.evolve_every, self.gradient_window, self.drop_fraction)

    def delta_budgets(self, extents: Sequence[Extent]) -> list[int]:
        """Return d_φ of every target, from their topologies or bases at load (DLT-002)."""
        if self.budget_by == "count":
            # a share of no positions is 0
            total = max(sum(extent.numel for extent in extents), 1)
            return [budget_by_count(self.slots, total, extent) for extent in extents]
        if self.budget_by == "rank":
            return [budget_by_rank(self.rank, extent) for extent in extents]
        by = budget_by_nnz if self.budget_by == "nnz" else budget_by_numel
        return [by(self.density, extent) for extent in extents]

    def keeps(self) -> tuple[str, ...]:
        """Return the names of the arrays in slot order: the optimizer's, and origin if drop is change."""
        return (*self.optimizer.keeps, *(("origin",) if self.rule.drop == "change" else ()))

    def described(self) -> dict[str, object]:
        """Return all settings under flat names, as `settings_of` takes them."""
        optimizer = {"optimizer": name_of(self.optimizer)} | asdict(self.optimizer)
        # CKP-007.7: later settings are absent at their defaults, so that the text equals that of an older state
        own = {"pattern": self.pattern} | {
            one.name: value
            for one in flat_settings()
            if (value := getattr(self, one.name)) != one.default or not one.metadata["absent_at_default"]
        }
        if not optimizer.get("slot_warmup"):
            optimizer.pop("slot_warmup", None)
        if self.adapter is None:
            return {"preset": self.label} | own | asdict(self.rule) | optimizer
        run = {name: value for name, value in own.items() if name not in _OF_SLOTS}
        return (
            {"preset": self.label, "adapter": name_of_adapter(self.adapter)}
            | run
            | optimizer
            | settings_of_adapter(self.adapter)
        )


def flat_settings() -> tuple[Field[object], ...]:
    """Return the fields of `TrainSettings` that `_setting` has made, in the order of the class."""
    return tuple(one for one in fields(TrainSettings) if one.metadata)


_OF_SLOTS = frozenset(one.name for one in flat_settings() if one.metadata["of_slots"])
"""Settings that only a sparse update has."""
ABSENT_AT_DEFAULT = frozenset(
    {*(one.name for one in flat_settings() if one.metadata["absent_at_default"]), "slot_warmup"}
)
"""Settings that a description lacks at their defaults, as those of older states do (CKP-007.7)."""


def settings_of(preset: str = DEFAULT, **changes: object) -> TrainSettings:
    """Return the settings of a preset, or of another method, with some of them changed (EVT-011, ADP-010).

    preset   a preset, or one of METHODS or ADAPTERS
    changes  choices of chapter 8, settings of TrainSettings, and the optimizer's name and settings, all flat; an
             adapter has its own settings in place of those of slots
    Raises   ConfigError EVT-011 for an unknown preset or name, EVT-012 for choices that contradict each other
    """
    if preset in ADAPTERS:
        return _settings_of_adapter(preset, changes)
    if preset not in NAMES:
        raise ConfigError("EVT-011", f"unknown preset or method {preset!r}; choose one of {', '.join(NAMES)}")
    settings: dict[str, Any] = {**(METHODS.get(preset) or preset_named(preset)), **changes}
    rule = {name: settings.pop(name) for name in CHOICES if name in settings}
    optimizer = _optimizer_taken(settings)
    allowed = ["pattern", *(one.name for one in flat_settings())]
    for name in settings:
        if name not in allowed:
            names = sorted({*allowed, *CHOICES, *_OPTIMIZER_SETTINGS, "optimizer"})
            raise ConfigError("EVT-011", f"there is no setting {name!r}; known are {', '.join(names)}")
    return TrainSettings(label=preset, rule=rule_of(rule, settings.get("pattern")), optimizer=optimizer, **settings)


def _optimizer_taken(settings: dict[str, Any]) -> Optimizer:
    """Return the optimizer that `settings` name, and remove its name and its settings from them.

    Raises:
        ConfigError: EVT-011 for settings beside a whole optimizer; others as `optimizer_named`.
    """
    optimizer = settings.pop("optimizer", "adamw")
    own = {name: settings.pop(name) for name in _OPTIMIZER_SETTINGS if name in settings}
    if isinstance(optimizer, str):
        return optimizer_named(optimizer, own)
    if own:
        raise ConfigError("EVT-011", f"{', '.join(own)} beside a whole optimizer; give its name")
    return optimizer


def has_setting(method: str, name: str) -> bool:
    """Return whether a method has a setting; a method that trains an adapter has none of slots and events (ADP-010)."""
    return method not in ADAPTERS or name in settings_of_adapter(ADAPTERS[method]) or name not in (*_OF_SLOTS, *CHOICES)


def _settings_of_adapter(name: str, changes: Mapping[str, Any]) -> TrainSettings:
    """Return the settings of a run that trains an adapter (ADP-010).

    Raises:
        ConfigError: ADP-010 for a setting of slots or events, which an adapter does not have.
    """
    settings = dict(changes)
    optimizer = _optimizer_taken(settings)
    of_run = ["pattern", *(one.name for one in flat_settings() if one.name not in _OF_SLOTS)]
    own = {key: settings.pop(key) for key in list(settings) if key not in of_run}
    return TrainSettings(
        label=name,
        rule=Rule(evolves=False),
        optimizer=optimizer,
        adapter=adapter_named(name, **own),
        **settings,
    )
