"""Quantised matrices: their tensors in each source format, and the weights that they stand for (FMT-172 to FMT-174).

`Codes` has the codes, zero points and scales as plain numbers. `pack_quantized` and its siblings write the tensors of
FMT-173 from them; `weights` multiplies them in exact fractions. Nothing here reads packed tensors.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from conformance.oracle.files import BITS, Tensor
from conformance.oracle.files_convert import dense
from conformance.oracle.files_deltas import number
from conformance.oracle.select_pools import RefusedError
from conformance.oracle.train_around import rounded_bits

AWQ_COLUMNS = (0, 2, 4, 6, 1, 3, 5, 7)
"""The columns in a word of AWQ, lowest bits first (FMT-173.3)."""


@dataclass(frozen=True)
class Codes:
    """A quantised matrix, row by row."""

    bits: int
    codes: list[list[int]]
    """Signed, −2^(bits − 1) to 2^(bits − 1) − 1."""
    dtype: str
    """The dtype of the scales."""
    scales: list[list[int]]
    """Bit patterns, (out, groups)."""
    zeros: list[list[int]] | None
    """Signed like the codes; None for a symmetric matrix."""
    groups: list[int]
    """The group of each column."""
    support: tuple[tuple[int, int], ...] | None = None
    """The stored positions, if there is a bitmask."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return len(self.codes), len(self.codes[0])

    @property
    def half(self) -> int:
        """The offset that makes a code unsigned before it is packed (FMT-173.4)."""
        return 1 << (self.bits - 1)

    def zero(self, row: int, group: int) -> int:
        """Return the zero point of a group; 0 for a symmetric matrix."""
        return 0 if self.zeros is None else self.zeros[row][group]


def weights(m: Codes) -> Tensor:
    """Return the weights, sparse on the support, or dense with +0.0 where a weight is pruned (FMT-173.6, FMT-174).

    Raises:
        RefusedError: a weight does not fit the dtype.
    """
    patterns = []
    every = ((r, c) for r in range(m.shape[0]) for c in range(m.shape[1]))
    for r, c in every if m.support is None else m.support:
        group = m.groups[c]
        exact = Fraction(m.codes[r][c] - m.zero(r, group)) * Fraction(scale(m, r, group))
        # the product of 9 and 24 bits is exact in binary64, so that the weight is rounded only once
        assert Fraction(float(exact)) == exact
        try:
            patterns.append(rounded_bits(float(exact), m.dtype))
        except RefusedError as error:
            raise RefusedError(f"FMT-173: {error}") from error
    whole = dense(m.dtype, (len(patterns),), patterns)
    return Tensor(m.dtype, m.shape, whole.bits, m.support)


# words -------------------------------------------------------------------------------------------


