"""Ranks that share a step: the same run as one process, and the same bits on each of them (TRN-013 to TRN-015)."""

from functools import cache
from itertools import islice

import array_api_strict
import numpy as np
import pytest

from seft_ref.arrays.ranks import ALONE, digest_of, refuse_different, rows_of
from seft_ref.errors import ConfigError, SeftError, UpdateError
from seft_ref.files.model import load_model
from seft_ref.files.state import Origin, load_state, save_state
from seft_ref.kernels import reference
from seft_ref.layers.linear import WeightGradient
from seft_ref.matrix.of_step import Accumulated
from seft_ref.text.tokens import read_tokens
from seft_ref.topology.csr import flat, from_flat
from seft_ref.train.loop import finish, first_batches, initial_state, step_batches, train, train_step
from seft_ref.update.delta import Base
from tests.seft_ref.folders import BF16, TEXT, sparse_folder
from tests.seft_ref.rule_runs import TOKENS, arrays_of, config_of, digest, packed_weights, short, strongest, tiny_config
from tests.seft_ref.threads_as_ranks import on_ranks
from tests.seft_ref.tiny import parameters

FIVE = {"batch": 5}
RUNS = {
    "seft": {},
    "gradient start": {"initial_positions": "gradient"},
    "gradient start anywhere": {"initial_positions": "gradient", "initial_scope": "anywhere", "adapts": "never"},
    "window": {"gradient_window": 3, "micro_batches": 2},
    "curvature": {"grow": "curvature", "adapt": "curvature", "drop": "fisher", "gradient_window": 2},
    "activation": {"adapt": "activation", "gradient_window": 2},
    "tokens": {"adapt": "token-fisher", "gradient_window": 2, "micro_batches": 2},
    "fisher": {"grow": "fisher", "gradient_window": 2},
    "looks": {"event_batches": 3, "initial_positions": "gradient", "start_batches": 2},
    "looks in a window": {"adapt": "token-fisher", "grow": "fisher", "event_batches": 2, "gradient_window": 2},
    "row": {"scope": "row"},
    "model": {"scope": "model"},
    "group": {"scope": "group", "pattern": (2, 4)},
    "pattern": {"pattern": (2, 4)},
    "no-adapt": {"preset": "no-adapt"},
    "spiel-ag": {"preset": "spiel-ag", "evolve_every": 4},
    "spiel-ma": {"preset": "spiel-ma", "evolve_every": 4},
    "rigl": {"preset": "rigl", "evolve_every": 2},
    "set": {"preset": "set"},
    "long rows": {"length": 60, "batch": 7},
}
THREE = ("seft", "gradient start", "window", "looks in a window", "tokens", "model", "group", "spiel-ma", "long rows")
"""Runs on three ranks too: every kind of sum that ranks share; which rule decides on the sums is the same for all."""


def begin(settings, ranks, dtype=np.float64, kernels=reference):
    """A run before its first step, as a rank sees it."""
    config = config_of(settings.pattern) if settings.pattern else tiny_config()
    dense = parameters(config, dtype)
    bases = {}
    for matrix in config.targets():
        at = strongest(dense[matrix.name], settings.pattern, 0.4)
        bases[matrix.name] = Base(from_flat(matrix.shape, at), dense[matrix.name].reshape(-1)[at])
    weights = packed_weights(config, dense, {n: (b.topology, b.values) for n, b in bases.items()})
    batches = first_batches(settings, TOKENS, weights, ranks)
    return config, initial_state(settings, config, weights, bases, kernels, batches, ranks)


def whole_run(settings, ranks, dtype=np.float64):
    """Hash and arrays after every step, its record, and the final weights."""
    config, state = begin(settings, ranks, dtype)
    seen = [(digest(state), arrays_of(state), None)]
    for after, record in train(state, settings, config, TOKENS, reference, ranks=ranks):
        # the packed weights of a state are the next one's too
        seen.append((digest(after), {k: np.array(v) for k, v in arrays_of(after).items()}, record))
        state = after
    final = finish(state, settings, config, TOKENS, reference, ranks)
    return seen, {name: (flat(topology), values) for name, (topology, values) in final.items()}


def assert_close(found, expected, name):
    if expected.dtype.kind == "f":
        np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-10, err_msg=name)
    else:
        np.testing.assert_array_equal(found, expected, err_msg=name)


def settings_of_run(of):
    # two events, and a step behind the second
    changes = {**FIVE, "steps": 7, "evolve_every": 3, **RUNS[of]}
    return short(changes.pop("preset", "seft"), **changes)


@cache
def run_alone(of):
    """What ranks of any number are compared with."""
    return whole_run(settings_of_run(of), ALONE)


