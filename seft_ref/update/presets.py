"""Presets: named rules and settings as data (EVT-011). Settings that a preset does not name have their defaults."""

from collections.abc import Mapping

from seft_ref.errors import ConfigError

Setting = bool | int | float | str
"""The value of a setting."""

_SPIEL: dict[str, Setting] = {
    "adapts": "never",
    "events": "phases",
    "drop_schedule": "linear",
    "first_event": "all",
    "evolve_every": 20,
    "gradient_window": 5,
    "density": 0.01,
    "initial_positions": "random",
    "initial_scope": "anywhere",
    "max_norm": 0.0,
}
_SPIEL_AG: dict[str, Setting] = {
    **_SPIEL,
    "candidates": "first-step",
    "moments": "seeded",
    "optimizer": "spiel-adamw",
}
_WEIGHTS: dict[str, Setting] = {
    "drop": "weight",
    "drops": "weight",
    "adapts": "never",
    "drop_fraction": 0.3,
    "evolve_every": 100,
    "budget_by": "nnz",
    "density": 1.0,
    "initial_positions": "magnitude",
    "optimizer": "sgd",
}

_TOKENS: dict[str, Setting] = {"adapt": "token-fisher"}

PRESETS: dict[str, dict[str, Setting]] = {
    "seft": _TOKENS,
    "sensitivity": {},
    "literal": {"counts": "values", "exempt": "none"},
    "unprotected": {**_TOKENS, "exempt": "none"},
    "active-only": {"grow_scope": "active"},
    "no-adapt": {**_TOKENS, "adapts": "end"},
    "magnitude": {"adapt": "magnitude"},
    "spiel-ag": _SPIEL_AG,
    "spiel-adapt": {**_SPIEL_AG, "adapts": "always", "initial_scope": "active"},
    "spiel-ma": {**_SPIEL, "grow": "moments", "regrow": False, "optimizer": "sm3"},
    "rigl": {**_WEIGHTS, "evolve_until": 0.75, "event_replaces_step": True},
    "set": {**_WEIGHTS, "grow": "random", "drop_schedule": "constant"},
    "static": {"evolves": False},
}

DEFAULT = "active-only"
"""The preset if none is named, because no other rule ended with a lower loss and this one keeps the mask (D96)."""


def preset_named(name: str) -> Mapping[str, Setting]:
    """Return the choices and settings that a preset sets, by name (EVT-011).

    Raises:
        ConfigError: EVT-011 for an unknown name.
    """
    if name not in PRESETS:
        raise ConfigError("EVT-011", f"unknown preset {name!r}; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
