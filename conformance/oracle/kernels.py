"""Products of matrices whose entries are rounded once, in binary64 (KRN)."""

import math

import numpy as np

from conformance.oracle.tape import Array


def product(a: Array, b: Array) -> Array:
    """Return a @ b, each entry the sum of its products by `fsum`; sums of integers need none, as they do not round."""
    if is_integral(a, b):
        return np.asarray(a @ b)
    sums = [math.fsum((row * column).tolist()) for row in a for column in b.T]
    return np.array(sums).reshape(len(a), b.shape[1])


def is_integral(*operands: Array) -> bool:
    """Return whether all entries are integers below 2²⁰, so that no sum of products of them rounds in binary64."""
    return all(np.all((x == np.rint(x)) & (np.abs(x) < 2**20)) for x in operands)
