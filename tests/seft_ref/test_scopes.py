"""What is compared with what (EVT-009): rows, groups, the whole model; and every event against dictionaries."""

from collections import Counter

import numpy as np
import pytest

from seft_ref.errors import ConfigError
from seft_ref.topology.csr import flat
from seft_ref.topology.nm import NMTopology
from seft_ref.train.settings import TrainSettings, settings_of
from seft_ref.update.criteria import GROW, Chance
from seft_ref.update.rules import Rule
from tests.seft_ref.rule_events import check_end, check_event, hand_matrix, watch
from tests.seft_ref.rule_runs import begin, end, short, support_of, through_file, walk

PATTERNS = [(2, 4), (1, 4), (4, 8), (3, 5)]
DTYPES = [np.float32, np.float64]
pattern_id = "{0[0]}:{0[1]}".format

RULES = {
    "seft": {},
    "literal": {"preset": "literal"},
    "unprotected": {"preset": "unprotected"},
    "active-only": {"preset": "active-only"},
    "no-adapt": {"preset": "no-adapt"},
    "magnitude": {"preset": "magnitude"},
    "rigl": {"preset": "rigl"},
    "set": {"preset": "set"},
    "spiel-ma": {"preset": "spiel-ma", "evolve_every": 4},
    "exempt-slots": {"exempt": "slots"},
    "no-regrow": {"regrow": False},
    "random": {"drop": "random", "grow": "random", "adapt": "random", "seed": 3},
    "fisher": {"drop": "fisher", "grow": "fisher", "adapt": "activation", "gradient_window": 2},
    "curvature": {"drop": "change", "grow": "curvature", "adapt": "curvature", "gradient_window": 3},
    "tokens": {"adapt": "token-fisher"},
    "row-tokens": {"scope": "row", "adapt": "token-fisher", "gradient_window": 3},
    "mean-magnitude": {"adapt": "absolute", "gradient_window": 2},
    "model-mean-square": {"scope": "model", "adapt": "fisher", "gradient_window": 3},
    "absolute": {"grow": "absolute", "gradient_window": 3, "optimizer": "sgd", "lr": 0.5},
    "drops-weight": {"drops": "weight", "drop": "change"},
    "seeded-adamw": {"moments": "seeded", "gradient_window": 3},
    "seeded-spiel-adamw": {"moments": "seeded", "gradient_window": 2, "optimizer": "spiel-adamw", "scope": "row"},
    "seeded-sgd": {"moments": "seeded", "gradient_window": 3, "optimizer": "sgd", "lr": 0.5, "drop": "change"},
    "seeded-random": {"moments": "seeded", "grow": "random", "scope": "model"},
    "seeded-active": {"moments": "seeded", "grow_scope": "active", "gradient_window": 2},
    "row": {"scope": "row"},
    "row-change": {"scope": "row", "drop": "change", "grow": "absolute", "adapt": "activation"},
    "row-random": {"scope": "row", "drop": "random", "grow": "random", "adapt": "random"},
    "row-active": {"scope": "row", "grow_scope": "active"},
    "row-values": {"scope": "row", "counts": "values", "exempt": "none"},
    "row-no-regrow": {"scope": "row", "regrow": False},
    "model": {"scope": "model"},
    "model-fisher": {"scope": "model", "drop": "fisher", "grow": "fisher", "adapt": "curvature"},
    "model-random": {"scope": "model", "drop": "random", "grow": "random", "adapt": "random"},
    "model-active": {"scope": "model", "grow_scope": "active"},
    "model-values": {"scope": "model", "counts": "values", "exempt": "none"},
    "model-rigl": {"preset": "rigl", "scope": "model"},
    "group": {"scope": "group", "pattern": (2, 4), "density": 0.25},
    "group-random": {"scope": "group", "pattern": (1, 4), "density": 0.2, "drop": "random", "grow": "random"},
    "group-activation": {"scope": "group", "pattern": (3, 5), "density": 0.3, "adapt": "activation"},
    "active-pattern": {"pattern": (4, 8), "density": 0.2},
}
WIDE = (
    "seft", "magnitude", "rigl", "spiel-ma", "random", "fisher", "curvature", "tokens", "mean-magnitude",
    "model-mean-square", "absolute", "drops-weight", "seeded-adamw", "seeded-spiel-adamw", "seeded-sgd", "row-change",
    "group-activation", "active-pattern",
)  # fmt: skip
"""Every criterion, optimizer and scope: what a rule compares is the same for both dtypes, how it is computed is not."""


