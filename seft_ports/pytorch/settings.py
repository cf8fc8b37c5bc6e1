"""The settings of a run."""

from dataclasses import dataclass
from typing import Literal

from seft_ports.pytorch.errors import SeftError
from seft_ports.pytorch.rules import ADAPT

__all__ = ["Adapt", "Preset", "Settings"]

Preset = Literal["seft", "active-only", "no-adapt", "static"]
Adapt = Literal["sensitivity", "absolute", "fisher", "token-fisher"]


@dataclass(frozen=True, slots=True)
class Settings:
    """How the support evolves; learning rate, clipping, steps and data are the trainer's.

    Attributes:
        density: slots of the delta as a share of a matrix (DLT-002).
        evolve_every: steps between events.
        drop_fraction: share of slots dropped at step 0, annealed by a cosine (SCH-001).
        gradient_window: steps whose mean gradient an event uses.
        preset: `active-only`, whose slots move among stored weights (D96); `seft`, `no-adapt` or `static` (EVT-011).
        adapt: what a weight is pruned by: |ḡ · W|, |W| · mean |g|, W² · mean g², or W² times the squared gradients of
            single tokens (ADPT-005). All but the first keep one more matrix while a window is open. Only `seft` and
            `no-adapt` use it, because the other presets prune nothing.
        evolve_until: fraction of the steps after which no event follows (SCH-007).
        start: how the first slots are chosen: by the gradient of the first step, or at random (DLT-004).
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

    def __post_init__(self) -> None:
        if not 0 < self.density <= 1:
            raise SeftError("DLT-002", f"density {self.density} is outside (0, 1]")
        if not 0 <= self.drop_fraction <= 1:
            raise SeftError("SCH-001", f"drop_fraction {self.drop_fraction} is outside [0, 1]")
        if self.evolve_every < 1:
            raise SeftError("TRN-008", f"evolve_every {self.evolve_every} is below 1")
        if not 1 <= self.gradient_window <= self.evolve_every:
            # TRN-005
            raise SeftError("TRN-005", f"gradient_window {self.gradient_window} is outside 1 ... {self.evolve_every}")
        if self.preset not in ("seft", "active-only", "no-adapt", "static"):
            raise SeftError("EVT-011", f"this port has no preset {self.preset!r}")
        if self.adapt not in ADAPT:
            raise SeftError("ADPT-005", f"this port has no adapt {self.adapt!r}; it has {', '.join(ADAPT)}")
        if not 0 < self.evolve_until <= 1:
            raise SeftError("SCH-007", f"evolve_until {self.evolve_until} is outside (0, 1]")
        if self.start not in ("gradient", "random"):
            raise SeftError("DLT-004", f"this port has no start {self.start!r}")
        if not 0 <= self.seed < 1 << 64:
            raise SeftError("RNG-002", f"the seed {self.seed} is not in 0 ... 2**64 - 1")
