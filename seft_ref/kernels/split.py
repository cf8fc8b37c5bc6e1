"""A matrix in two parts: a frozen one that stays as it was loaded, and a live one that is trained (KRN-016).

The functions of a kernel set take any `Packed`. Only this module takes a `Split` apart and checks that a matrix has the
layout of the set that is to use it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from seft_ref.arrays.library import Array, Dtype
from seft_ref.errors import KernelError
from seft_ref.kernels import Packed
from seft_ref.kernels.held import Held

Own = TypeVar("Own", bound=Packed)
"""The class in which one kernel set packs matrices."""
Layout: TypeAlias = type[Own] | tuple[type[Own], ...]
"""The layouts of one kernel set."""


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """The sum of two packed matrices of one kernel set; `locate` and `store` work on the live part only."""

    frozen: Packed
    live: Packed

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the sum."""
        return self.frozen.shape

    @property
    def dtype(self) -> Dtype:
        """Dtype of the products."""
        return self.live.dtype

    @property
    def held_in(self) -> Held | None:
        """How the frozen part stores its numbers."""
        return self.frozen.held_in

    @property
    def opens(self) -> bool:
        """False, because `unpack` takes a matrix in one part."""
        return False

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays of both parts."""
        return self.frozen.nbytes + self.live.nbytes


def split(frozen: Packed, live: Packed) -> Split:
    """Return the sum of a frozen and a live matrix, neither of which is copied or changed (KRN-016).

    Raises:
        KernelError: KRN-009, KRN-010 for parts of different shape or compute dtype.
    """
    if tuple(frozen.shape) != tuple(live.shape):
        raise KernelError("KRN-009", f"the frozen part is {frozen.shape}, the live part {live.shape}")
    if frozen.dtype != live.dtype:
        raise KernelError("KRN-010", f"the frozen part computes in {frozen.dtype}, the live part in {live.dtype}")
    return Split(frozen, live)


def as_own(packed: Packed, layout: Layout[Own]) -> Own:
    """Return the matrix itself, after checking that it has a layout of the caller's kernel set.

    Raises:
        KernelError: KRN-010 if another kernel set packed it, or if it is split.
    """
    if not isinstance(packed, layout):
        first = layout[0] if isinstance(layout, tuple) else layout
        raise KernelError("KRN-010", f"the packed matrix is a {type(packed).__name__}, not a {first.__name__}")
    return packed


def multiply_parts(multiply: Callable[[Array, Own], Array], x: Array, packed: Packed, layout: Layout[Own]) -> Array:
    """Return the product of x with a matrix; for a split matrix, the sum of the products with its parts (KRN-016).

    Raises:
        KernelError: KRN-010 if another kernel set packed the matrix.
    """
    if isinstance(packed, Split):
        return multiply(x, as_own(packed.frozen, layout)) + multiply(x, as_own(packed.live, layout))
    return multiply(x, as_own(packed, layout))


def live_part(packed: Packed, layout: Layout[Own]) -> Own:
    """Return the part of a matrix that `locate` and `store` work on: all of it, unless it is split (KRN-016).

    Raises:
        KernelError: KRN-010 if another kernel set packed it.
    """
    return as_own(packed.live if isinstance(packed, Split) else packed, layout)


def with_live_part(packed: Packed, live: Packed) -> Packed:
    """Return packed with `live` as its live part; `live` itself if packed is not split."""
    return Split(packed.frozen, live) if isinstance(packed, Split) else live