@pytest.mark.parametrize(
    ("name", "dtype"),
    [*((name, np.float32) for name in RULES), *((name, np.float64) for name in WIDE)],
)
def test_EVT_009_every_event_of_a_run_is_that_of_dictionaries(name, dtype, monkeypatch):
    settings = short(**{"steps": 10, "evolve_every": 3, **RULES[name]})
    events = watch(monkeypatch)
    run = begin(settings, dtype=dtype)
    moved = 0
    for _, after, record in walk(run):
        if record.event is not None:
            done = check_event(events[-1], after, record, settings)
            moved += sum(len(did.grown) for did in done)
    assert len(events) >= 2
    assert moved > 0
    check_end(run)


AT_END = {
    "sensitivity": {"preset": "no-adapt"},
    "magnitude": {"adapts": "end", "adapt": "magnitude"},
    "activation": {"adapts": "end", "adapt": "activation", "exempt": "slots"},
    "curvature": {"adapts": "end", "adapt": "curvature"},
    "random": {"adapts": "end", "adapt": "random", "seed": 4},
    "tokens": {"adapts": "end", "adapt": "token-fisher"},
    "mean-square": {"adapts": "end", "adapt": "fisher"},
    "values": {"preset": "literal"},
    "row": {"scope": "row", "adapts": "end"},
    "row-values": {"scope": "row", "preset": "literal", "adapt": "curvature", "density": 0.3},
    "model": {"scope": "model", "adapts": "end"},
    "model-random": {"scope": "model", "adapts": "end", "adapt": "random"},
    "model-values": {"scope": "model", "preset": "literal", "adapt": "activation"},
}


@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])
@pytest.mark.parametrize("name", AT_END)
def test_EVT_004_the_last_pass_is_that_of_dictionaries(name, dtype):
    run = begin(short(**AT_END[name]), dtype=dtype)
    for _ in walk(run):
        pass
    assert sum(map(len, check_end(run))) > 0


def per_row(topology_positions, shape):
    """How many positions each row has, by a loop."""
    counts = [0] * shape[0]
    for p in topology_positions:
        counts[p // shape[1]] += 1
    return counts


@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])
@pytest.mark.parametrize("changes", [{}, {"adapt": "random"}, {"grow": "random"}, {"preset": "magnitude"}], ids=str)
def test_EVT_009_scope_row_holds_every_row_at_its_budget(changes, dtype):
    run = begin(short(**{"scope": "row", "evolve_every": 2, **changes}), dtype=dtype)
    start = {n: per_row(support_of(t), t.base.topology.shape) for n, t in run.state.targets.items()}
    slots = {n: per_row(flat(t.delta.topology).tolist(), t.base.topology.shape) for n, t in run.state.targets.items()}
    assert all(t.row_budget.tolist() == start[n] for n, t in run.state.targets.items())
    pruned = 0
    for _, after, record in walk(run):
        pruned += record.event["pruned"] if record.event else 0
        for name, target in after.targets.items():
            shape = target.base.topology.shape
            assert all(np.array(per_row(support_of(target), shape)) <= start[name]), name
            now = per_row(flat(target.delta.topology).tolist(), shape)
            assert all(np.array(now) <= slots[name]), name
    assert pruned > 0
    for name, (topology, _) in end(run).items():
        assert all(np.diff(topology.indptr) <= start[name])


def test_EVT_009_without_scope_row_rows_exceed_theirs():
    run = begin(short(evolve_every=2))
    start = {n: per_row(support_of(t), t.base.topology.shape) for n, t in run.state.targets.items()}
    *_, (_, after, _) = walk(run)
    assert any(
        now > then
        for n, t in after.targets.items()
        for now, then in zip(per_row(support_of(t), t.base.topology.shape), start[n], strict=True)
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])
def test_EVT_009_scope_model_keeps_the_total_and_moves_slots_between_matrices(dtype):
    run = begin(short(scope="model", evolve_every=2), dtype=dtype)
    total = sum(len(support_of(t)) for t in run.state.targets.values())
    slots = {n: t.delta.topology.nnz for n, t in run.state.targets.items()}
    for _, after, _ in walk(run):
        assert sum(len(support_of(t)) for t in after.targets.values()) <= total
        assert sum(t.delta.topology.nnz for t in after.targets.values()) <= sum(slots.values())
    sizes = {n: len(support_of(t)) for n, t in after.targets.items()}
    assert any(size > run.state.targets[n].budget for n, size in sizes.items())
    assert any(t.delta.topology.nnz != slots[n] for n, t in after.targets.items())
    assert sum(topology.nnz for topology, _ in end(run).values()) <= total


