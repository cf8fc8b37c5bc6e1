"""What a delta must say of itself (12.11): the rules that its own file can show."""

from collections.abc import Collection, Mapping

from formats import validate
from formats.errors import FormatError
from formats.header import DELTA
from formats.records import DeltaOf

REPLACE, ADD, REMOVE, WHOLE = "replace", "add", "remove", "whole"
OPERATIONS = (ADD, REMOVE, REPLACE, WHOLE)
_TOGETHER = ({REPLACE}, {REPLACE, REMOVE}, {REMOVE}, {ADD}, {WHOLE})


def operation_of(stored: str) -> tuple[str, str]:
    """Return operation and tensor name of the name of a tensor in a delta.

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
    """Verify FMT-130 to FMT-132 for the kind, the description, the stored names and own ties and scales."""
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
        found = operations[name]
        if base == target:
            raise FormatError(
                "FMT-131", f"a delta lists {name!r} with one digest before and after; it lists what changes only"
            )
        if base is None and found != {WHOLE}:
            raise FormatError("FMT-132", f"{name!r} is new in a delta and stored as {sorted(found)}, expected whole")
        if target is None and found:
            raise FormatError("FMT-132", f"{name!r} goes in a delta and is stored as {sorted(found)}, expected nothing")
        if target is not None and found not in _TOGETHER:
            raise FormatError("FMT-132", f"{name!r} is stored in a delta as {sorted(found)}, which do not go together")


def _check_target(delta: DeltaOf) -> None:
    """Verify the form of what a delta says of ties and scales of its target; whether they exist is seen later."""
    named = {*delta.tied, *delta.tied.values(), *delta.scales}
    named |= {target for roles in delta.scales.values() for target in roles.values()}
    for name in sorted(named):
        validate.check_name(name)
    for alias, target in delta.tied.items():
        if alias == target:
            raise FormatError("FMT-010", f"{alias!r} is tied to itself in a delta")
    validate.check_scales(delta.scales, named)
