"""The design of the screening: which settings are tried at which two levels, and which of all combinations are run.

Sixteen settings have 65,536 combinations of levels. The 32 that are run are a regular fraction of resolution IV. Every
setting has its high level in 16 of them, and its effect is the mean of those runs less the mean of the others. An
effect is not confounded with the effect of another setting or with an interaction of two settings. It is confounded
with interactions of three.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations, product
from math import prod
from typing import Any

BASIC = 5
"""The number of settings whose levels are combined in every way; there are 2 ** BASIC runs."""
STATIC, ACTIVE, SEFT = KINDS = ("static", "active-only", "seft")
"""The presets that every run of the design is made with."""


@dataclass(frozen=True, slots=True)
class Factor:
    """A setting with its two levels."""

    name: str
    low: Any
    high: Any
    of_events: bool = True
    """whether it changes only events, so that the preset `static` does not have it"""

    def level(self, sign: int) -> Any:
        """Return the high level for 1, the low one for -1."""
        return self.high if sign > 0 else self.low


PERIOD = "period"
"""The level of `gradient_window` that stands for all steps since the last event."""

FACTORS = (
    Factor("adapt", "sensitivity", "token-fisher"),
    Factor("gradient_window", 1, PERIOD),
    Factor("evolve_every", 50, 20),
    Factor("drop_fraction", 0.1, 0.4),
    Factor("evolve_until", 1.0, 0.75),
    Factor("moments", "zero", "seeded"),
    Factor("drop", "magnitude", "change"),
    Factor("scope", "matrix", "model"),
    Factor("exempt", "new", "slots"),
    Factor("grow", "gradient", "curvature"),
    Factor("regrow", False, True),
    Factor("slot_warmup", 0, 10, of_events=False),
    Factor("lr", 2e-3, 5e-3, of_events=False),
    Factor("lr_schedule", "constant", "linear", of_events=False),
    Factor("initial_positions", "random", "gradient", of_events=False),
    Factor("density", 0.01, 0.04, of_events=False),
)


def signs() -> list[tuple[int, ...]]:
    """Return for every run the sign of every factor, 1 or -1, in the order of FACTORS.

    A column is the product of one, three or five basic columns. So the product of two columns is never a column, and
    the product of three columns is never constant.
    """
    words = [word for size in (1, 3, 5) for word in combinations(range(BASIC), size)]
    if len(words) != len(FACTORS):
        raise ValueError(f"{len(FACTORS)} factors; a design of {2**BASIC} runs has columns for {len(words)}")
    return [tuple(prod(run[i] for i in word) for word in words) for run in product((-1, 1), repeat=BASIC)]


def settings_of_run(kind: str, run: tuple[int, ...]) -> Mapping[str, Any]:
    """Return preset and settings of a run of the design, without the settings that the preset does not have."""
    levels = {
        factor.name: factor.level(sign)
        for factor, sign in zip(FACTORS, run, strict=True)
        if kind != STATIC or not factor.of_events
    }
    if levels.get("gradient_window") == PERIOD:
        levels["gradient_window"] = levels["evolve_every"]
    return {"preset": kind, **levels}