def test_EVT_009_scope_model_is_one_sort_over_the_concatenation(monkeypatch):
    settings = short(scope="model", drop_fraction=0.5)
    events = watch(monkeypatch)
    run = begin(settings, dtype=np.float64)
    for _, after, record in walk(run):
        if record.event is None:
            continue
        # written apart from `hand_event`: arrays laid end to end, NumPy's stable sort
        seen = events.pop()
        offset = np.cumsum([0, *(m.shape[0] * m.shape[1] for m in seen.matrices)])
        ids = np.concatenate([[offset[i] + p for p in sorted(m.phi)] for i, m in enumerate(seen.matrices)]).astype(int)
        phi = np.concatenate([[m.phi[p] for p in sorted(m.phi)] for m in seen.matrices])
        n = int(settings.timetable().fraction(after.step) * len(ids) + 2.0**-20)
        dropped = set(ids[np.argsort(np.abs(phi), kind="stable")[:n]].tolist())
        strength = np.concatenate([np.abs(s.mean) for s in seen.seen])
        strength[sorted(set(ids.tolist()) - dropped)] = -1
        n_grow = n + sum(m.delta_budget for m in seen.matrices) - len(ids)
        grown = set(np.argsort(-strength, kind="stable")[:n_grow].tolist())
        now = {offset[i] + p for i, t in enumerate(after.targets.values()) for p in flat(t.delta.topology).tolist()}
        # adaptation only takes away from it
        assert now <= (set(ids.tolist()) - dropped) | grown
        assert record.event["dropped"] == n
        assert record.event["grown"] == len(grown - set(ids.tolist()))
        assert grown - set(ids.tolist()) <= now
    assert not events


