"""A matrix in two parts: one that stays as it was loaded, and one that is trained (KRN-016)."""

from dataclasses import dataclass
from typing import Any

from seft_ref.errors import KernelError


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """The sum of two packed matrices of one kernel set; `locate` and `store` know the live part only."""

    frozen: Any
    live: Any

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the sum."""
        return self.frozen.shape

    @property
    def dtype(self) -> Any:
        """Dtype that is computed in."""
        return self.live.dtype

    @property
    def held_in(self) -> Any:
        """The 16-bit dtype of the frozen part."""
        return self.frozen.held_in

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.frozen.nbytes + self.live.nbytes


def split(frozen: Any, live: Any) -> Split:
    """Return the sum of a frozen and a live matrix, which stays as it is packed (KRN-016).

    Raises:
        KernelError: KRN-009, KRN-010 for parts of different shape or compute dtype.
    """
    if tuple(frozen.shape) != tuple(live.shape):
        raise KernelError("KRN-009", f"the frozen part is {frozen.shape}, the live part {live.shape}")
    if frozen.dtype != live.dtype:
        raise KernelError("KRN-010", f"the frozen part computes in {frozen.dtype}, the live part in {live.dtype}")
    return Split(frozen, live)
