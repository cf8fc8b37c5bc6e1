"""Means over seeds with 95 % intervals of Student's t, and differences paired by seed."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

MOST = 30
"""the most runs, because the table below ends there"""

# the 0.975 quantiles of Student's t for 1 to 29 degrees of freedom
T_QUANTILES = (
    *(12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281),
    *(2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860),
    *(2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452),
)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean of n values and its 95 % interval; a single value has none."""

    n: int
    mean: float
    half_width: float | None

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return self.mean - (self.half_width or 0)

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return self.mean + (self.half_width or 0)

    @property
    def excludes_zero(self) -> bool:
        """Whether there is an interval and 0 lies outside it."""
        return self.half_width is not None and not self.low <= 0 <= self.high


def estimate(values: Sequence[float]) -> Estimate:
    """Return the mean of 1 to 30 values and mean ± t · s / √n, s with n − 1 in the denominator."""
    n = len(values)
    if not 1 <= n <= MOST:
        raise ValueError(f"{n} values; there must be 1 to {MOST}")
    mean = statistics.fmean(values)
    if n == 1:
        return Estimate(1, mean, None)
    return Estimate(n, mean, T_QUANTILES[n - 2] * statistics.stdev(values) / math.sqrt(n))


def paired(values: Mapping[int, float], reference: Mapping[int, float]) -> Estimate:
    """Return the mean of value minus reference by seed, and its interval; both must have the same seeds."""
    if set(values) != set(reference):
        raise ValueError(f"seeds {sorted(values)} cannot be paired with {sorted(reference)}")
    return estimate([values[seed] - reference[seed] for seed in sorted(values)])


def paired_percent(values: Mapping[int, float], reference: Mapping[int, float]) -> Estimate:
    """Return how many per cent the geometric mean over seeds is above that of the reference, with its interval.

    Both must have the same seeds. The half width is half of the whole interval, which is not symmetric in per cent.
    """
    of = paired(*({seed: math.log(value) for seed, value in one.items()} for one in (values, reference)))
    low, mean, high = (100 * math.expm1(x) for x in (of.low, of.mean, of.high))
    return Estimate(of.n, mean, None if of.half_width is None else (high - low) / 2)


def percent_told(of: Estimate) -> str:
    """Return a per cent with its interval as text."""
    return f"{of.mean:+.1f}" + ("" if of.half_width is None else f" ± {of.half_width:.1f}")
