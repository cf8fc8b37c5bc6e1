"""What follows from the profiles and numeric classes that a port claims (chapter 16)."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from conformance.cases.case import Case
from conformance.cases.ops import OPS

__all__ = [
    "CLASSES",
    "blocking",
    "classes_offered",
    "in_order",
    "is_scalar",
    "needs_zstd",
    "offered_in",
    "profiles_of_case",
    "requires_zstd",
]

CLASSES = {"exact64": "float64", "fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""Numeric classes, and the dtype of float arrays in each (PRT-011)."""

_NM_CLAUSES = {"TOP-005", "GROW-007", "EVT-007", "PRN-004", "PRN-012"}
_NM_OF = ("nm", "core", "rules", "train")
"""Profiles whose N:M cases also belong to `nm`. Those of other profiles do not, because a trainer that claims `nm`
would then need files and pruners."""


def blocking(ops: Iterable[str], bad: Collection[str]) -> str:
    """Return an operation of `bad` that is in `ops` or that one of `ops` rests on; empty if there is none (PRT-012)."""
    pending, looked_at = list(ops), set[str]()
    while pending:
        op = pending.pop()
        if op in bad:
            return op
        looked_at.add(op)
        pending += [need for need in OPS[op].rests_on if need not in looked_at]
    return ""


def is_scalar(op: str) -> bool:
    """Return whether an operation has no numeric class of its own (PRT-015)."""
    return op in OPS and OPS[op].kind == "scalar"


def offered_in(name: str, ops: Mapping[str, Sequence[str]]) -> frozenset[str]:
    """Return the operations that a hello offers in a numeric class; a scalar one counts if in any class (PRT-015).

    ops  numeric classes by operation, as in a hello
    """
    return frozenset(op for op, classes in ops.items() if name in classes or (classes and is_scalar(op)))


def classes_offered(ops: Mapping[str, Sequence[str]]) -> set[str]:
    """Return the numeric classes of a hello; scalar operations count only if it offers no others (PRT-015)."""
    of_arrays = {name for op, classes in ops.items() for name in classes if not is_scalar(op)}
    return of_arrays or {name for classes in ops.values() for name in classes}


def profiles_of_case(case: Case) -> set[str]:
    """Return the profile of a case's operation, and `nm` if it is in `_NM_OF` and the case tests N:M (D118)."""
    own = OPS[case.op].profile
    return {own} | ({"nm"} if own in _NM_OF and _NM_CLAUSES & set(case.clauses) else set())


def needs_zstd(case: Case) -> bool:
    """Return whether a file among the inputs of a case requires `zstd`, which a port need not support (PRT-006)."""
    if case.op == "convert.adapter" and case.inputs["kind"] == "weight-sync":
        # FMT-168.2: every tensor of a version folder is a frame
        return True
    values = (*case.inputs.values(), *(case.inputs.get("deltas") or {}).values())
    return any(requires_zstd(one.tobytes()) for one in values if isinstance(one, np.ndarray) and one.dtype == np.uint8)


def requires_zstd(raw: bytes) -> bool:
    """Return whether a file has a readable manifest that requires `zstd` (FMT-043)."""
    if b"zstd" not in raw:
        return False
    try:
        header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
        return "zstd" in json.loads(header["__metadata__"]["seft.manifest"])["requires"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


def in_order(ops: Iterable[str]) -> list[list[str]]:
    """Return operations in groups such that each group rests on earlier groups only."""
    pending = dict.fromkeys(ops)
    groups: list[list[str]] = []
    while pending:
        ready = [op for op in pending if not any(need in pending for need in OPS[op].rests_on)]
        groups.append(ready)
        for op in ready:
            del pending[op]
    return groups
