"""What is asked of a power of β (OPT-009) and of a frequency (LYR-017): right programs pass whatever their pow is."""

import math
from fractions import Fraction
from functools import cache
from itertools import accumulate, repeat
from operator import mul

import numpy as np
import pytest

from conformance.answers import answer
from conformance.cases.case import Case, load_all
from conformance.engine.port import EnginePort
from conformance.judge.harness import Variant, run
from conformance.judge.slack import bound_of
from conformance.oracle import layers
from conformance.oracle.powers import STEP, power

AGES = 5000
BETA1, BETA2, EPS, LR = 0.9, 0.999, 1e-8, 0.125


def squaring(base, n):
    """Repeated squaring in binary64, as Go's pow does for a whole exponent."""
    found = 1.0
    while n:
        if n & 1:
            found *= base
        base *= base
        n >>= 1
    return found


@cache
def products(base):
    """The powers 1 to AGES, one product after the other."""
    return list(accumulate(repeat(base, AGES), mul))


def product(base, n):
    """One product after the other."""
    found = products(base)[min(n, AGES) - 1]
    for _ in range(n - AGES):
        found *= base
    return found


def nudged(ulps):
    """The exact power, a few last bits away, first above and then below it."""

    def found(base, n):
        p = power(base, n)
        return p + (-1) ** n * ulps * math.ulp(p)

    return found


def binary32(base, n):
    return float(np.float32(base) ** np.float32(n))


def stepping(pow_, late=0):
    """The operation adamw.step with another power, at an age that is `late` steps off."""

    def op(a):
        kind = a["values"].dtype.type
        beta1, beta2 = (a.get(k) or x for k, x in (("beta1", BETA1), ("beta2", BETA2)))
        eps, decay = a.get("eps") or EPS, a.get("weight_decay") or 0.0
        age = a["age"] + 1
        scalars = {n: (pow_(beta1, n + late), pow_(beta2, n + late)) for n in {int(x) for x in age}}
        size = np.array([a["lr"] / (1 - scalars[int(n)][0]) for n in age]).astype(kind)
        root = np.array([math.sqrt(1 - scalars[int(n)][1]) for n in age]).astype(kind)
        m = kind(beta1) * a["m"] + kind(1 - beta1) * a["gradient"]
        v = kind(beta2) * a["v"] + kind(1 - beta2) * (a["gradient"] * a["gradient"])
        values = a["values"] * kind(1 - a["lr"] * decay) - size * (m / (np.sqrt(v) / root + kind(eps)))
        return {"values": values, "m": m, "v": v, "age": age}

    return op


@pytest.fixture(scope="module")
def every_age():
    """One case with a slot of every age from 1 to 5000 after the step."""
    rng = np.random.default_rng(3)
    phi, m, g = (rng.standard_normal(AGES).astype(np.float32).astype(np.float64) for _ in range(3))
    slots = (phi * 0.01, m * 0.1, (m * 0.1) ** 2 + 1e-3, np.arange(AGES), g)
    slots = tuple(x.astype(np.float32).astype(np.float64) if x.dtype.kind == "f" else x for x in slots)
    given = dict(zip(("values", "m", "v", "age", "gradient"), slots, strict=True)) | {"lr": LR}
    given |= dict.fromkeys(("beta1", "beta2", "eps", "weight_decay"))
    made = answer("adamw.step", given)
    return Case("test.ages", "adamw.step", ("OPT-009",), "", given, dict(made.outputs), bounds=dict(made.bounds))


def failures(cases, pow_, late=0, dtypes=("float64", "float32")):
    port = EnginePort().with_ops("another pow", adamw__step=stepping(pow_, late))
    return [f for dtype in dtypes for r in run(cases, [Variant(port, dtype)]) for f in r.failures]


RIGHT = [squaring, product, nudged(1), lambda b, n: nudged(min(n, 4))(b, n)]


@pytest.mark.parametrize("pow_", RIGHT)
def test_OPT_009_right_powers_pass_at_every_age(every_age, pow_):
    assert not failures([every_age], pow_)


@pytest.mark.parametrize("pow_", [squaring, nudged(1)])
def test_OPT_009_without_the_slack_right_powers_would_fail(every_age, pow_, monkeypatch):
    # what the kit did before: the gauge alone
    monkeypatch.setattr("conformance.judge.harness.bound_of", lambda case, name: case.bounds.get(name))
    assert failures([every_age], pow_, dtypes=("float64",))


@pytest.mark.parametrize("pow_", RIGHT)
def test_OPT_009_right_powers_pass_every_frozen_case(pow_):
    cases = [case for case in load_all() if case.op == "adamw.step"]
    assert not failures(cases, pow_)


@pytest.mark.parametrize(("pow_", "late"), [(binary32, 0), (power, 1), (power, -1), (nudged(1 << 14), 0)])
def test_OPT_009_wrong_powers_fail_the_frozen_cases(pow_, late):
    def kept_above_zero(base, n):
        return pow_(base, max(n, 1))

    cases = [case for case in load_all() if case.id == "adamw.powers"]
    assert len(cases) == 1
    assert failures(cases, kept_above_zero, late, dtypes=("float64",))


@pytest.mark.parametrize("base", [0.9, 0.999, 0.5, 1 / 3, 1 - 2.0**-40])
@pytest.mark.parametrize("n", [1, 2, 16, 32, 999, 5000])
def test_OPT_009_the_oracles_power_is_the_exact_one_rounded_once(base, n):
    top, bottom = base.as_integer_ratio()
    assert power(base, n) == top**n / bottom**n


@pytest.mark.parametrize("base", [0.9, 0.999])
def test_OPT_009_products_and_squaring_keep_the_stated_error(base):
    exact = Fraction(base)
    for n in (*range(1, 40), 100, 511, 512, 2047):
        for found in (squaring(base, n), product(base, n), base**n):
            assert abs(Fraction(found) / exact**n - 1) <= n * Fraction(STEP)


def test_OPT_009_exact_powers_are_exact():
    for n in range(1, 30):
        assert squaring(0.75, n) == product(0.75, n) == power(0.75, n) == 3.0**n / 4.0**n


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("part", "passes"), [(0.9 * 2.0**-50, True), (2.0**-38, False)])
def test_LYR_017_a_frequency_may_be_off_by_a_few_last_bits(dtype, part, passes):
    def turned(a):
        f = np.array(layers.frequencies(a["x"].shape[3], a["rope"], a["x"].shape[1]))
        angle = np.outer(np.arange(a["x"].shape[1]), f * (1 + part))
        cos, sin = (t(angle).astype(a["x"].dtype)[None, :, None, :] for t in (np.cos, np.sin))
        half, out = len(f), {}
        for name, z, turn in (("y", a["x"], sin), ("dx", a["dy"], -sin)):
            one, two = z[..., :half], z[..., half:]
            out[name] = np.concatenate([one * cos - two * turn, two * cos + one * turn], axis=-1)
        return out

    cases = [case for case in load_all() if case.op == "layer.rope"]
    port = EnginePort().with_ops("another pow", layer__rope=turned)
    failed = {r.case.id for r in run(cases, [Variant(port, dtype)]) if r.failures}
    assert not failed if passes else dtype == "float32" or "rope.powers" in failed


def test_the_slack_of_a_case_is_no_part_of_its_file():
    case = next(c for c in load_all() if c.id == "adamw.powers")
    assert case.bounds["values"].slack == 0
    bound = bound_of(case, "values")
    assert np.all(bound.slack > 0)
    assert np.all(bound.slack < 1e-11)
    assert bound_of(case, "m") is case.bounds["m"]
