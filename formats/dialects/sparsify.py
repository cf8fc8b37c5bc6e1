"""Makes dense tensors of a foreign checkpoint sparse: decides which ones, and which entries are absent (FMT-122).

sparsified(Checkpoint("model", open_hf("Llama-pruned")))     the same checkpoint; its pruned matrices have a support
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace

from formats.container import FLOATS, dtype_name
from formats.dialects.checks import cast, check_cast, name_after_cast
from formats.encoding import DENSE, pays
from formats.lazy import Lazy
from formats.records import ANY, POSITIVE, Checkpoint, Dense, Tensor, check_zeros, count_stored, from_dense
from formats.strict_json import JSON

MANY_ZEROS = 0.01
"""Share of zeros from which a tensor that stays dense is named in a remark (FMT-122.7); fewer may be chance."""
NAMED = 3
"""How many of these tensors a remark names; it counts the others."""
LEFT_OUT = "negative_zeros_left_out"
"""The attribute of a checkpoint from which entries of −0.0 were left out (FMT-127)."""


def sparsified(
    checkpoint: Checkpoint, encoding: str = "auto", dtype: str | None = None, zeros: str = ANY
) -> Checkpoint:
    """Return a checkpoint whose dense float tensors are sparse where FMT-122 asks for it; each is made on access.

    Every tensor is read once before this returns, because the attributes state how many entries of −0.0 are left out
    in all. Remarks say how many were left out, or are stored, and which tensors have zeros and stay dense.

    Args:
        checkpoint: read from a foreign format; tensors that have a support keep it.
        encoding: ``"auto"`` makes a float matrix sparse where that takes fewer bytes than dense, ``"dense"`` none, any
            other every float matrix.
        dtype: name of the dtype to cast floats to, for example ``"BF16"``; None keeps every bit. The values before the
            cast decide the support (FMT-126).
        zeros: ``"any"`` leaves out every entry that equals zero, ``"positive"`` stores those of −0.0 (FMT-127).

    Raises:
        FormatError: FMT-084.
    """
    check_cast(dtype)
    check_zeros(zeros)
    sparse_names: set[str] = set()
    negative = 0
    without_mask: list[str] = []
    for name in sorted(checkpoint.tensors) if encoding != DENSE else ():
        tensor = checkpoint.tensors[name]
        if not isinstance(tensor, Dense) or not _can_be_sparse(tensor):
            continue
        with_negative, stored = count_stored(tensor.values, POSITIVE), count_stored(tensor.values, zeros)
        becomes_sparse = encoding != "auto" or pays(_dtype_after_cast(tensor, dtype), tensor.shape, stored)
        if becomes_sparse:
            sparse_names.add(name)
        elif tensor.values.size - stored >= MANY_ZEROS * tensor.values.size:
            without_mask.append(name)
        # a tensor that stays dense keeps its −0.0 with either option
        if becomes_sparse or zeros == POSITIVE:
            negative += with_negative - count_stored(tensor.values, ANY)
    recorded: dict[str, JSON] = {LEFT_OUT: negative} if negative and zeros == ANY else {}
    converted = with_cast(checkpoint, dtype)
    return replace(
        converted,
        tensors=_made(checkpoint.tensors, sparse_names, dtype, zeros),
        attributes={**converted.attributes, **recorded},
        remarks=(*converted.remarks, *_remarks(negative, zeros), *_without_mask(without_mask)),
    )


def with_cast(checkpoint: Checkpoint, dtype: str | None) -> Checkpoint:
    """Return a checkpoint with its floats cast and an attribute for it; None casts nothing (FMT-126).

    Raises:
        FormatError: FMT-084; FMT-126 when a tensor is accessed.
    """
    check_cast(dtype)
    if dtype is None:
        return checkpoint
    tensors = _made(checkpoint.tensors, frozenset(), dtype, ANY)
    return replace(checkpoint, tensors=tensors, attributes={**checkpoint.attributes, "cast": dtype})


def _can_be_sparse(tensor: Dense) -> bool:
    # FMT-122: F8_E8M0 is a float without a zero
    name = dtype_name(tensor.dtype)
    return len(tensor.shape) > 1 and tensor.shape[-1] > 0 and name in FLOATS and name != "F8_E8M0"


def _dtype_after_cast(tensor: Dense, dtype: str | None) -> str:
    return name_after_cast(dtype_name(tensor.dtype), dtype)


def _remarks(negative: int, zeros: str) -> tuple[str, ...]:
    if not negative:
        return ()
    count = f"{negative:,} entries of −0.0"
    if zeros == ANY:
        return (f"{count} were left out as absent weights, and come back as +0.0; --zeros positive stores them",)
    return (f"{count} are stored as weights; --zeros any leaves them out",)


def _without_mask(names: Sequence[str]) -> tuple[str, ...]:
    """Return a remark on tensors whose zeros are kept as values, and not as a mask (FMT-122.7)."""
    if not names:
        return ()
    if len(names) == 1:
        which = f"{names[0]} has a few zeros and stays dense, because a mask would make it larger"
    else:
        shown, more = ", ".join(names[:NAMED]), len(names) - NAMED
        listed = f"{shown} and {more} more" if more > 0 else shown
        which = f"{len(names)} tensors have a few zeros and stay dense, because a mask would make them larger: {listed}"
    return (f"{which}; every value is kept, but training changes zeros; --encoding bitmask stores a mask of each",)


def _made(
    source: Mapping[str, Tensor], sparse_names: AbstractSet[str], dtype: str | None, zeros: str
) -> Mapping[str, Tensor]:
    """Return the tensors of a checkpoint, some of them made sparse and floats cast, each on access."""
    return Lazy(source, lambda name: _tensor(source[name], name, dtype, zeros if name in sparse_names else None))


def _tensor(tensor: Tensor, name: str, dtype: str | None, zeros: str | None) -> Tensor:
    """Return a tensor made sparse, unless zeros is None, and cast (FMT-122, FMT-126)."""
    if zeros is not None and isinstance(tensor, Dense):
        tensor = from_dense(tensor.values, zeros)
    return cast(tensor, dtype, name)
