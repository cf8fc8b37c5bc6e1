"""Presets: an update rule as a small record of choices."""

from dataclasses import dataclass

from seft_ref.errors import ConfigError
from seft_ref.update.grow import GrowScope


@dataclass(frozen=True, slots=True)
class Preset:
    """Which parts of an event run, and where growth may look."""

    evolves: bool = True
    grow_scope: GrowScope = "anywhere"
    adapts: bool = True


PRESETS: dict[str, Preset] = {
    "seft": Preset(),
    "active-only": Preset(grow_scope="active"),
    "no-adapt": Preset(adapts=False),
    "static": Preset(evolves=False),
}


def preset_named(name: str) -> Preset:
    """Return a preset by name (chapter 8).

    Raises:
        ConfigError: EVT-001 for an unknown name.
    """
    if name not in PRESETS:
        raise ConfigError("EVT-001", f"unknown preset {name!r}; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
