"""Float arithmetic with subnormal numbers and one rounding per operation (NUM-006), which XLA on a CPU does not offer.

XLA flushes subnormal operands and results to zero, in comparisons too, and fuses a · b + c into one operation. But it
moves numbers bit for bit. So this module compares numbers as integers, and adds and multiplies small ones as integers.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

import seft_ports.jax.wide  # noqa: F401  64-bit numbers, or an error that says how

__all__ = ["Lifted", "key", "lifted", "plus", "rounded", "times"]


def _constants(x: Array) -> tuple[int, int, int]:
    """Return for the dtype of x its bits, its fraction bits, and the exponent of its smallest subnormal number."""
    info = jnp.finfo(x.dtype)
    return info.bits, info.nmant, info.minexp - info.nmant


def _bits(x: Array) -> Array:
    """Return the bits of floats as uint64."""
    return lax.bitcast_convert_type(x, f"uint{8 * x.dtype.itemsize}").astype(jnp.uint64)


def _from_bits(bits: Array, like: Array) -> Array:
    return lax.bitcast_convert_type(bits.astype(f"uint{8 * like.dtype.itemsize}"), like.dtype)


def key(x: Array) -> Array:
    """Return signed integers whose order is that of the floats x; both zeros become 0 (SEL-004)."""
    kind = jnp.dtype(f"int{8 * x.dtype.itemsize}")
    bits = lax.bitcast_convert_type(x, kind)
    return jnp.where(bits < 0, jnp.array(jnp.iinfo(kind).min, kind) - bits, bits)


def rounded(x: Array) -> Array:
    """Return the product x unchanged, in a form that XLA cannot fuse with the sum that uses it (NUM-006).

    lax.optimization_barrier, lax.reduce_precision and a bitcast there and back do not prevent the fusion.
    """
    return jnp.where(x != x, jnp.nan, x)


def plus(a: Array, b: Array) -> Array:
    """Return a + b, rounded once, subnormal numbers included."""
    _, fraction, least = _constants(a)
    lift = 64
    # above the limit a subnormal operand cannot change the sum; below it, the lifted sum is never subnormal
    small = (key(jnp.abs(a)) < _limit(a, lift)) & (key(jnp.abs(b)) < _limit(a, lift))
    lifted = _lifted(a, lift) + _lifted(b, lift)
    # a subnormal sum is exact, because it is a multiple of the smallest subnormal number
    units = (jnp.abs(lifted) * 2.0 ** (-least - lift)).astype(jnp.uint64)
    sign = _bits(lifted) >> (a.dtype.itemsize * 8 - 1) << (a.dtype.itemsize * 8 - 1)
    subnormal = jnp.abs(lifted) < 2.0 ** (least + fraction + lift)
    lowered = jnp.where(subnormal, _from_bits(units | sign, a), lifted * 2.0**-lift)
    return jnp.where(small, lowered, a + b)


def _limit(like: Array, lift: int) -> Array:
    _, fraction, least = _constants(like)
    return key(jnp.array(2.0 ** (least + fraction + lift), like.dtype))


class Lifted(NamedTuple):
    """A number as x · scale, where x is normal unless it is 0."""

    x: Array
    scale: Array


def lifted(x: Array, lift: int) -> Lifted:
    """Return x for normal numbers, and subnormal ones as x · 2^lift with the scale 2^−lift, exactly."""
    _, fraction, _ = _constants(x)
    small = _bits(jnp.abs(x)) < 1 << fraction
    scale = jnp.where(small, jnp.array(2.0**-lift, x.dtype), jnp.array(1, x.dtype))
    return Lifted(jnp.where(small, _lifted(x, lift), x), scale)


def _lifted(x: Array, lift: int) -> Array:
    """Return x · 2^lift for small x, exactly."""
    bits, fraction, least = _constants(x)
    magnitude = _bits(jnp.abs(x))
    units = magnitude.astype(x.dtype) * jnp.array(2.0 ** (least + lift), x.dtype)
    signed = jnp.where(_bits(x) >> (bits - 1) == 1, -units, units)
    return jnp.where(magnitude < 1 << fraction, signed, x * 2.0**lift)


def times(a: Array, b: Array) -> Array:
    """Return a · b, rounded once, subnormal numbers included."""
    bits, fraction, least = _constants(a)
    plain = a * b
    fits = (_bits(jnp.abs(a)) >> fraction > 0) & (_bits(jnp.abs(b)) >> fraction > 0)
    fits &= _bits(jnp.abs(plain)) >> fraction > 1
    finite = jnp.isfinite(a) & jnp.isfinite(b)
    sign = (_bits(a) ^ _bits(b)) >> (bits - 1) << (bits - 1)
    (ma, ea), (mb, eb) = _parts(a), _parts(b)
    high, low = _wide_product(ma, mb)
    length = 128 - jnp.where(high > 0, lax.clz(high), 64 + lax.clz(low)).astype(jnp.int64)
    exponent = ea + eb
    shift = jnp.clip(jnp.maximum(least - exponent, length - fraction - 1), 0, 127)
    mantissa = _shifted_to_even(high, low, shift.astype(jnp.uint64))
    # a plain + is right, because a carry out of the fraction must raise the exponent by one
    steps = jnp.where(mantissa > 0, exponent + shift - least, 0)
    whole = (jnp.maximum(steps, 0).astype(jnp.uint64) << fraction) + mantissa
    whole = jnp.minimum(whole, _bits(jnp.array(jnp.inf, a.dtype)))
    return jnp.where(fits | ~finite, plain, _from_bits(whole | sign, a))


def _parts(x: Array) -> tuple[Array, Array]:
    """Return integers m and e with |x| = m · 2^e."""
    _, fraction, least = _constants(x)
    bits = _bits(jnp.abs(x))
    field = (bits >> fraction).astype(jnp.int64)
    low = bits & jnp.uint64((1 << fraction) - 1)
    return jnp.where(field > 0, low | jnp.uint64(1 << fraction), low), jnp.maximum(field, 1) - 1 + least


def _wide_product(a: Array, b: Array) -> tuple[Array, Array]:
    """Return the high and the low 64 bits of the 128-bit product of two uint64."""
    mask = jnp.uint64(0xFFFFFFFF)
    a0, a1, b0, b1 = a & mask, a >> 32, b & mask, b >> 32
    low = a0 * b0
    first = a1 * b0 + (low >> 32)
    second = a0 * b1 + (first & mask)
    return a1 * b1 + (first >> 32) + (second >> 32), (second << 32) | (low & mask)


def _shifted_to_even(high: Array, low: Array, n: Array) -> Array:
    """Return the 128 bits shifted right by n, rounded to nearest, ties to even; the result fits 64 bits."""
    one = jnp.uint64(1)
    before = n - jnp.minimum(n, one)
    truncated, half = _shifted(high, low, n), (n > 0) & (_shifted(high, low, before) & one == 1)
    below = jnp.where(
        before < 64,
        low & ((one << before) - one),
        low | (high & ((one << (before - jnp.minimum(before, jnp.uint64(64)))) - one)),
    )
    return truncated + (half & ((below > 0) | (truncated & one == 1))).astype(jnp.uint64)


def _shifted(high: Array, low: Array, n: Array) -> Array:
    # 0 and 64 need no special case, because a shift by the width or more gives 0 in XLA
    far = jnp.uint64(64)
    return jnp.where(n < far, (low >> n) | (high << (far - n)), high >> (n - far))
