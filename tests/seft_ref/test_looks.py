"""Events, the last pass and first positions that look at the data of several steps (TRN-023, DLT-004.3)."""

import json

import numpy as np
import pytest

from seft_ref.errors import ConfigError
from seft_ref.files.state import settings_text
from seft_ref.kernels import reference
from seft_ref.text.examples import Example, Examples
from seft_ref.topology.csr import flat
from seft_ref.train.gradients import every_gradient
from seft_ref.train.loop import finish, first_batches, further_batches, step_batches, train, train_step
from seft_ref.train.settings import settings_of
from tests.seft_ref.tiny import CONFIG, TOKENS, states, tiny_settings, without_events


def gradients_of(settings, step, weights):
    """The whole gradients of the data of a step."""
    return every_gradient(weights, CONFIG, step_batches(settings, TOKENS, step, weights), reference)[1]


@pytest.mark.parametrize("n", [2, 3])
def test_DLT_004_3_first_positions_are_those_of_the_mean_gradient_of_the_first_steps(n):
    settings = tiny_settings(initial_positions="gradient", start_batches=n)
    state, _ = states(settings, dtype=np.float64)
    # the first state of a run packs the bases as they are, because φ = 0
    steps = [gradients_of(settings, step, state.weights) for step in range(1, n + 1)]
    differs = 0
    for name, target in state.targets.items():
        stored = flat(target.base.topology)
        mean = np.abs(sum(g[name].reshape(-1)[stored] for g in steps) / n)
        chosen = stored[np.argsort(-mean, kind="stable")[: target.delta_budget]]
        assert flat(target.delta.topology).tolist() == sorted(chosen.tolist())
        one = np.abs(steps[0][name].reshape(-1)[stored])
        differs += sorted(chosen.tolist()) != sorted(stored[np.argsort(-one)[: target.delta_budget]].tolist())
    assert differs


def test_TRN_023_no_further_data_are_read_where_nothing_looks_at_them():
    settings = tiny_settings(event_batches=3)
    state, _ = states(settings)
    read = [len(further_batches(settings, TOKENS, step, state.weights)) for step in range(1, 13)]
    assert read == [2 if step in (4, 8) else 0 for step in range(1, 13)]
    blind = tiny_settings(event_batches=3, grow="random", adapt="magnitude")
    assert further_batches(blind, TOKENS, 4, state.weights) == []
    assert further_batches(tiny_settings(), TOKENS, 4, state.weights) == []
    several = tiny_settings(micro_batches=2, start_batches=3, initial_positions="gradient")
    assert len(first_batches(several, TOKENS, state.weights)) == 6


def test_TRN_023_an_event_without_its_further_data_is_refused():
    settings = tiny_settings(event_batches=3, evolve_every=2)
    state, run = states(settings)
    state, _ = next(run)
    batches = step_batches(settings, TOKENS, 2, state.weights)
    with pytest.raises(ConfigError, match="TRN-023: step 2 looks at the data of 2 further steps, not 1"):
        train_step(state, batches, settings, CONFIG, reference, more=[batches])
    with pytest.raises(ConfigError, match="TRN-023: step 2 looks at the data of 0 further steps, not 1"):
        train_step(state, batches, without_events(settings), CONFIG, reference, more=[batches])


def test_TRN_023_3_an_event_near_the_end_looks_beyond_it():
    examples = Examples([Example(TOKENS[i : i + 9], TOKENS[i : i + 9]) for i in range(0, 90, 9)])
    settings = tiny_settings("no-adapt", steps=5, evolve_every=4, event_batches=4, density=0.3, drop_fraction=1.0)
    state, _ = states(settings)
    found = further_batches(settings, examples, 4, state.weights)
    # steps of 3 rows, counted from 1
    expected = [examples.rows(range(3 * step - 3, 3 * step), settings.length, settings.seed) for step in (5, 6, 7)]
    tokens = [[row for batch in one for row in batch.tokens.tolist()] for one in found]
    assert tokens == [[row.tokens for row in one] for one in expected]
    *_, (state, _) = train(state, settings, CONFIG, examples, reference)
    final = finish(state, settings, CONFIG, examples, reference)
    assert all(final[name][0].nnz <= target.budget for name, target in state.targets.items())


def test_CKP_007_7_a_state_names_the_numbers_of_steps_where_they_are_not_1():
    plain = json.loads(settings_text(settings_of("seft")))
    assert not {"event_batches", "start_batches"} & plain.keys()
    told = json.loads(settings_text(settings_of("seft", event_batches=4, start_batches=2)))
    assert {name: told[name] for name in told.keys() - plain.keys()} == {"event_batches": 4, "start_batches": 2}
