"""What generators of files share: cases with an answer or a refusal, and inputs of `file.expand`."""

from collections.abc import Callable
from typing import Any

from conformance.gen.files import raw_array
from conformance.gen.numbers import Area
from conformance.oracle import files_names
from conformance.oracle.files import BITS, Tensor
from conformance.oracle.select_pools import RefusedError


def answered(
    area: Area,
    name: str,
    op: str,
    clauses: str,
    purpose: str,
    inputs: dict[str, Any],
    answer: Callable[[], dict[str, Any]],
    **more: Any,
) -> None:
    """Add a case with the oracle's answer, or with the clause under which it refuses."""
    try:
        area.add(name, op, clauses, purpose, inputs, answer(), **more)
    except RefusedError as error:
        clause = str(error).split(":", 1)[0]
        area.add(f"refuse-{name}", op, clauses, purpose, inputs, refused=clause, **more)


def spread(name: str, t: Tensor, raw: bytes, limit: int | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return inputs and outputs of `file.expand`.

    Raises:
        RefusedError: FMT-098, the dense array exceeds the limit.
    """
    at = None if t.support is None else [r * t.shape[-1] + c for r, c in t.support]
    inputs = {"raw": raw_array(raw), "name": name} | ({} if limit is None else {"limit": limit})
    return inputs, {"bits": raw_array(files_names.expanded(t.dtype, t.shape, at, t.bits, BITS[t.dtype], limit))}
