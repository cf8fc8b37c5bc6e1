"""The record of pruning that a model carries, `pruning.json` (PRN-008)."""

import json
from collections.abc import Callable
from typing import Any, TypedDict, cast, get_args

from seft_ref.errors import PruneError
from seft_ref.prune.keep import Scope, parse_pattern

RECORD = "pruning.json"


class PruningRecord(TypedDict, total=False):
    """The fields of `pruning.json`, each of which `read_record` checks if it is there."""

    method: str
    sparsity: float | None
    pattern: str | None
    scope: str | None
    removed: int
    of: int
    calibration: dict[str, int] | None
    seed: int
    layers: dict[str, Any]


def read_record(content: bytes) -> PruningRecord:
    """Return the record of pruning in the content of a `pruning.json`.

    Raises:
        PruneError: PRN-008 if the content is no JSON object, or a field has a value that the clause's table does not
            allow.
    """
    try:
        record = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise PruneError("PRN-008", f"pruning.json is not JSON ({error}); restore or remove it") from None
    if not isinstance(record, dict):
        raise PruneError("PRN-008", f"pruning.json holds {str(record)[:40]!r}, must be an object")
    pattern = record.get("pattern")
    try:
        if pattern is not None:
            parse_pattern(pattern)
    except (PruneError, TypeError):
        raise PruneError("PRN-008", f"pruning.json has pattern {pattern!r}, must be null or N:M as in 2:4") from None
    if record.get("sparsity") is not None and pattern is not None:
        raise PruneError("PRN-008", "pruning.json has a sparsity and a pattern, and one of them must be null")
    for name, (allows, expected) in _ALLOWED.items():
        if name in record and not allows(record[name]):
            raise PruneError("PRN-008", f"pruning.json has {name} {record[name]!r:.60}, must be {expected}")
    return cast("PruningRecord", record)


def _is_whole(value: Any, least: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1


def _are_windows(value: Any) -> bool:
    """Return whether a value describes calibration windows (PRN-007)."""
    return (
        isinstance(value, dict)
        and value.keys() == {"samples", "length", "seed"}
        and _is_whole(value["samples"], 1)
        and _is_whole(value["length"], 2)
        and _is_whole(value["seed"])
    )


def _is_of_layers(value: Any) -> bool:
    """Return whether a value says which share of each block was removed (PRN-018)."""
    shares = value.get("sparsity") if isinstance(value, dict) else None
    return isinstance(shares, list) and all(map(_is_share, shares))


_ALLOWED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "method": (lambda value: isinstance(value, str), "a text"),
    "sparsity": (lambda value: value is None or _is_share(value), "null or from 0 to below 1"),
    "scope": (lambda value: value in (None, *get_args(Scope)), f"null or one of {', '.join(get_args(Scope))}"),
    "removed": (_is_whole, "a number of weights"),
    "of": (_is_whole, "a number of weights"),
    "calibration": (
        lambda value: value is None or _are_windows(value),
        "null, or samples from 1, length from 2 and seed from 0",
    ),
    "seed": (_is_whole, "a whole number from 0"),
    "layers": (_is_of_layers, "an object with a list sparsity of shares from 0 to below 1"),
}
"""Field -> whether a value is allowed, and what is expected (PRN-008.2)."""


def rates_of(record: PruningRecord) -> float | list[float]:
    """Return the fraction of weights that was removed: one number, or a list with one number a block (PRN-018).

    It is 0 if the record has a pattern.
    """
    return record["layers"]["sparsity"] if "layers" in record else record.get("sparsity") or 0.0


def pattern_of(record: PruningRecord) -> tuple[int, int] | None:
    """Return (N, M) of the pattern that a record names, None if it names none."""
    pattern = record.get("pattern")
    return None if pattern is None else parse_pattern(pattern)
