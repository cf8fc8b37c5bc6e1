"""The functions of `seft_ref.layers.plain` for NumPy arrays, compiled by numba: one pass over arrays in place of many.

    rmsnorm, rope, swiglu, attention, cross_entropy     a forward, and directly below it its backward
    exp         exponentials, a register at a time
    sums        sums and the largest number of a row, a register at a time
    products    products of small dense matrices, four rows at a time
    rows        runs loops over rows, or tasks, on numba's threads

Caches are those of the plain layers. Start with `swiglu.py`.
"""

from seft_ref.layers.compiled.attention import attention_backward, attention_forward
from seft_ref.layers.compiled.cross_entropy import cross_entropy_backward, cross_entropy_forward
from seft_ref.layers.compiled.rmsnorm import rmsnorm_backward, rmsnorm_forward
from seft_ref.layers.compiled.rope import rope_backward, rope_forward
from seft_ref.layers.compiled.swiglu import swiglu_again, swiglu_backward, swiglu_forward

__all__ = [
    "attention_backward",
    "attention_forward",
    "cross_entropy_backward",
    "cross_entropy_forward",
    "rmsnorm_backward",
    "rmsnorm_forward",
    "rope_backward",
    "rope_forward",
    "swiglu_again",
    "swiglu_backward",
    "swiglu_forward",
]
