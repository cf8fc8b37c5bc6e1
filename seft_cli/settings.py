"""Read settings from a command line: an option for each one of a run, and `--set key=value` for any setting."""

from collections.abc import Iterator, Mapping
from dataclasses import fields, make_dataclass
from typing import Annotated, Any, get_args

import typer

from seft_cli import console
from seft_ref.adapters.methods import ADAPTERS, settings_of_adapter
from seft_ref.train.settings import METHODS, TrainSettings, flat_settings
from seft_ref.update.optimizers import OPTIMIZERS
from seft_ref.update.presets import PRESETS
from seft_ref.update.rules import Rule

_BOOLEAN = {"true": True, "false": False}


def _options() -> Iterator[tuple[str, Any, None]]:
    """Yield name, type and default of an option for each setting of a run, and for the optimizer and its decay."""
    of_methods = {*_names(PRESETS), *_names(METHODS), *_names({n: settings_of_adapter(a) for n, a in ADAPTERS.items()})}

    def option(name: str, kind: Any, meaning: str, default: object, *values: str, least: int | None = None) -> Any:
        shown = f"{default}, or the preset's" if name in of_methods else f"{default}"
        text = f"{meaning[0].upper()}{meaning[1:]} [{shown}]."
        return Annotated[kind | None, typer.Option(help=text, metavar="|".join(values) or None, min=least)]

    for one in flat_settings():
        values, about = get_args(one.type), one.metadata
        kind = str if values else one.type
        yield one.name, option(one.name, kind, about["meaning"], one.default, *values, least=about["least"]), None
    yield "optimizer", option("optimizer", str, "the optimizer of the delta", "adamw", *OPTIMIZERS), None
    decay = "decoupled decay of the delta towards the base"
    yield "weight_decay", option("weight_decay", float, decay, 0.0), None


def _names(settings_by_name: Mapping[str, Mapping[str, object]]) -> Iterator[str]:
    for settings in settings_by_name.values():
        yield from settings


SettingOptions = make_dataclass("SettingOptions", _options(), frozen=True)
"""One option for each setting of a run; None for one that was not given."""


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
