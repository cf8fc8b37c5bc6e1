"""Warnings of a run (TRN-011): the live form and the whole one against the clause written down as loops over a list."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from seft_ref.train.diagnose import Finding, Watch, warnings_of


def by_the_clause(losses, events, support, budget, stored_at_end):
    """Names and steps as the clause says them, each warning on its own, nothing carried along."""
    n, found = len(losses), set()
    for event in events:
        if 1 <= event <= n and support[event] > budget:
            found.add((event, "support-above-target"))
        if 5 <= event < n:
            before, after = losses[event - 5 : event], losses[event]
            rise = after - max(before)
            if rise > max(before) - min(before) and rise > 0.05 * max(before):
                found.add((event + 1, "loss-jump-after-growth"))
    means = {step: sum(losses[step - 10 : step]) / 10 for step in range(10, n + 1)}
    above = {
        step: min(list(means.values())[: step - 9])
        for step, mean in means.items()
        if mean - min(list(means.values())[: step - 9]) > 0.2 * min(list(means.values())[: step - 9])
    }
    first_with = {}
    for step, lowest in above.items():
        first_with.setdefault(lowest, step)
    found |= {(step, "divergence") for step in first_with.values()}
    if stored_at_end is not None and stored_at_end > budget:
        found.add((n, "denser-at-end"))
    return found


def names(findings):
    return [(f.step, f.name) for f in findings]


# few values, so that ties and thresholds are met; the spread of a calm run is small, so that it jumps now and then
loss_lists = st.lists(st.sampled_from([1.0, 1.0, 1.02, 1.04, 1.05, 1.08, 1.2, 1.25, 1.5, 4.0, 0.5, 0.0]), max_size=60)


@given(loss_lists, st.sets(st.integers(0, 62)), st.integers(95, 105), st.none() | st.integers(99, 101), st.data())
@example([1.0] * 9 + [4.0] * 4, {9}, 100, 101, None)
def test_TRN_011_the_clause_the_whole_form_and_the_live_form_agree(losses, events, level, stored, data):
    support = {step: level + (step % 3) - 1 for step in events}
    whole = warnings_of(losses, sorted(events), support, 100, stored)
    assert set(names(whole)) == by_the_clause(losses, events, support, 100, stored)
    assert len(set(names(whole))) == len(whole)
    assert [f.step for f in whole] == sorted(f.step for f in whole)
    watch, live = Watch(100), []
    for step, loss in enumerate(losses, start=1):
        live += watch.add_step(step, loss)
        if step in events:
            live += watch.add_event(step, support[step])
    live += watch.end(len(losses), stored) if stored is not None else []
    assert live == whole
    if data is not None and losses:
        # what a run has warned of does not depend on what comes later
        part = data.draw(st.integers(0, len(losses)))
        early = warnings_of(losses[:part], sorted(events), support, 100)
        assert early == [f for f in whole if f.step <= part and f.name != "denser-at-end"]


def test_TRN_011_the_example():
    losses = [2.0, 2.1, 2.0, 1.9, 2.0, 2.6]
    assert names(warnings_of(losses, events=[5], support={5: 90}, budget=100)) == [(6, "loss-jump-after-growth")]


CALM = [2.0, 2.1, 2.0, 1.9, 2.0]  # largest 2.1, spread 0.2


@pytest.mark.parametrize(
    ("losses", "event", "jumps"),
    [
        ([*CALM, 2.25], 5, False),  # above the largest by less than the spread
        ([*CALM, 2.31], 5, True),
        ([2.0] * 5 + [2.09], 5, False),  # above the spread of 0, but not by 5 %
        ([2.0] * 5 + [2.11], 5, True),
        ([9.0, *CALM, 2.6], 6, True),  # only 5 steps up to the event count
        ([*CALM, 2.0, 2.6], 5, False),  # not the step after the event
        (CALM, 5, False),  # an event at the last step has no loss after it
        ([2.0, 2.0, 2.0, 2.0, 9.0], 4, False),  # fewer than 5 steps up to the event
        ([9.0], 0, False),
        ([0.0] * 5 + [0.1], 5, True),
    ],
)
def test_TRN_011_a_jump(losses, event, jumps):
    found = warnings_of(losses, [event], {event: 1}, 1)
    assert names(found) == ([(event + 1, "loss-jump-after-growth")] if jumps else [])


def test_TRN_011_a_divergence_is_told_once_for_each_lowest_mean():
    up = [1.0] * 10 + [2.0] * 50
    assert names(warnings_of(up, [], {}, 1)) == [(13, "divergence")]
    assert names(warnings_of(up + [1.0] * 10 + [2.0] * 10, [], {}, 1)) == [(13, "divergence")]  # no new lowest mean
    again = warnings_of(up + [0.5] * 10 + [2.0] * 10, [], {}, 1)
    assert [f.name for f in again] == ["divergence", "divergence"]
    assert warnings_of([1.0] * 9, [], {}, 1) == warnings_of([], [], {}, 1) == []
    assert warnings_of([1.0] * 10 + [1.2] * 10, [], {}, 1) == []  # 20 % is not exceeded
    assert names(warnings_of([1.0] * 10 + [1.205] * 10, [], {}, 1)) == [(20, "divergence")]
    # the lowest mean follows each small step down
    assert names(warnings_of([1.0] * 10 + [0.95] * 10 + [1.17] * 10, [], {}, 1)) == [(29, "divergence")]


def test_TRN_011_support_and_the_end_are_compared_with_the_budget():
    assert warnings_of([1.0] * 4, [2, 4], {2: 100, 4: 100}, 100, 100) == []
    found = warnings_of([1.0] * 4, [2, 4], {2: 101, 4: 102}, 100, 101)
    assert names(found) == [(2, "support-above-target"), (4, "support-above-target"), (4, "denser-at-end")]


def test_each_warning_names_a_cause_and_what_to_try():
    losses = [1.0] * 10 + [4.0] * 5
    found = warnings_of(losses, [10], {10: 1_000_001}, 1_000_000, 1_000_001)
    assert {f.name for f in found} == {
        "support-above-target",
        "loss-jump-after-growth",
        "divergence",
        "denser-at-end",
    }
    for finding in found:
        assert "ikely cause" in finding.message, finding
        assert any(word in finding.message for word in ("Try", "set adapts")), finding
        assert "\n" not in finding.message
    assert "1,000,001" in found[0].message


def test_a_run_that_starts_in_the_middle_is_judged_by_its_own_steps():
    watch = Watch(100)
    assert [watch.add_step(step, 1.0) for step in range(41, 61)] == [[]] * 20
    assert watch.add_event(60, 100) == []
    assert names(watch.add_step(61, 1.5)) == [(61, "loss-jump-after-growth")]
    # after a gap nothing of before counts
    assert watch.add_event(61, 100) == []
    assert watch.add_step(100, 9.0) == []
    assert [watch.add_step(step, 9.0) for step in range(101, 115)] == [[]] * 14


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), 1e308, -1.0, 0.0])
def test_nothing_raises(loss):
    for finding in warnings_of([1.0] * 5 + [loss] * 20, [-3, 5, 5, 99], {5: 10**30}, 0, 10**30):
        assert isinstance(finding, Finding)
