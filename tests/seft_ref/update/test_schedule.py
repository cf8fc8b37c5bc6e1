"""What happens when: drop fractions, events, learning rates, SpIEL's phases, against hand-worked tables."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seft_ref.errors import UpdateError
from seft_ref.update.schedule import drop_fraction_at, is_event, learning_rate_at, n_drop, spiel_phases
from tests.seft_ref.update.by_hand import RULES, floor_of


@pytest.mark.parametrize(
    ("step", "of", "expected"), [(0, 4, 0.2), (4, 4, 0.0), (2, 4, 0.1), (1, 3, 0.15), (2, 3, 0.05)]
)
def test_SCH_001_the_cosine_falls_to_zero(step, of, expected):
    assert drop_fraction_at(step, of, 0.2) == pytest.approx(expected, abs=1e-16)


@RULES
@given(of=st.integers(1, 10**6), data=st.data(), rate=st.floats(0, 1))
def test_SCH_001_the_formula_bit_for_bit(of, data, rate):
    step = data.draw(st.integers(0, of))
    assert drop_fraction_at(step, of, rate) == 0.5 * rate * (1 + math.cos(math.pi * step / of))


@pytest.mark.parametrize(
    ("step", "of", "rate", "slots", "expected"),
    [
        (2, 4, 0.2, 100, 10),  # half way: 0.1 of 100
        (1, 3, 0.2, 20, 3),  # 0.75 of 0.2, of 20, just below 3 in binary64
        (2, 3, 0.4, 10, 1),
        (1, 2, 1.0, 7, 3),  # 3.5
        (4, 4, 1.0, 1000, 0),
        (1, 4, 0.0, 1000, 0),
        (1, 4, 0.2, 0, 0),
        (0, 4, 1.0, 9, 9),
    ],
)
def test_SCH_002_worked_counts(step, of, rate, slots, expected):
    assert n_drop(drop_fraction_at(step, of, rate), slots) == expected


@RULES
@given(of=st.integers(1, 1000), data=st.data(), rate=st.floats(0, 1), slots=st.integers(0, 10**6))
def test_SCH_002_floor_of_fraction_times_slots(of, data, rate, slots):
    step = data.draw(st.integers(1, of))
    found = n_drop(drop_fraction_at(step, of, rate), slots)
    assert found == floor_of(drop_fraction_at(step, of, rate) * slots)
    assert 0 <= found <= slots


@pytest.mark.parametrize(
    ("total", "every", "expected"),
    [
        (60, 20, [20, 40]),
        (61, 20, [20, 40, 60]),
        (20, 20, []),
        (5, 1, [1, 2, 3, 4]),
        (7, 3, [3, 6]),
        (6, 3, [3]),
        (9, 0, []),
    ],
)
def test_SCH_003_events_follow_multiples_before_the_last_step(total, every, expected):
    assert [step for step in range(1, total + 1) if is_event(step, total, every)] == expected


@pytest.mark.parametrize(
    ("schedule", "warmup", "expected"),
    [
        ("constant", 0, [8, 8, 8, 8, 8]),
        ("constant", 2, [4, 8, 8, 8, 8]),
        ("linear", 0, [6.4, 4.8, 3.2, 1.6, 0]),
        ("linear", 1, [8, 6, 4, 2, 0]),
        ("cosine", 3, [8 / 3, 16 / 3, 8, 4, 0]),
        ("cosine", 1, [8, 4 * (1 + math.sqrt(0.5)), 4, 4 * (1 - math.sqrt(0.5)), 0]),
        ("linear", 5, [1.6, 3.2, 4.8, 6.4, 8]),
        ("cosine", 8, [1, 2, 3, 4, 5]),
    ],
)
def test_SCH_004_worked_learning_rates(schedule, warmup, expected):
    found = [learning_rate_at(step, 5, 8.0, warmup, schedule) for step in range(1, 6)]
    assert found == pytest.approx(expected, abs=1e-14)


def test_SCH_004_an_unknown_schedule_is_refused():
    with pytest.raises(UpdateError) as refused:
        learning_rate_at(1, 5, 8.0, 0, "square")
    assert refused.value.clause == "SCH-004"


@pytest.mark.parametrize(
    ("total", "every", "accumulate", "expected"),
    [
        (60, 20, 5, [(5, 5), (25, 6), (45, 6)]),
        (64, 20, 5, [(5, 5), (25, 6), (45, 6)]),
        (65, 20, 5, [(5, 5), (25, 6), (45, 6), (65, 6)]),
        (9, 3, 0, [(3, 1), (6, 1), (9, 1)]),
        (8, 3, 0, [(3, 1), (6, 1)]),
        (10, 3, 1, [(1, 1), (4, 2), (7, 2), (10, 2)]),
        (12, 5, 3, [(3, 3), (8, 4)]),
        (2, 5, 3, []),
        (5, 2, 0, [(2, 1), (4, 1)]),
    ],
)
def test_SCH_005_worked_phases(total, every, accumulate, expected):
    assert spiel_phases(total, every, accumulate) == expected


def phases_by_hand(total, every, accumulate):
    """SpIEL's trainer: a hook is on from the start, and again for every step that is a multiple of R."""
    found, on, summed = [], accumulate > 0, 0
    for step in range(1, total + 1):
        if step > 1 and step % every == 0:
            on, summed = True, 0
        summed += on
        if step % every == accumulate:
            found.append((step, summed))
            on = False
    return found


@pytest.mark.parametrize("every", range(2, 9))
def test_SCH_005_against_the_loop_of_a_trainer(every):
    for accumulate in range(every - 1):
        assert spiel_phases(40, every, accumulate) == phases_by_hand(40, every, accumulate), (
            every,
            accumulate,
        )


@pytest.mark.parametrize(("every", "accumulate"), [(20, 19), (20, 20), (20, -1), (1, 0), (2, 1)])
def test_SCH_005_other_accumulations_are_refused(every, accumulate):
    with pytest.raises(UpdateError) as refused:
        spiel_phases(60, every, accumulate)
    assert refused.value.clause == "SCH-005"


@pytest.mark.parametrize("step", [1, 3, 4])
def test_SCH_004_an_unknown_schedule_is_refused_during_warm_up_too(step):
    with pytest.raises(UpdateError) as refused:
        learning_rate_at(step, 5, 8.0, 3, "square")
    assert refused.value.clause == "SCH-004"
