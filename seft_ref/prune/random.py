"""Random pruning: the scores are random draws, so the mask does not depend on the weights (PRN-017)."""

from jaxtyping import Float

from seft_ref.arrays.library import Array, from_numpy
from seft_ref.arrays.rng import STREAM_PRUNING, counter_key, uniform


def random_scores(shape: tuple[int, int], seed: int, matrix: int, like: Array) -> Float[Array, "out in_"]:
    """Return a score in [0, 1) for every weight of a matrix, binary64, on the device of `like` (PRN-017)."""
    n_out, n_in = shape
    draws = uniform(counter_key(seed, STREAM_PRUNING, matrix), range(n_out * n_in))
    return from_numpy(draws.reshape(shape), like)
