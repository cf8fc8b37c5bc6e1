"""The settings of a run."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from seft_ports.pytorch.errors import SeftError
from seft_ports.pytorch.rules import ADAPT
from seft_ports.pytorch.spiel import check_windows

__all__ = ["Adapt", "Preset", "Settings"]

Preset = Literal["seft", "active-only", "no-adapt", "static", "spiel-adapt", "spiel-ag"]
Adapt = Literal["sensitivity", "absolute", "fisher", "token-fisher", "magnitude"]

_SPIEL: dict[str, Any] = {
    "density": 0.01,
    "evolve_every": 20,
    "gradient_window": 5,
    "adapt": "sensitivity",
    "start": "random",
    "optimizer": "spiel-adamw",
}
"""What the presets of SpIEL set besides the rule and `initial_scope` (EVT-011)."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How the support evolves; learning rate, clipping, steps and data are the trainer's.

    Attributes:
        density: slots of the delta as a share of a matrix (DLT-002).
        evolve_every: steps between events.
        drop_fraction: share of slots dropped at step 0, annealed by a cosine, in the presets of SpIEL by a line
            (SCH-001, SCH-006).
        gradient_window: steps whose mean gradient an event uses; in the presets of SpIEL A of SCH-005, 0 too.
        preset: `active-only`, whose slots move among stored weights (D96); `seft`, `no-adapt`, `static`,
            `spiel-adapt` or `spiel-ag` (EVT-011). For those of SpIEL `Settings.of` has the other settings as well.
        adapt: what a weight is pruned by: |ḡ · W|, |W| · mean |g|, W² · mean g², or W² times the squared gradients of
            single tokens (ADPT-005), all of which keep one more matrix while a window is open but the first; or |W|.
            Only `seft`, `no-adapt` and `spiel-adapt` use it, because the other presets prune nothing.
        exempt: what pruning spares: the `new` slots of the event, all `slots`, or `none` (ADPT-007).
        evolve_until: fraction of the steps after which no event follows (SCH-007).
        start: how the first slots are chosen: by the gradient of the first step, or at random (DLT-004).
        initial_scope: whether the first slots lie among stored weights, `active`, or `anywhere`; the latter with
            `spiel-ag` only (EVT-012).
        optimizer: the `kind` of the `SeftOptimizer`, which must be made with it (OPT-001, OPT-006).
        seed: the seed of `start` `random`.
        keep_dtype: compute in the 16-bit dtype of the model's weights. By default such weights are refused, because
            SEFT computes them in float32 (CKP-001).
    """

    density: float
    evolve_every: int
    drop_fraction: float
    gradient_window: int = 1
    preset: Preset = "active-only"
    adapt: Adapt = "token-fisher"
    evolve_until: float = 1.0
    start: Literal["gradient", "random"] = "gradient"
    seed: int = 0
    keep_dtype: bool = False
    initial_scope: Literal["active", "anywhere"] = "active"
    optimizer: Literal["adamw", "spiel-adamw"] = "adamw"
    exempt: Literal["new", "slots", "none"] = "new"

    @classmethod
    def of(cls, preset: Preset, **other: float | str) -> "Settings":
        """Return the settings of a preset; those given beside it replace the preset's (EVT-011).

        For `spiel-adapt` and `spiel-ag` these are density 0.01, evolve_every 20, gradient_window 5, start random,
        optimizer spiel-adamw, and initial_scope. They clip no gradients: set max_grad_norm=0 in the Trainer.
        """
        # EVT-011
        given: dict[str, Any] = {}
        if preset in ("spiel-adapt", "spiel-ag"):
            given = _SPIEL | {"initial_scope": "anywhere" if preset == "spiel-ag" else "active"}
        return cls(preset=preset, **given | other)

    @property
    def spiel(self) -> bool:
        """Whether the preset is one of SpIEL: candidates first-step, moments seeded, and the steps of its events."""
        return self.preset in ("spiel-adapt", "spiel-ag")

    @property
    def prunes_by(self) -> Adapt:
        """What an event looks at to prune: `adapt`, and only the gradient in a preset that prunes nothing."""
        return self.adapt if self.preset in ("seft", "no-adapt", "spiel-adapt") else "sensitivity"

    @property
    def events(self) -> str:
        """How events are placed: `period` (SCH-003) or `phases` (SCH-005)."""
        return "phases" if self.spiel else "period"

    def __post_init__(self) -> None:
        if not 0 < self.density <= 1:
            raise SeftError("DLT-002", f"density {self.density} is outside (0, 1]")
        if not 0 <= self.drop_fraction <= 1:
            raise SeftError("SCH-001", f"drop_fraction {self.drop_fraction} is outside [0, 1]")
        if self.evolve_every < 1:
            raise SeftError("TRN-008", f"evolve_every {self.evolve_every} is below 1")
        if self.preset not in get_args(Preset):
            names = ", ".join(get_args(Preset))
            raise SeftError("EVT-011", f"this port has no preset {self.preset!r}; it has {names}")
        check_windows(self.events, self.evolve_every, self.gradient_window)
        if self.adapt not in ADAPT:
            raise SeftError("ADPT-005", f"this port has no adapt {self.adapt!r}; it has {', '.join(ADAPT)}")
        if not 0 < self.evolve_until <= 1:
            raise SeftError("SCH-007", f"evolve_until {self.evolve_until} is outside (0, 1]")
        if self.start not in ("gradient", "random"):
            raise SeftError("DLT-004", f"this port has no start {self.start!r}; it has gradient, random")
        if self.initial_scope not in ("active", "anywhere"):
            raise SeftError("DLT-004", f"initial_scope is {self.initial_scope!r}; it is active or anywhere")
        if self.optimizer not in ("adamw", "spiel-adamw"):
            raise SeftError("OPT-001", f"this port has no optimizer {self.optimizer!r}; it has adamw, spiel-adamw")
        if self.exempt not in ("new", "slots", "none"):
            raise SeftError("ADPT-007", f"exempt is {self.exempt!r}; it is one of new, slots, none")
        _check_together(self)
        if not 0 <= self.seed < 1 << 64:
            raise SeftError("RNG-002", f"the seed {self.seed} is not in 0 ... 2**64 - 1")


def _check_together(s: Settings) -> None:
    """Refuse choices that contradict each other (EVT-012)."""
    # EVT-012
    if s.initial_scope == "anywhere" and s.preset != "spiel-ag":
        raise SeftError("EVT-012", f"initial_scope anywhere starts above the budget that {s.preset} holds; use active")
    if s.preset == "spiel-adapt" and s.adapt not in ("sensitivity", "fisher"):
        raise SeftError(
            "EVT-012",
            f"the window of spiel-adapt keeps sums of g and g², which adapt {s.adapt} does not use; use sensitivity or "
            "fisher, or Settings.of('spiel-adapt', ...)",
        )