def words(numbers: Sequence[int], bits: int, *, straddling: bool, junk: int = 0) -> list[int]:
    """Pack numbers of `bits` bits into 32-bit words, lowest bits first (FMT-173, FMT-173.2).

    straddling  whether a number may begin in one word and end in the next
    junk        a pattern for the unused bits after the last number, which readers ignore
    """
    per_word = 32 // bits
    runs = [numbers] if straddling else [numbers[i : i + per_word] for i in range(0, len(numbers), per_word)]
    out: list[int] = []
    for run in runs:
        every = sum(one << bits * i for i, one in enumerate(run))
        count = -(-len(run) * bits // 32)
        every |= junk << bits * len(run) & (1 << 32 * count) - 1
        out += [every >> 32 * i & 0xFFFF_FFFF for i in range(count)]
    return out


def turned(rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return the transpose."""
    return [list(column) for column in zip(*rows, strict=True)]


def int32(rows: Sequence[Sequence[int]]) -> Tensor:
    """Return rows of words as a tensor of I32."""
    flat = [word for row in rows for word in row]
    return Tensor("I32", (len(rows), len(rows[0])), struct.pack(f"<{len(flat)}I", *flat))


def int8(rows: Sequence[Sequence[int]]) -> Tensor:
    """Return rows of signed numbers as a tensor of I8."""
    flat = [one for row in rows for one in row]
    return Tensor("I8", (len(rows), len(rows[0])), struct.pack(f"<{len(flat)}b", *flat))


def integers(values: Sequence[int], dtype: str = "I64") -> Tensor:
    """Return a vector of I32 or I64."""
    return Tensor(dtype, (len(values),), struct.pack(f"<{len(values)}{'i' if dtype == 'I32' else 'q'}", *values))


def scale_tensor(m: Codes, *, turn: bool = False) -> Tensor:
    """Return the scales as a tensor, (out, groups) or its transpose."""
    rows = turned(m.scales) if turn else m.scales
    return dense(m.dtype, (len(rows), len(rows[0])), [one for row in rows for one in row])


# parts -------------------------------------------------------------------------------------------


def pack_quantized(m: Codes, *, straddling: bool = True, junk: int = 0, index: str = "") -> dict[str, Tensor]:
    """Return the parts of `pack-quantized`; index is the dtype of `weight_g_idx`, empty for none."""

    def packed(rows: Sequence[Sequence[int]]) -> list[list[int]]:
        return [words([one + m.half for one in row], m.bits, straddling=straddling, junk=junk) for row in rows]

    parts = {
        "weight_packed": int32(packed(m.codes)),
        "weight_shape": integers(m.shape),
        "weight_scale": scale_tensor(m),
    }
    if m.zeros is not None:
        parts["weight_zero_point"] = int32(turned(packed(turned(m.zeros))))
    return parts | ({"weight_g_idx": integers(m.groups, index)} if index else {})


def int_quantized(m: Codes, *, index: str = "") -> dict[str, Tensor]:
    """Return the parts of `int-quantized`; index is the dtype of `weight_g_idx`, empty for none."""
    parts = {"weight": int8(m.codes), "weight_scale": scale_tensor(m)}
    if m.zeros is not None:
        parts["weight_zero_point"] = int8(m.zeros)
    return parts | ({"weight_g_idx": integers(m.groups, index)} if index else {})


def gptq(m: Codes, *, less: int, index: str = "I32") -> dict[str, Tensor]:
    """Return the parts of `gptq` (less is 1) or `gptq_v2` (0); index is the dtype of `g_idx`, empty for none."""
    stored = [[m.zero(r, g) + m.half - less for r in range(m.shape[0])] for g in range(len(m.scales[0]))]
    columns = [words([one + m.half for one in row], m.bits, straddling=True) for row in m.codes]
    parts = {
        "qweight": int32(turned(columns)),
        "qzeros": int32([words(row, m.bits, straddling=True) for row in stored]),
        "scales": scale_tensor(m, turn=True),
    }
    return parts | ({"g_idx": integers(m.groups, index)} if index else {})


def awq(m: Codes) -> dict[str, Tensor]:
    """Return the parts of `awq`."""

    def packed(row: Sequence[int]) -> list[int]:
        order = [8 * word + column for word in range(len(row) // 8) for column in AWQ_COLUMNS]
        return words([row[at] + m.half for at in order], m.bits, straddling=True)

    zeros = [[m.zero(r, g) for r in range(m.shape[0])] for g in range(len(m.scales[0]))]
    return {
        "qweight": int32([packed(column) for column in turned(m.codes)]),
        "qzeros": int32([packed(row) for row in zeros]),
        "scales": scale_tensor(m, turn=True),
    }


def named(module: str, parts: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the parts by the names that they have in a folder."""
    return {f"{module}.{part}": tensor for part, tensor in parts.items()}


def stored(m: Codes) -> tuple[tuple[int, int], ...]:
    """Return the positions that are not pruned (FMT-174)."""
    if m.support is not None:
        return m.support
    every = ((r, c) for r in range(m.shape[0]) for c in range(m.shape[1]))
    return tuple((r, c) for r, c in every if m.codes[r][c] != m.zero(r, m.groups[c]) and scale(m, r, m.groups[c]))


def scale(m: Codes, row: int, group: int) -> float:
    """Return a scale as a number."""
    return number(m.dtype, m.scales[row][group].to_bytes(BITS[m.dtype] // 8, "little"))
