"""The configuration of an adapter, as adapter_config.json has it."""

from dataclasses import dataclass
from typing import Any, Literal

from peft import PeftConfig
from peft.utils import PeftType

from seft_ports.pytorch.errors import SeftError
from seft_ports.pytorch.presets import DEFAULTS
from seft_ports.pytorch.settings import Settings

__all__ = ["NAME", "SeftConfig"]

NAME = "SEFT"
"""The type in adapter_config.json."""

_OF_SETTINGS = (*DEFAULTS, "pattern", "seed")
"""The fields of `SeftConfig` that `Settings` has too."""
_SUPPORTS = ("auto", "recorded", "nonzero")


@dataclass
class SeftConfig(PeftConfig):
    """The configuration of a SEFT adapter: which positions of a pruned model are trained, and how they move.

    A choice that is None has the value of the preset (EVT-011). Learning rate, steps, clipping and data are set in the
    trainer.

    Raises:
        SeftError: for a choice out of range, by the clause of SPEC.md that TRN-008 names for it.
    """

    density: float | None = None
    """trained positions as a share of a matrix, in (0, 1] (DLT-002)"""
    preset: str = "active-only"
    """the preset that supplies the choices that are None: active-only, seft, static or another of EVT-011"""
    evolve_every: int | None = None
    """steps between two events"""
    drop_fraction: float | None = None
    """share of the positions that an event at step 0 would drop; `drop_schedule` says how it falls (SCH-001)"""
    gradient_window: int | None = None
    """steps whose mean gradient an event uses (TRN-005)"""
    evolve_until: float | None = None
    """fraction of the steps after which no event follows (SCH-007)"""
    initial_positions: str | None = None
    """how the first positions are chosen: by the gradient of the first step, at random, or by the magnitude of the
    weights (DLT-004)
    """
    initial_scope: str | None = None
    """where the first positions lie: active, among stored weights, or anywhere (DLT-004.2)"""
    budget_by: str | None = None
    """how many positions a matrix has: density of numel or of nnz, or as many as a LoRA adapter of a rank (DLT-002)"""
    rank: int | None = None
    """the rank of that LoRA adapter, with budget_by rank"""
    slots: int | None = None
    """unused: budget_by count shares slots over all matrices, but the layers of an adapter are made one by one"""
    pattern: tuple[int, int] | None = None
    """N and M of a base with at most N of every M weights; no event breaks it (EVT-007)"""
    optimizer: str | None = None
    """the optimizer of the run: adamw, spiel-adamw, sgd or sm3"""
    seed: int = 0
    """seed of all random choices"""
    evolves: bool | None = None
    """whether there are events at all (EVT-001)"""
    drop: str | None = None
    """score by which slots are dropped, smallest first: magnitude, change, fisher, weight or random (DROP-003)"""
    drops: str | None = None
    """what a drop removes: the slot, or the weight as well (DROP-004)"""
    grow: str | None = None
    """score by which slots grow, largest first: gradient, absolute, fisher, moments, curvature or random (GROW-004)"""
    grow_scope: str | None = None
    """where positions grow: anywhere, or active, among stored weights (GROW-001)"""
    regrow: bool | None = None
    """whether a position may grow in the event that dropped it (GROW-005)"""
    candidates: str | None = None
    """positions that may grow: all, or the strongest of the first step of a window, first-step (GROW-006)"""
    moments: str | None = None
    """the optimizer's moments of a new position: zero, or seeded by the window (DLT-006)"""
    adapt: str | None = None
    """score by which weights are pruned, smallest first: sensitivity, absolute, fisher, token-fisher, magnitude,
    activation, curvature or random (ADPT-005)
    """
    adapts: str | None = None
    """when weights are pruned: always, at the end or never (EVT-008)"""
    counts: str | None = None
    """weights that count against the budget: the support, or values that are not zero (ADPT-006)"""
    exempt: str | None = None
    """slots that pruning spares: the new ones of the event, all slots, or none (ADPT-007)"""
    scope: str | None = None
    """where scores are compared with each other: in a matrix, a row, a group or the model (EVT-009)"""
    events: str | None = None
    """when events come: once a period, or in SpIEL's phases (SCH-003)"""
    drop_schedule: str | None = None
    """how the drop fraction falls: cosine, linear or constant (SCH-001)"""
    first_event: str | None = None
    """slots that the first event drops: the fraction, or all (SCH-008)"""
    event_replaces_step: bool | None = None
    """whether an event takes the place of the optimizer's step (EVT-010)"""
    support: Literal["auto", "recorded", "nonzero"] = "auto"
    """which weights of the base are stored. recorded: a mask that the layer keeps, as `load_sparse` and
    torch.nn.utils.prune leave it. nonzero: those that are not zero. auto: recorded if there is a mask, else nonzero,
    but an error for a quantised layer
    """
    target_modules: list[str] | set[str] | str | None = None
    """names or a regular expression of the linear layers to adapt. None: every one in a numbered block of the model, in
    models like LLaMA the seven projections
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
    """stored weights of the adapted layers of the base; the tuner writes it, and refuses a base with another number"""
    stored_sha256: str | None = None
    """digest of the masks of these layers (FMT-171.10); the tuner writes it, and refuses a base with other masks"""
    init_weights: bool = True
    """False draws positions and values at random, for tests of PEFT that want an adapter that changes something"""

    def __post_init__(self) -> None:
        """Refuse options that are out of range."""
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
        if self.settings().budget_by == "count":
            msg = "budget_by count shares slots over all matrices; an adapter takes numel, nnz or rank"
            raise NotImplementedError(msg)

    def settings(self) -> Settings:
        """Return the settings of a run, as `Evolution` takes them."""
        own: dict[str, Any] = {name: getattr(self, name) for name in _OF_SETTINGS if getattr(self, name) is not None}
        # 16-bit bases are usual here: φ stays in float32, and b + φ is rounded to the type of the base
        return Settings(preset=self.preset, **own, keep_dtype=True)  # type: ignore[arg-type]
