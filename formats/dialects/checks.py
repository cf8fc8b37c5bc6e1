"""Casts that converters use, and checks that a foreign format can hold everything in a checkpoint."""

from dataclasses import replace
from typing import TypeVar

import numpy as np

from formats import validate
from formats.container import DTYPES, NAMES, dtype_name
from formats.errors import CannotHold, FormatError
from formats.records import Array, Checkpoint, DType, Mask, Tensor

T = TypeVar("T", bound=Tensor)

CASTABLE = frozenset({"F16", "BF16", "F32", "F64"})
"""Floats that can be cast, and cast to (FMT-126); narrower ones mean nothing without their quantisation scheme."""


def require_plain(checkpoint: Checkpoint, target: str) -> None:
    """Verify that a checkpoint is a model of named tensors and nothing else, and that its ties are sound (FMT-010).

    Raises:
        CannotHold: FMT-154 for another kind, attributes or companions, which target has no place for.
        FormatError: FMT-009 or FMT-010 for a name or a tie.
    """
    require_model(checkpoint.kind, target)
    for what, names in (("attributes", sorted(checkpoint.attributes)), ("files", sorted(checkpoint.files))):
        if names:
            raise _without_place(what, names, target)
    for name in checkpoint.tensors:
        validate.check_name(name)
    validate.check_tied(checkpoint.tied, checkpoint.tensors)


def require_model(kind: str, target: str) -> None:
    """Verify that a checkpoint is a model, because target holds nothing else.

    Raises:
        CannotHold: FMT-154 for another kind.
    """
    if kind != "model":
        raise _without_place("kind", kind, target)


def _without_place(what: str, refused: object, target: str) -> CannotHold:
    return CannotHold(
        "FMT-154",
        f"the checkpoint has {what} {refused!r:.200}, which {target} cannot hold; to write the tensors alone, "
        f'pass dataclasses.replace(checkpoint, kind="model", attributes={{}}, files={{}})',
    )


def check_cast(dtype: str | None, targets: frozenset[str] = CASTABLE) -> None:
    """Verify the name of a dtype to cast to; None casts nothing.

    Raises:
        FormatError: FMT-084.
    """
    if dtype is not None and dtype not in targets:
        raise FormatError("FMT-084", f"dtype {dtype!r} cannot be cast to, expected one of {', '.join(sorted(targets))}")


def name_after_cast(name: str, dtype: str | None) -> str:
    """Return the name of the dtype that a tensor has after `cast`, given the name of its dtype."""
    return name if dtype is None or name not in CASTABLE else dtype


def rounded_once(values: Array, dtype: DType) -> Array:
    """Return values in another dtype, each rounded once to nearest, ties to even; infinity where one does not fit."""
    with np.errstate(over="ignore", invalid="ignore"):
        # FMT-129
        if values.dtype != np.float64 or dtype != DTYPES["BF16"]:
            return values.astype(dtype)
        # ml_dtypes before 0.7 casts by way of float32, which would round twice. So the step to float32 rounds to odd:
        # towards 0, with the last bit set if anything was cut. So a value close to a tie of bfloat16 becomes no tie.
        near = values.astype(np.float32)
        odd = near.view(np.uint32)
        odd -= np.abs(near.astype(np.float64)) > np.abs(values)
        odd |= near.astype(np.float64) != values
        return near.astype(dtype)


def cast(tensor: T, dtype: str | None, name: str) -> T:
    """Return the tensor with its floats cast to a dtype of the table; the same one if no cast applies (FMT-126).

    Raises:
        FormatError: FMT-126 if a finite value would become infinite or NaN.
    """
    if dtype is None or isinstance(tensor, Mask) or NAMES.get(tensor.dtype) not in CASTABLE - {dtype}:
        return tensor
    with np.errstate(over="ignore", invalid="ignore"):
        values = rounded_once(tensor.values, DTYPES[dtype])
        overflows = bool((np.isfinite(values) != np.isfinite(tensor.values)).any())
    if overflows:
        raise FormatError(
            "FMT-126", f"{name!r} holds finite values of {dtype_name(tensor.dtype)} that {dtype} cannot hold"
        )
    return replace(tensor, values=values)