@pytest.mark.parametrize(("of", "size"), [*((of, 2) for of in RUNS), *((of, 3) for of in THREE)])
def test_TRN_013_ranks_run_as_one_process(of, size):
    settings = settings_of_run(of)
    alone, expected = run_alone(of)
    ranks = on_ranks(size, lambda ranks: whole_run(settings, ranks))
    first = ranks[0][0]
    for seen, final in ranks:
        # the same bits on every rank, so that those of the first are compared with one process
        assert [one[0] for one in seen] == [one[0] for one in first]
        assert [one[2] for one in seen] == [one[2] for one in first]
        for name, (positions, values) in expected.items():
            np.testing.assert_array_equal(final[name][0], positions, err_msg=name)
            np.testing.assert_allclose(final[name][1], values, rtol=1e-7, atol=1e-10, err_msg=name)
    events = 0
    for (_, found, told), (_, held, record) in zip(first, alone, strict=True):
        assert found.keys() == held.keys()
        for name in held:
            assert_close(found[name], held[name], f"{name} of step {record and record.step}")
        if record is not None:
            assert told.loss == pytest.approx(record.loss, rel=1e-9)
            assert told.gradient_norm == pytest.approx(record.gradient_norm, rel=1e-7)
            assert told.event == record.event
            events += record.event is not None
    assert events >= 2


def test_TRN_013_the_same_run_on_as_many_ranks_gives_the_same_bits():
    settings = short(**FIVE, gradient_window=2)
    one, two = (on_ranks(3, lambda ranks: whole_run(settings, ranks, np.float32)) for _ in range(2))
    assert [seen[0] for seen in one[0][0]] == [seen[0] for seen in two[0][0]]


@pytest.mark.parametrize(("batch", "micro_batches", "size"), [(5, 1, 2), (5, 1, 5), (2, 3, 4), (1, 4, 3), (3, 2, 1)])
def test_TRN_013_every_row_is_one_rank_s(batch, micro_batches, size):
    settings = short(batch=batch, micro_batches=micro_batches)
    _, state = begin(settings, ALONE)

    def of(ranks):
        batches = step_batches(settings, TOKENS, 3, state.weights, ranks)
        assert all(one.tokens.shape[0] <= batch for one in batches)
        return [row for one in batches for row in one.tokens.tolist()]

    parts = on_ranks(size, of)
    assert [row for part in parts for row in part] == of(ALONE)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert min(map(len, parts)) >= 1


def test_TRN_013_fewer_rows_than_ranks_are_refused():
    settings = short(batch=2)
    for of in (lambda ranks: rows_of(2, ranks), lambda ranks: begin(settings, ranks)):
        with pytest.raises(ConfigError, match="fewer processes") as refused:
            on_ranks(3, of)
        assert refused.value.clause == "TRN-013"


@pytest.mark.parametrize("n_rows", [[3, 4], [0, 2], [30, 41], [9, 1]])
def test_TRN_013_a_gradient_over_ranks_is_held_in_what_is_smaller(n_rows):
    # 7 x 12: as factors up to 4 rows
    rng = np.random.default_rng(5)
    parts = [[WeightGradient(*(rng.normal(size=(n, k)) for k in (7, 12)))] * 2 for n in n_rows]

    def of(ranks):
        held = Accumulated((7, 12))
        for gradient in parts[ranks.rank]:
            held = held.plus(gradient)
        held = held.over(ranks)
        return held, ranks.sent

    (first, sent), (second, _) = on_ranks(2, of)
    expected = sum(g.dy.T @ g.x for part in parts for g in part)
    np.testing.assert_allclose(first.whole(), expected, rtol=1e-12, atol=1e-12)
    assert first.whole().tobytes() == second.whole().tobytes()
    small = 2 * sum(n_rows) * (7 + 12) < 7 * 12
    assert (first.dense is None) == small
    assert sent == (2 * n_rows[0] * (7 + 12) if small else 7 * 12)


def test_TRN_013_what_a_step_sends():
    settings = short(**FIVE, gradient_window=1)
    config, _ = begin(settings, ALONE)
    slots = sum(int(0.1 * m.shape[0] * m.shape[1]) for m in config.targets())

    def of(ranks):
        _, state = begin(settings, ranks)
        run = train(state, settings, config, TOKENS, reference, ranks=ranks)
        return [ranks.sent for _ in islice(run, 4)]

    for sent in on_ranks(2, of):
        # outside windows nothing but the gradients of the slots travels
        assert np.diff(sent).tolist()[:2] == [slots, slots]
        assert np.diff(sent)[2] > slots


