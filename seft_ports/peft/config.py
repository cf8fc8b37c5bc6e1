"""The configuration of an adapter, as adapter_config.json has it."""

from dataclasses import dataclass
from typing import Any, Literal

from peft import PeftConfig
from peft.utils import PeftType

from seft_ports.pytorch.errors import SeftError
from seft_ports.pytorch.settings import Settings

__all__ = ["NAME", "SeftConfig"]

NAME = "SEFT"
"""The type in adapter_config.json."""

_OF_SETTINGS = (
    *("density", "evolve_every", "drop_fraction", "gradient_window", "adapt", "evolve_until", "start", "seed"),
    *("initial_scope", "optimizer", "exempt"),
)
_SUPPORTS = ("auto", "recorded", "nonzero")


@dataclass
class SeftConfig(PeftConfig):
    """What is trained of a pruned model, and how the trained positions move.

    A choice that is None is the preset's own (EVT-011). Learning rate, steps, clipping and data are the trainer's.

    Raises:
        SeftError: for a choice out of range, by the clause of SPEC.md that TRN-008 names for it.
    """

    density: float | None = None
    """trained positions as a share of a matrix, in (0, 1] (DLT-002); None is 0.02, with a preset of SpIEL 0.01"""
    preset: str = "active-only"
    """what an event does: active-only, seft, no-adapt, static, spiel-adapt or spiel-ag (EVT-011)"""
    evolve_every: int | None = None
    """steps between two events; None is 20"""
    drop_fraction: float = 0.2
    """share of the positions that an event at step 0 would give up; later ones give up fewer (SCH-001)"""
    gradient_window: int | None = None
    """steps whose mean gradient an event looks at (TRN-005)"""
    adapt: str | None = None
    """what a weight is pruned by: sensitivity, absolute, fisher, token-fisher or magnitude (ADPT-005)"""
    exempt: str | None = None
    """what pruning spares: the new slots of the event, all slots, or none (ADPT-007)"""
    evolve_until: float = 1.0
    """fraction of the steps after which no event follows (SCH-007)"""
    start: str | None = None
    """how the first positions are chosen: by the gradient of the first step, or at random (DLT-004)"""
    initial_scope: str | None = None
    """where the first positions lie: active, among stored weights, or with spiel-ag anywhere (DLT-004.2)"""
    optimizer: str | None = None
    """the kind of `SeftOptimizer` that the run needs: adamw or spiel-adamw"""
    seed: int = 0
    """seed of start random"""
    support: Literal["auto", "recorded", "nonzero"] = "auto"
    """which weights of the base are stored. recorded: a mask that the layer keeps, as `load_sparse` and
    torch.nn.utils.prune leave it. nonzero: those that are not zero. auto: recorded where there is a mask, else nonzero,
    and of a quantised layer an error
    """
    target_modules: list[str] | set[str] | str | None = None
    """names or a regular expression of the linear layers to adapt. None: those of the blocks, in models like LLaMA
    the seven projections
    """
    exclude_modules: list[str] | str | None = None
    """names or a regular expression of layers to leave alone"""
    layers_to_transform: list[int] | int | None = None
    """numbers of the blocks to adapt; None is all"""
    layers_pattern: list[str] | str | None = None
    """name of the list of blocks, if PEFT does not know it"""
    modules_to_save: list[str] | None = None
    """modules that are trained and saved whole, such as a new head"""
    stored: int | None = None
    """stored weights of the adapted layers of the base; the tuner writes it, and refuses another base by it"""
    init_weights: bool = True
    """False draws positions and values at random, for tests of PEFT that want an adapter that changes something"""

    def __post_init__(self) -> None:
        """Refuse what is out of range."""
        super().__post_init__()
        self.from_file = self.stored is not None
        # `register` added the type when this package was imported
        self.peft_type = PeftType(NAME)
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)
        if self.support not in _SUPPORTS:
            raise SeftError("TOP-004", f"support is {self.support!r}; it is one of {', '.join(_SUPPORTS)}")
        if self.layers_pattern and self.layers_to_transform is None:
            msg = "layers_pattern says where layers_to_transform count; give layers_to_transform too"
            raise ValueError(msg)
        self.settings()

    def settings(self) -> Settings:
        """Return the settings of a run, as `Evolution` takes them."""
        own: dict[str, Any] = {name: getattr(self, name) for name in _OF_SETTINGS if getattr(self, name) is not None}
        if not self.preset.startswith("spiel"):
            own = {"density": 0.02, "evolve_every": 20} | own
        # 16-bit bases are usual here: φ stays in float32, and b + φ is rounded to the type of the base
        return Settings.of(self.preset, **own, keep_dtype=True)  # type: ignore[arg-type]
