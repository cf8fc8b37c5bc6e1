"""What a delta must say of itself (12.11): the rules that its own file can show."""

from collections.abc import Collection

from formats.errors import BadDelta, BadDeltaName
from formats.header import DELTA
from formats.records import DeltaOf

REPLACE, ADD, REMOVE, WHOLE = "replace", "add", "remove", "whole"
OPERATIONS = (ADD, REMOVE, REPLACE, WHOLE)
_TOGETHER = ({REPLACE}, {REPLACE, REMOVE}, {REMOVE}, {ADD}, {WHOLE})


def operation_of(stored: str) -> tuple[str, str]:
    """Return operation and tensor name of the name of a tensor in a delta.

    Raises:
        BadDeltaName: FMT-132.
    """
    operation, colon, name = stored.partition(":")
    if operation not in OPERATIONS or not colon:
        raise BadDeltaName(f"a delta stores {stored!r:.80}, expected {', '.join(OPERATIONS)}, a colon and a name")
    return operation, name


def check_delta(kind: str, delta: DeltaOf | None, stored: Collection[str]) -> None:
    """Verify FMT-130 to FMT-132 for the kind, the description and the stored names of a checkpoint."""
    # FMT-130
    if (kind == DELTA) != (delta is not None):
        raise BadDelta(f"a checkpoint of kind {kind!r} has {'a' if delta else 'no'} description of a delta")
    if delta is None:
        return
    operations: dict[str, set[str]] = {name: set() for name in delta.tensors}
    for name in stored:
        operation, tensor = operation_of(name)
        if tensor not in operations:
            raise BadDeltaName(f"a delta stores {name!r} and does not list {tensor!r} among what it changes")
        operations[tensor].add(operation)
    for name, (base, target) in delta.tensors.items():
        found = operations[name]
        # FMT-131
        if base == target:
            raise BadDelta(f"a delta lists {name!r} with one digest before and after; it lists what changes only")
        # FMT-132
        if base is None and found != {WHOLE}:
            raise BadDeltaName(f"{name!r} is new in a delta and stored as {sorted(found)}, expected whole")
        if target is None and found:
            raise BadDeltaName(f"{name!r} goes in a delta and is stored as {sorted(found)}, expected nothing")
        if target is not None and found not in _TOGETHER:
            raise BadDeltaName(f"{name!r} is stored in a delta as {sorted(found)}, which do not go together")