@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])
@pytest.mark.parametrize("pattern", PATTERNS, ids=pattern_id)
def test_EVT_009_scope_group_holds_n_of_m_while_the_pattern_moves(pattern, dtype, monkeypatch):
    n, m = pattern
    settings = short(scope="group", pattern=pattern, density=0.1 + 0.1 * n / m, evolve_every=2)
    run = begin(settings, dtype=dtype)
    start = {name: support_of(t) for name, t in run.state.targets.items()}

    def groups(positions):
        found = {}
        for p in positions:
            found.setdefault(p // m, set()).add(p % m)
        return found

    for _, after, _ in walk(run):
        for name, target in after.targets.items():
            assert max(map(len, groups(support_of(target)).values())) <= n, name
            assert isinstance(target.base.topology, NMTopology)
            assert target.base.topology.pattern == pattern
            assert target.base.topology.nnz == target.base.values.shape[0] == len(target.base.topology.indices)
    final = end(run)
    changed = 0
    for name, (topology, values) in final.items():
        before, now = groups(start[name]), groups(flat(topology).tolist())
        assert max(map(len, now.values())) <= n
        assert topology.nnz == values.shape[0]
        changed += sum(before[g] != now.get(g, set()) for g in before)
    assert changed > 0
    # a group has really gained a column that it lacked
    gained = [n for n, (topology, _) in final.items() if set(flat(topology).tolist()) - start[n]]
    assert gained


@pytest.mark.parametrize("pattern", PATTERNS, ids=pattern_id)
def test_EVT_009_EVT_007_groups_that_store_fewer_than_n_never_store_more_than_at_load(pattern, monkeypatch, tmp_path):
    m = pattern[1]
    settings = short(scope="group", pattern=pattern, density=0.1, evolve_every=2)
    events = watch(monkeypatch)
    run = begin(settings, thin=3)
    bases = run.bases
    at_load = {name: Counter(p // m for p in flat(base.topology).tolist()) for name, base in bases.items()}
    assert all(b.topology.nnz < b.topology.numel // m * pattern[0] for b in bases.values())
    moved = 0
    for _, after, record in walk(run):
        if record.event is not None:
            check_event(events.pop(), after, record, settings)
            moved += record.event["reactivated"]
        for name, target in after.targets.items():
            now = Counter(p // m for p in support_of(target))
            assert all(size <= at_load[name][g] for g, size in now.items()), name
        if record.step == 6:
            # what a group may hold follows from what is saved
            run.state = through_file(run, after, tmp_path / "state")
    assert moved > 0
    for name, (topology, _) in end(run).items():
        now = Counter(p // m for p in flat(topology).tolist())
        assert all(size <= at_load[name][g] for g, size in now.items()), name


def test_EVT_004_the_last_pass_scores_no_growth(monkeypatch):
    run = begin(short("no-adapt"))
    for _ in walk(run):
        pass

    def scored(*_):
        raise AssertionError("growth is over")

    monkeypatch.setitem(GROW, "gradient", scored)
    monkeypatch.setattr(Chance, "scores", scored)
    assert sum(t.base.topology.nnz for t in run.state.targets.values()) >= sum(t.nnz for t, _ in end(run).values())


@pytest.mark.parametrize("pattern", PATTERNS, ids=pattern_id)
def test_EVT_007_growth_stays_in_the_base_by_default_and_the_pattern_holds(pattern):
    settings = short(pattern=pattern, density=0.2, evolve_every=2)
    assert settings.rule.grow_scope == "active"
    assert settings.rule.scope == "matrix"
    run = begin(settings)
    start = {name: support_of(t) for name, t in run.state.targets.items()}
    moved = 0
    for _, after, record in walk(run):
        moved += record.event["grown"] if record.event else 0
        for name, target in after.targets.items():
            assert support_of(target) == start[name]
            assert isinstance(target.base.topology, NMTopology)
    assert moved > 0


def test_EVT_007_the_default_gives_way_to_what_is_said_and_the_rest_is_refused():
    for preset in ("seft", "literal", "magnitude", "no-adapt"):
        assert settings_of(preset, pattern=(2, 4)).rule.grow_scope == "active"
    assert settings_of("static", pattern=(2, 4)).rule.evolves is False
    assert settings_of("seft", pattern=(2, 4), scope="group").rule.grow_scope == "anywhere"
    for wrong in (
        lambda: settings_of(pattern=(2, 4), grow_scope="anywhere"),
        lambda: settings_of(pattern=(2, 4), grow_scope="anywhere", scope="row"),
        lambda: TrainSettings(pattern=(2, 4), rule=Rule()),
        lambda: TrainSettings(pattern=(2, 4), rule=Rule(scope="model")),
    ):
        with pytest.raises(ConfigError) as caught:
            wrong()
        assert caught.value.clause == "EVT-007"
    TrainSettings(pattern=(2, 4), rule=Rule(evolves=False))


@pytest.mark.parametrize("preset", ["spiel-ag", "spiel-ma"])
def test_EVT_007_what_a_refusal_advises_is_accepted_at_last(preset):
    changes = {"pattern": (2, 4), "evolve_every": 8}
    steps = [("first-step", {"candidates": "all"}), ("initial_scope anywhere", {"initial_scope": "active"})]
    for advice, choice in steps if preset == "spiel-ag" else steps[1:]:
        with pytest.raises(ConfigError, match=advice):
            settings_of(preset, **changes)
        changes |= choice
    assert settings_of(preset, **changes).rule.grow_scope == "active"


@pytest.mark.parametrize(
    "changes",
    [
        {"scope": "group"},
        {"scope": "group", "pattern": (2, 4), "adapts": "end"},
        {"scope": "group", "pattern": (2, 4), "counts": "values"},
        {"scope": "group", "pattern": (2, 4), "exempt": "none"},
        {"scope": "group", "pattern": (2, 4), "drops": "weight"},
        {"scope": "group", "pattern": (2, 4), "grow_scope": "active"},
        {"scope": "row", "exempt": "slots"},
    ],
    ids=str,
)
def test_EVT_012_scopes_that_contradict_other_choices_are_refused(changes):
    with pytest.raises(ConfigError) as caught:
        settings_of(**changes)
    assert caught.value.clause == "EVT-012"


@pytest.mark.parametrize("changes", [{"scope": "group"}, {}], ids=["group", "active"])
def test_TOP_005_bases_of_a_patterned_run_stay_in_groups_through_a_file(changes, tmp_path):
    run = begin(short(pattern=(2, 4), density=0.2, **changes))
    for _, after, _ in walk(run):
        again = through_file(run, after, tmp_path / "state")
        for name, target in again.targets.items():
            assert isinstance(target.base.topology, NMTopology)
            assert target.base.topology.pattern == (2, 4)
            assert hand_matrix(target).base == hand_matrix(after.targets[name]).base