def test_TRN_014_ranks_that_differ_are_told_by_name():
    for size in (2, 3):
        with pytest.raises(UpdateError, match=f"process {size - 1} of {size} holds other text than") as refused:
            on_ranks(
                size,
                lambda ranks: refuse_different(
                    ranks, "at the start", {"model": "m", "text": ranks.rank == ranks.size - 1}
                ),
            )
        assert refused.value.clause == "TRN-014"
    on_ranks(3, lambda ranks: refuse_different(ranks, "at the start", {"model": "m"}))


@pytest.mark.parametrize("compact", [False, True], ids=["plain", "compact"])
def test_TRN_013_TRN_015_ranks_go_on_where_other_ranks_stopped(tmp_path, compact):
    folder = sparse_folder(tmp_path / "model", dtype=BF16)
    (tmp_path / "text.txt").write_text(TEXT)
    tokens = read_tokens(tmp_path / "text.txt", folder)
    settings = short(batch=4, gradient_window=3, steps=8)
    origin = Origin("model", "text")

    def first_half(ranks):
        model = load_model(folder, reference, compact=compact)
        batches = step_batches(settings, tokens, 1, model.weights, ranks)
        state = initial_state(settings, model.config, model.weights, model.bases, reference, batches, ranks)
        for after, _ in islice(train(state, settings, model.config, tokens, reference, ranks=ranks), 6):
            state = after
        if ranks.rank == 0:
            save_state(tmp_path / f"{ranks.size}.state", state, settings, origin)

    def second_half(ranks, of):
        model = load_model(folder, reference, compact=compact)
        state = load_state(tmp_path / f"{of}.state", model.weights, settings, origin, reference)
        for after, _ in train(state, settings, model.config, tokens, reference, ranks=ranks):
            state = after
        final = finish(state, settings, model.config, tokens, reference, ranks)
        return {name: (flat(topology), values) for name, (topology, values) in final.items()}

    first_half(ALONE)
    expected = second_half(ALONE, 1)
    on_ranks(3, first_half)
    for found in (second_half(ALONE, 3), *on_ranks(2, lambda ranks: second_half(ranks, 3))):
        for name, (positions, values) in expected.items():
            np.testing.assert_array_equal(found[name][0], positions, err_msg=name)
            np.testing.assert_allclose(found[name][1], values, rtol=1e-3, atol=1e-5, err_msg=name)


class Deaf:
    """A rank that does not hear the others where it is asked to."""

    def __init__(self, ranks, *deaf_to):
        self._ranks, self._deaf_to = ranks, deaf_to
        self.rank, self.size = ranks.rank, ranks.size

    def sum(self, x):
        found = self._ranks.sum(x)
        return x if "sum" in self._deaf_to else found

    def join(self, x):
        found = self._ranks.join(x)
        return x if "join" in self._deaf_to else found

    def every(self, value):
        return self._ranks.every(value)


@pytest.mark.parametrize(("deaf_to", "length"), [("sum", 3), ("join", 3), ("sum", 60)])
def test_TRN_014_ranks_that_part_at_an_event_stop(deaf_to, length):
    settings = short(length=length, batch=2)
    with pytest.raises(UpdateError, match="after the event of step 4") as refused:
        on_ranks(2, lambda ranks: whole_run(settings, Deaf(ranks, deaf_to) if ranks.rank else ranks))
    assert refused.value.clause == "TRN-014"


def test_TRN_007_a_loss_that_is_not_finite_on_one_rank_stops_all():
    settings = short(**FIVE)

    def of(ranks):
        config, state = begin(settings, ranks)
        if ranks.rank == 1:
            norm = np.array(state.weights.norm)
            norm[0] = np.inf
            object.__setattr__(state.weights, "norm", norm)
        batches = step_batches(settings, TOKENS, 1, state.weights, ranks)
        with np.errstate(all="ignore"), pytest.raises(SeftError) as refused:
            train_step(state, batches, settings, config, reference, ranks=ranks)
        return refused.value.clause

    assert on_ranks(2, of) == ["TRN-007", "TRN-007"]


def test_TRN_013_one_process_is_asked_for_nothing():
    x = np.ones((2, 3))
    assert ALONE.sum(x) is x
    assert ALONE.join(x) is x
    assert ALONE.every(x) == [x]
    assert (ALONE.rank, ALONE.size, list(rows_of(3, ALONE))) == (0, 1, [0, 1, 2])


def test_TRN_014_a_digest_sees_bytes_shape_and_dtype():
    x = np.arange(6, dtype=np.float32)
    variants = [[x], [x.reshape(2, 3)], [x.view(np.int32)], [x[::-1]], [x, x], [x[:3], x[3:]], []]
    assert len({digest_of(arrays) for arrays in variants}) == len(variants)
    strict = array_api_strict.asarray(x)
    assert digest_of([strict]) == digest_of([x])
