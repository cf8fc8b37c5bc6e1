"""The norm of an event's gradient, and evidence that cannot be used (EVT-005, TRN-009)."""

import math

import numpy as np
import pytest

from seft_ref.errors import UpdateError
from seft_ref.matrix.evidence import View, evidence
from seft_ref.matrix.window import Window
from seft_ref.topology.csr import from_flat
from seft_ref.update.delta import Base, new_delta
from seft_ref.update.evidence import finite_norm
from seft_ref.update.pools import pools_of
from seft_ref.update.rules import Rule


def exact_norm(values):
    """By Python's hypot, which scales."""
    return math.hypot(*(float(x) for x in values))


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30, 2.0**-126, 2.0**-149, 1e18, 0.0], ids=str)
@pytest.mark.parametrize("n", [0, 1, 255, 256, 257, 20_000])
def test_TRN_009_the_norm_neither_overflows_nor_underflows(backend, n, scale):
    values = backend.numpy(backend.array(np.random.default_rng(n).normal(size=n) * scale))
    found, expected = finite_norm(backend.array(values)), exact_norm(values)
    assert found == pytest.approx(expected, rel=1e-9 if values.dtype == np.float64 else 1e-5, abs=0)


def test_TRN_009_one_large_entry_among_small_ones(backend):
    values = np.ones(600)
    values[311] = 2.0**66
    assert finite_norm(backend.array(values)) == 2.0**66


def test_TRN_009_squares_beyond_binary64():
    assert finite_norm(np.asarray([3 * 2.0**1000, 4 * 2.0**1000])) == 5 * 2.0**1000
    assert finite_norm(np.asarray([3 * 2.0**-1060, 4 * 2.0**-1060])) == 5 * 2.0**-1060
    with pytest.raises(UpdateError, match="EVT-005"):
        finite_norm(np.full(4, 2.0**1023))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 300, 599])
def test_EVT_005_an_entry_that_is_not_finite_has_no_norm(backend, bad, at):
    values = np.full(600, 1e30)
    values[at] = bad
    with pytest.raises(UpdateError, match="EVT-005"):
        finite_norm(backend.array(values))


def whole(backend, bad, name):
    """A view of a 3 by 4 matrix whose base is the first row, with one bad entry of the evidence in the last."""
    values = np.ones((3, 4))
    values[2, 3] = bad
    good, spoilt = backend.array(np.ones((3, 4))), backend.array(values)
    kept = {n: spoilt if n == name else good for n in ("gradient", "absolute", "square")}
    h = backend.array(np.asarray([1.0, 1.0, 1.0, 0.0]))
    base = Base(from_flat((3, 4), backend.array(np.arange(4))), backend.array(np.ones(4)))
    asked = frozenset({"gradient", "absolute", "square", "inputs"})
    window = Window((3, 4), asked, 1, input_squares=h, n_inputs=1, **kept)
    return View(window, base, new_delta((3, 4), backend.array(np.asarray([1])), base.values))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["gradient", "absolute", "square"])
@pytest.mark.parametrize(
    "rule",
    [Rule(grow="random"), Rule(grow="curvature"), Rule(grow_scope="active"), Rule(scope="row", grow="absolute")],
    ids=["random", "dead", "active", "row"],
)
@pytest.mark.parametrize("over", [False, True], ids=["grows", "growth-over"])
def test_EVT_005_evidence_that_is_asked_for_is_looked_at_everywhere(backend, bad, name, rule, over):
    if backend.name == "strict-no_float64" and rule.grow == "random" and not over:
        pytest.skip("random scores are binary64")
    pools = pools_of(rule, (3, 4), (), ())
    n = None if over else backend.array(np.zeros(pools.slots.n_pools, dtype=np.int64))
    (seen,) = evidence([whole(backend, 1.0, name)], rule, n, pools=pools)
    assert seen.gradient_norm == pytest.approx(math.sqrt(12))
    with pytest.raises(UpdateError, match="EVT-005"):
        evidence([whole(backend, bad, name)], rule, n, pools=pools)
