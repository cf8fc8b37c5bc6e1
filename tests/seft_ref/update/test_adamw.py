"""AdamW against a loop a slot at a time, and against the one of torch."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seft_ref.update import optimizers
from seft_ref.update.optimizers import AdamW, SpielAdamW, clip_factor
from tests.seft_ref.update.by_hand import (
    F32,
    F64,
    LIBRARIES,
    PARTS,
    RULES,
    Matrix,
    Slot,
    adamw_by_hand,
    bits,
    library_id,
    listed,
    part_of,
)

libraries = pytest.mark.parametrize("library", LIBRARIES, ids=library_id)
VALUES = st.floats(-8, 8, width=32, allow_subnormal=False)
SLOTS = st.builds(Slot, VALUES, VALUES, st.floats(0, 64, width=32, allow_subnormal=False), st.integers(0, 40))


def deltas(library, slots):
    return Matrix((5, 7), {}, dict(enumerate(slots))).arrays(library)[1]


@libraries
@RULES
@given(
    slots=st.lists(st.tuples(SLOTS, VALUES), max_size=12),
    decay=st.sampled_from([0.0, 0.1]),
    lr=st.floats(0, 1),
)
def test_OPT_001_OPT_002_slot_by_slot_bit_for_bit(library, slots, decay, lr):
    settings = AdamW(beta1=0.8, beta2=0.95, eps=1e-6, weight_decay=decay)
    delta = deltas(library, [slot for slot, _ in slots])
    found = settings.step(delta, library.floats(g for _, g in slots), lr)
    expected = deltas(
        library,
        [adamw_by_hand(s, g, lr, library.dtype, beta1=0.8, beta2=0.95, eps=1e-6, decay=decay) for s, g in slots],
    )
    for part in PARTS:
        assert bits(part_of(found, part)) == bits(part_of(expected, part)), part
        assert part_of(found, part).dtype == part_of(delta, part).dtype
    assert set(found.kept) == set(delta.kept)
    assert found.topology is delta.topology


@pytest.mark.parametrize(("library", "bound"), [(F64, 1e-13), (F32, 1e-5)], ids=["float64", "float32"])
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_OPT_001_without_replacement_it_is_the_AdamW_of_torch(library, bound, decay):
    rng = np.random.default_rng(3)
    start = rng.normal(size=11).astype(library.dtype)
    parameter = torch.nn.Parameter(torch.from_numpy(start.copy()))
    peer = torch.optim.AdamW([parameter], lr=0.01, weight_decay=decay, foreach=False)
    delta = deltas(library, [Slot(x) for x in start])
    for step in range(1, 101):
        # large and small gradients, and slots that see none at all
        gradient = (rng.normal(size=11) * 10.0 ** rng.integers(-6, 3, 11) * (np.arange(11) % 5 > 0)).astype(
            library.dtype
        )
        lr = 0.01 / step**0.5
        peer.param_groups[0]["lr"] = lr
        parameter.grad = torch.from_numpy(gradient.copy())
        peer.step()
        delta = AdamW(weight_decay=decay).step(delta, gradient, lr)
        error = np.max(np.abs(delta.values - parameter.detach().numpy()))
        assert error <= bound
    assert listed(delta.kept["age"]) == [100] * 11


@libraries
def test_OPT_005_the_first_update_of_a_new_slot(library):
    lr, eps = 0.125, 1e-8
    gradient = [3.0, -3.0, 1e-3, -1e-9, 1e-8, 0.0, 2.0**20]
    delta = AdamW().step(deltas(library, [Slot()] * 7), library.floats(gradient), lr)
    expected = [-lr * g / (abs(g) + eps) for g in gradient]
    assert listed(delta.values) == pytest.approx(expected, rel=1e-5 if library.dtype is np.float32 else 1e-12)
    assert listed(delta.kept["age"]) == [1] * 7


@libraries
def test_OPT_005_a_new_slot_beside_old_ones(library):
    delta = deltas(library, [Slot(0.5, 0.1, 0.2, 999), Slot()])
    found = AdamW().step(delta, library.floats([1.0, 1.0]), 0.5)
    assert listed(found.values)[1] == pytest.approx(-0.5, rel=1e-5)
    assert listed(found.kept["age"]) == [1000, 1]


@libraries
def test_OPT_001_a_slot_without_gradient_keeps_its_value_and_grows_older(library):
    found = AdamW().step(deltas(library, [Slot(0.5), Slot(-0.0)]), library.floats([0, 0]), 0.5)
    assert listed(found.values) == [0.5, 0.0]
    assert listed(found.kept["age"]) == [1, 1]


@libraries
def test_OPT_003_decay_comes_before_the_update_and_pulls_phi_to_zero(library):
    settings = AdamW(weight_decay=0.5)
    found = settings.step(deltas(library, [Slot(8.0), Slot(8.0)]), library.floats([0, 4.0]), 0.5)
    # 8 · (1 − 0.25) = 6; then the first update of a slot, −0.5
    assert listed(found.values) == pytest.approx([6.0, 5.5], rel=1e-6)


def test_OPT_003_defaults():
    assert AdamW() == AdamW(beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0)


@libraries
def test_OPT_001_an_empty_delta(library):
    found = AdamW().step(deltas(library, []), library.floats([]), 0.1)
    assert listed(found.values) == listed(found.kept["age"]) == []


@libraries
def test_OPT_001_nothing_is_written_to_the_arguments(library):
    delta, gradient = deltas(library, [Slot(1.0, 2.0, 3.0, 4)]), library.floats([1.0])
    before = [bits(x) for x in (*(part_of(delta, part) for part in PARTS), gradient)]
    AdamW(weight_decay=0.1).step(delta, gradient, 0.1)
    assert [bits(x) for x in (*(part_of(delta, part) for part in PARTS), gradient)] == before


@pytest.mark.parametrize(
    ("squares", "max_norm", "expected"),
    [
        (25.0, 0, 1.0),
        (25.0, 10.0, 1.0),
        (25.0, 2.5, 2.5 / 5.000001),
        (0.0, 1.0, 1.0),
        (1.0, 1.0, 1 / 1.000001),
        (1e300, 1.0, 1 / (1e150 + 1e-6)),
    ],
)
def test_OPT_004_the_clip_factor(squares, max_norm, expected):
    assert clip_factor(squares, max_norm) == expected


def test_OPT_004_it_is_the_clipping_of_torch():
    rng = np.random.default_rng(1)
    for scale in (0.01, 1.0, 100.0):
        gradients = [rng.normal(size=n) * scale for n in (3, 5, 8)]
        parameters = [torch.nn.Parameter(torch.zeros(len(g), dtype=torch.float64)) for g in gradients]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = torch.from_numpy(gradient.copy())
        torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=False)
        factor = clip_factor(math.fsum(float(g @ g) for g in gradients), 1.0)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            np.testing.assert_allclose(parameter.grad.numpy(), gradient * factor, rtol=1e-14)


@libraries
@pytest.mark.parametrize("kind", [AdamW, SpielAdamW])
def test_OPT_002_scalars_are_evaluated_for_the_ages_that_occur_and_no_others(library, kind, monkeypatch):
    asked = []

    def per_age(age, like, *scalars):
        def listening(scalar):
            return lambda a: asked.append(a) or scalar(a)

        return real(age, like, *map(listening, scalars))

    real = optimizers._per_age
    monkeypatch.setattr(optimizers, "_per_age", per_age)
    kind().step(deltas(library, [Slot(age=99_999), Slot(age=3), Slot(age=99_999)]), library.floats([1, 1, 1]), 0.1)
    assert sorted(asked) == [4, 4, 100_000, 100_000]
