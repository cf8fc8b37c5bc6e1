"""The record of pruning that a model carries, `pruning.json` (PRN-008)."""

import json
from typing import Any, TypedDict, cast

from seft_ref.errors import PruneError
from seft_ref.prune.keep import parse_pattern

RECORD = "pruning.json"


class PruningRecord(TypedDict, total=False):
    """The fields of `pruning.json`; `read_record` checks only `pattern`."""

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
        PruneError: PRN-008 if the content is no JSON object, or its pattern is not N:M.
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
    return cast("PruningRecord", record)


def rates_of(record: PruningRecord) -> float | list[float]:
    """Return the fraction of weights that was removed: one number, or a list with one number a block (PRN-018).

    It is 0 if the record has a pattern.
    """
    return record["layers"]["sparsity"] if "layers" in record else record.get("sparsity") or 0.0


def pattern_of(record: PruningRecord) -> tuple[int, int] | None:
    """Return (N, M) of the pattern that a record names, None if it names none."""
    pattern = record.get("pattern")
    return None if pattern is None else parse_pattern(pattern)
