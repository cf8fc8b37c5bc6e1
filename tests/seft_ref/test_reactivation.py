"""Oracle 4 of the twelve (test_twelve_oracles.py): who may come back, under five presets and on one run."""

from dataclasses import replace

import numpy as np
import pytest

from seft_ref.topology.csr import flat
from tests.seft_ref.rule_events import check_event, hand_matrix, watch
from tests.seft_ref.rule_runs import begin, end, one_step, short, support_of, walk

dtypes = pytest.mark.parametrize("dtype", [np.float64, np.float32], ids=["float64", "float32"])


def history(preset, dtype, monkeypatch, **changes):
    """The same run under a preset, checked against dictionaries: after every step (step, supports, slots, whether there
    was an event), and the run.
    """
    common = {"steps": 24, "evolve_every": 4, "drop_fraction": 0.4, "density": 0.15, "initial_positions": "random"}
    settings = short(preset, **{**common, **changes})
    events, run = watch(monkeypatch), begin(settings, dtype=dtype)
    start = {name: support_of(target) for name, target in run.state.targets.items()}
    seen = []
    for _, after, record in walk(run):
        if record.event is not None:
            check_event(events[-1], after, record, settings)
        supports = {name: support_of(target) for name, target in after.targets.items()}
        slots = sum(target.delta.topology.nnz for target in after.targets.values())
        back = sum(len(supports[name] - start[name]) for name in start)
        seen.append((sum(map(len, supports.values())), slots, back, record.event))
    return run, seen, start


@dtypes
def test_oracle_4_ADPT_007_unprotected_lets_nothing_come_back_and_its_delta_never_refills(dtype, monkeypatch):
    run, seen, start = history("unprotected", dtype, monkeypatch)
    full = sum(target.delta_budget for target in run.state.targets.values())
    events = [(slots, event) for _, slots, _, event in seen if event]
    assert [back for _, _, back, _ in seen] == [0] * 24
    assert all(event["reactivated"] > 0 for _, event in events)
    # every reactivation is pruned by the event that made it, and with it the slot
    assert all(event["pruned"] == event["reactivated"] == full - slots for slots, event in events)
    assert all(slots < full for slots, _ in events)
    assert all(set(flat(topology).tolist()) <= start[name] for name, (topology, _) in end(run).items())


@dtypes
def test_oracle_4_ADPT_007_without_a_refill_the_delta_of_unprotected_decays(dtype, monkeypatch):
    # d_φ follows what is left, as if an event only replaced what it drops
    settings = short("unprotected", steps=24, evolve_every=4, drop_fraction=0.4, drop_schedule="constant", density=0.15)
    run = begin(settings, dtype=dtype)
    first = sum(target.delta.topology.nnz for target in run.state.targets.values())
    sizes, state = [], run.state
    while state.step < settings.steps:
        targets = {
            name: replace(target, delta_budget=target.delta.topology.nnz) for name, target in state.targets.items()
        }
        state, record = one_step(run, replace(state, targets=targets))
        if record.event:
            sizes.append(record.event["slots"])
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < first / 2


@dtypes
def test_oracle_4_ADPT_003_seft_keeps_what_comes_back_and_its_density(dtype, monkeypatch):
    run, seen, start = history("seft", dtype, monkeypatch)
    budget = sum(target.budget for target in run.state.targets.values())
    full = sum(target.delta_budget for target in run.state.targets.values())
    after_first = [back for step, (_, _, back, _) in enumerate(seen, start=1) if step >= 4]
    assert min(after_first) > 0
    assert max(support for support, *_ in seen) <= budget
    assert all(slots > 0.75 * full for _, slots, _, _ in seen)
    final = end(run)
    assert sum(len(set(flat(topology).tolist()) - start[name]) for name, (topology, _) in final.items()) > 0
    assert sum(topology.nnz for topology, _ in final.values()) <= budget


@dtypes
def test_oracle_4_EVT_008_no_adapt_drifts_above_the_budget_until_the_end(dtype, monkeypatch):
    run, seen, _ = history("no-adapt", dtype, monkeypatch)
    budget = sum(target.budget for target in run.state.targets.values())
    assert [support for support, *_ in seen[:3]] == [budget] * 3
    assert all(support > budget for support, *_ in seen[3:])
    assert max(support for support, *_ in seen) > 1.05 * budget
    assert all(event["pruned"] == 0 for *_, event in seen if event)
    final = end(run)
    assert all(topology.nnz == run.state.targets[name].budget for name, (topology, _) in final.items())


@dtypes
def test_oracle_4_ADPT_006_literal_exceeds_the_budget_between_events_but_not_at_the_end(dtype, monkeypatch):
    run, seen, start = history("literal", dtype, monkeypatch)
    budget = sum(target.budget for target in run.state.targets.values())
    supports = [support for support, *_ in seen]
    assert supports[:3] == [budget] * 3
    assert max(supports) > budget
    assert seen[-1][2] > 0
    final = end(run)
    assert all(topology.nnz <= run.state.targets[name].budget for name, (topology, _) in final.items())
    assert sum(len(set(flat(topology).tolist()) - start[name]) for name, (topology, _) in final.items()) > 0


def nonzero(target):
    m = hand_matrix(target)
    return sum(m.weight(p) != 0 for p in m.support())


@dtypes
def test_oracle_4_ADPT_006_literal_counts_by_value(dtype):
    run = begin(short("literal", steps=24, drop_fraction=0.4, density=0.15, initial_positions="random"), dtype=dtype)
    over = 0
    for _, after, record in walk(run):
        for target in after.targets.values():
            if record.event is not None:
                assert nonzero(target) <= target.budget
            over += nonzero(target) > target.budget
    assert over > 0
