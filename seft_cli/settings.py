"""Read settings from a command line: its options, and `--set key=value` for every other setting."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from seft_cli import console
from seft_ref.adapters.methods import ADAPTERS
from seft_ref.train.settings import TrainSettings
from seft_ref.update.optimizers import OPTIMIZERS
from seft_ref.update.rules import Rule

_BOOLEAN = {"true": True, "false": False}


def _types() -> dict[str, str]:
    """Return setting -> name of its type, for every setting that --set accepts."""
    kinds = (TrainSettings, Rule, *OPTIMIZERS.values(), *map(type, ADAPTERS.values()))
    kinds_by_name = {f.name: getattr(f.type, "__name__", "str") for kind in kinds for f in fields(kind)}
    for name in ("label", "rule", "pattern", "adapter"):
        kinds_by_name.pop(name)  # --method sets the rule or adapter and the label; the pattern comes from the model
    return kinds_by_name | {"optimizer": "str"}


def changes_of(options: Mapping[str, Any], texts: list[str]) -> dict[str, Any]:
    """Return the settings that a command line changes, under flat names.

    options  values of the options, None for one that was not given
    texts    the values of --set, each "key=value"

    Raises:
        Refused: for a text that is not key=value, an unknown key, a value of another type, or a key given twice.
    """
    types = _types()
    changes = {name: value for name, value in options.items() if value is not None}
    for text in texts:
        key, equals, value = text.partition("=")
        key = key.strip().replace("-", "_")
        if not equals:
            raise console.Refused(f"--set {text}: write key=value, for instance --set grow=curvature")
        if key not in types:
            raise console.Refused(f"--set {text}: there is no setting {key}; known are {', '.join(sorted(types))}")
        if key in changes:
            raise console.Refused(f"--set {text}: {key} is given twice")
        changes[key] = _parsed(text, types[key], value.strip())
    return changes


_OF_EVENTS = (
    *("evolve_every", "drop_fraction", "gradient_window", "event_batches"),
    *(f.name for f in fields(Rule) if f.name not in ("evolves", "adapts", "adapt")),
)
"""Settings that have no effect in a run without events."""


def refuse_without_use(settings: TrainSettings, changes: Mapping[str, Any]) -> None:
    """Refuse settings that a command line names but the run would ignore.

    Raises:
        Refused: for settings of events in a run without events, and a density where the budget does not follow it.
    """
    if settings.adapter is not None:
        return  # because the adapter itself refuses settings that it does not have
    if not settings.rule.evolves and (unused := [name for name in _OF_EVENTS if name in changes]):
        raise console.Refused(f"{settings.label} has no events, and does not use {', '.join(unused)}; leave it out")
    of_data = [name for name in ("gradient_window", "event_batches") if name in changes]
    # a window decides at which steps the events of phases are (SCH-005)
    looks = settings.rule.asks() or settings.rule.asks_at_end() or settings.rule.events == "phases"
    if of_data and not looks:
        raise console.Refused(f"events of {settings.label} look at no data, and do not use {', '.join(of_data)}")
    if "density" in changes and settings.budget_by in ("rank", "count"):
        raise console.Refused(f"density is not used with budget_by {settings.budget_by}; leave it out")
    if settings.label == "sparse-full" and "density" in changes:
        raise console.Refused("sparse-full trains every stored weight; with a density take static")


def _parsed(text: str, kind: str, value: str) -> Any:
    """Return the value of a --set text, converted to the type of its setting."""
    try:
        if kind == "bool":
            return _BOOLEAN[value.lower()]
        return {"int": int, "float": float}.get(kind, str)(value)
    except (KeyError, ValueError):
        words = {"bool": "true or false", "int": "a whole number", "float": "a number"}
        raise console.Refused(f"--set {text}: the value must be {words[kind]}") from None
