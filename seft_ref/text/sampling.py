"""Picks the next token: the largest logit, or a draw among those that top-k and top-p leave (GEN-003 to GEN-006)."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from seft_ref.arrays.library import Array, binary64, overflow_allowed
from seft_ref.arrays.rng import STREAM_PICKS, counter_key, uniform
from seft_ref.errors import GenerateError


@dataclass(frozen=True, slots=True)
class Sampling:
    """Settings by which a token is picked from logits.

    Raises:
        GenerateError: GEN-006 for a value out of range; ConfigError RNG-002 for the seed.
    """

    temperature: float = 0.0
    """0 always picks the largest logit, whatever the other settings"""
    top_k: int | None = None
    """how many of the largest logits stay; None for all"""
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        # GEN-006
        if not 0 <= self.temperature < math.inf:
            raise GenerateError("GEN-006", f"temperature is {self.temperature}; it is a number from 0 up")
        if self.top_k is not None and self.top_k < 1:
            raise GenerateError("GEN-006", f"top_k is {self.top_k}; keep at least 1 token, or leave it out to keep all")
        if not 0 < self.top_p <= 1:
            raise GenerateError("GEN-006", f"top_p is {self.top_p}; it lies above 0 and is at most 1")
        counter_key(self.seed)


GREEDY = Sampling()
"""Settings that always pick the largest logit."""
VARIED = Sampling(temperature=0.9, top_p=0.95)
"""Settings for a text to read, because the likeliest tokens soon repeat. One seed gives the same text every time."""


def pick(logits: Float[Array, " V"], sampling: Sampling, number: int) -> int:
    """Return the id of the token that follows `number` tokens.

    Raises:
        GenerateError: GEN-006 for a logit that is NaN or infinite.
    """
    scores = binary64(logits)
    # GEN-006
    if not np.isfinite(scores).all():
        raise GenerateError("GEN-006", "a logit is NaN or infinite; is the model damaged?")
    # GEN-003
    if sampling.temperature == 0:
        return int(np.argmax(scores))
    ids = _largest_first(scores, sampling.top_k)
    # GEN-004
    with overflow_allowed():
        weights = np.exp((scores[ids] - scores[ids[0]]) / sampling.temperature)
    sums = np.cumsum(weights)
    n_kept = int(np.argmax(sums >= sampling.top_p * sums[-1])) + 1
    # GEN-005
    (u,) = uniform(counter_key(sampling.seed, STREAM_PICKS), [number])
    return int(ids[np.argmax(sums > u * sums[n_kept - 1])])


def _largest_first(scores: Float[Array, " V"], k: int | None) -> Int[Array, " k"]:
    """Return the ids of the k largest scores, largest first, ties to the lower id (SEL-001); all ids if k is None."""
    n = scores.shape[0]
    ids = np.arange(n)
    if k is not None and k < n:
        # partition first, because sorting a whole vocabulary is slower; all scores equal to the k-th stay for the ties
        ids = np.flatnonzero(scores >= np.partition(scores, n - k)[n - k])
    return ids[np.argsort(-scores[ids], kind="stable")][:k]
