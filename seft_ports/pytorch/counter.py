"""Random numbers from a counter (chapter 7), as int64 tensors, because torch has no arithmetic on uint64."""

import torch
from torch import Tensor

from seft_ports.pytorch.errors import SeftError

__all__ = ["counter_key", "draws", "unsigned_order"]

_GAMMA = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1
_SIGN = -(1 << 63)


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word


def _shifted(z: Tensor, n: int) -> Tensor:
    """Return z shifted right by n bits as if it were unsigned."""
    return (z >> n) & ((1 << (64 - n)) - 1)


def _mix(z: Tensor) -> Tensor:
    # RNG-001: products of int64 wrap around, so they are products modulo 2⁶⁴
    z = (z ^ _shifted(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shifted(z, 27)) * _signed(0x94D049BB133111EB)
    return z ^ _shifted(z, 31)


def counter_key(*words: int) -> int:
    """Return the key of these words, each below 2⁶⁴: first the seed, then the stream (RNG-002)."""
    key = 0
    for word in words:
        if not 0 <= word <= _MASK:
            # RNG-002
            raise SeftError("RNG-002", f"the word {word} is not in 0 ... 2**64 - 1")
        key = int(_mix(torch.tensor(_signed(((key + _GAMMA) & _MASK) ^ word)))) & _MASK
    return key


def draws(key: int, numbers: Tensor) -> Tensor:
    """Return the draw of each of these numbers: 64 random bits as int64 (RNG-001)."""
    # RNG-001
    return _mix((numbers.to(torch.int64) + 1) * _signed(_GAMMA) + _signed(key))


def unsigned_order(bits: Tensor) -> Tensor:
    """Return int64 numbers whose signed order is the unsigned order of the bits."""
    return bits ^ _SIGN
