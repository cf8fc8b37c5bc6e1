"""The rules of a delta that can be checked in its own file, without its base (12.10)."""

from collections.abc import Collection, Mapping

from formats import validate
from formats.errors import FormatError
from formats.header import DELTA
from formats.records import DeltaOf

REPLACE, ADD, REMOVE, WHOLE = "replace", "add", "remove", "whole"
OPERATIONS = (ADD, REMOVE, REPLACE, WHOLE)
_TOGETHER = ({REPLACE}, {REPLACE, REMOVE}, {REMOVE}, {ADD}, {WHOLE})
"""Sets of operations that may be stored for one tensor (FMT-132)."""


def operation_of(stored: str) -> tuple[str, str]:
    """Return operation and tensor name of a name that a delta stores, such as ``replace:w``.

    Raises:
        FormatError: FMT-132.
    """
    operation, colon, name = stored.partition(":")
    if operation not in OPERATIONS or not colon:
        raise FormatError(
            "FMT-132", f"a delta stores {stored!r:.80}, expected {', '.join(OPERATIONS)}, a colon and a name"
        )
    return operation, name


def check_delta(kind: str, delta: DeltaOf | None, stored: Collection[str], own: Mapping[str, object]) -> None:
    """Verify the description of a delta against what its checkpoint stores (FMT-130 to FMT-132).

    Args:
        kind: the kind of the checkpoint.
        delta: the description, None if it has none.
        stored: the names of the stored tensors.
        own: ties and scales of the checkpoint itself, of which a delta must have none.

    Raises:
        FormatError: FMT-130 to FMT-132; FMT-009, FMT-010 or FMT-016 for ties and scales of the target.
    """
    if (kind == DELTA) != (delta is not None):
        raise FormatError(
            "FMT-130", f"a checkpoint of kind {kind!r} has {'a' if delta else 'no'} description of a delta"
        )
    if delta is None:
        return
    if own:
        raise FormatError(
            "FMT-130", f"a delta has ties or scales of its own, of {min(own)!r}; those of its target belong to delta"
        )
    _check_target(delta)
    operations: dict[str, set[str]] = {name: set() for name in delta.tensors}
    for name in stored:
        operation, tensor = operation_of(name)
        if tensor not in operations:
            raise FormatError("FMT-132", f"a delta stores {name!r} and does not list {tensor!r} among what it changes")
        operations[tensor].add(operation)
    for name, (base, target) in delta.tensors.items():
        ops = operations[name]
        if base == target:
            raise FormatError(
                "FMT-131", f"a delta lists {name!r} with one digest before and after; it lists what changes only"
            )
        if base is None and ops != {WHOLE}:
            raise FormatError("FMT-132", f"{name!r} is new in a delta and stored as {sorted(ops)}, expected whole")
        if target is None and ops:
            raise FormatError("FMT-132", f"{name!r} goes in a delta and is stored as {sorted(ops)}, expected nothing")
        if target is not None and ops not in _TOGETHER:
            raise FormatError("FMT-132", f"{name!r} is stored in a delta as {sorted(ops)}, which do not go together")


def _check_target(delta: DeltaOf) -> None:
    """Verify the form of the target's ties and scales (FMT-131); `delta.apply` verifies that their tensors exist."""
    named = {*delta.tied, *delta.tied.values(), *delta.scales}
    named |= {target for roles in delta.scales.values() for target in roles.values()}
    for name in sorted(named):
        validate.check_name(name)
    for alias, target in delta.tied.items():
        if alias == target:
            raise FormatError("FMT-010", f"{alias!r} is tied to itself in a delta")
    validate.check_scales(delta.scales, named)
