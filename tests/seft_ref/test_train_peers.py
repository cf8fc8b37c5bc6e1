"""Whole runs that a plain loop, torch, another split of the batch or another process repeats."""

import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import seft_ref
from seft_ref.arrays.rng import counter_key, draw
from seft_ref.errors import TextError
from seft_ref.kernels import reference
from seft_ref.model.weights import with_matrices
from seft_ref.text.tokens import training_starts
from seft_ref.topology.csr import flat
from seft_ref.train.gradients import every_gradient, loss_and_gradients
from seft_ref.train.loop import step_batches, train
from tests.seft_ref.tiny import (
    CONFIG,
    TOKENS,
    dense_of,
    digest,
    final_digest,
    matrix_of,
    model,
    packed_weights,
    positions,
    start,
    states,
    tiny_settings,
)


def masked_adamw_loop(settings, dtype, batches_of):
    """Masked AdamW on η in plain NumPy, in the order of OPT-001; yields φ of every matrix after each step."""
    dense, bases = model(dtype)
    first = start(settings, CONFIG, dense, bases, TOKENS)
    weights = packed_weights(CONFIG, dense, bases)
    at = {name: target.delta.topology for name, target in first.targets.items()}
    phi = {name: np.zeros(topology.nnz, dtype=dtype) for name, topology in at.items()}
    m = {name: np.zeros_like(x) for name, x in phi.items()}
    v = {name: np.zeros_like(x) for name, x in phi.items()}
    for step in range(1, settings.steps + 1):
        packed = {}
        for name, base in bases.items():
            # η lies in B here, so the support is B
            values = base.values.copy()
            values[np.searchsorted(flat(base.topology), flat(at[name]))] += phi[name]
            packed[name] = reference.pack(base.topology, values)
        weights = with_matrices(weights, packed)
        gradients = loss_and_gradients(weights, CONFIG, batches_of(step, weights), reference, at).at
        squares = 0.0
        for g in gradients.values():
            squares += float(np.sum(g.astype(np.float64) ** 2))
        factor = 1.0 if settings.max_norm == 0 else min(1.0, settings.max_norm / (math.sqrt(squares) + 1e-6))
        o, lr = settings.optimizer, settings.lr
        for name, raw in gradients.items():
            g = raw * dtype(factor)
            phi[name] = phi[name] * dtype(1 - lr * o.weight_decay)
            m[name] = dtype(o.beta1) * m[name] + dtype(1 - o.beta1) * g
            v[name] = dtype(o.beta2) * v[name] + dtype(1 - o.beta2) * (g * g)
            c1, c2 = dtype(lr / (1 - o.beta1**step)), dtype(math.sqrt(1 - o.beta2**step))
            phi[name] = phi[name] - c1 * (m[name] / (np.sqrt(v[name]) / c2 + dtype(o.eps)))
        yield phi


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("max_norm", [0.0, 0.5])
def test_OPT_001_without_drops_a_run_is_masked_adamw_bit_for_bit(dtype, max_norm):
    settings = tiny_settings(drop_fraction=0.0, max_norm=max_norm, weight_decay=0.1)
    first, run = states(settings, dtype=dtype)
    plain = masked_adamw_loop(settings, dtype, lambda step, weights: step_batches(settings, TOKENS, step, weights))
    for (state, _), phi in zip(run, plain, strict=True):
        for name, target in state.targets.items():
            assert target.delta.values.tobytes() == phi[name].tobytes(), (state.step, name)
            assert flat(target.delta.topology).tobytes() == flat(first.targets[name].delta.topology).tobytes()
            assert set(target.delta.kept["age"].tolist()) <= {state.step}


@pytest.mark.parametrize("max_norm", [0.0, 0.5])
def test_DLT_002_density_1_without_events_is_fine_tuning_with_a_masked_gradient(max_norm):
    settings = tiny_settings(preset="static", density=1.0, max_norm=max_norm, lr=0.01)
    first, run = states(settings, dtype=np.float64)
    dense, bases = model(np.float64)
    weights = packed_weights(CONFIG, dense, bases)
    masks, leaves = {}, {}
    for name, base in bases.items():
        assert flat(first.targets[name].delta.topology).tolist() == flat(base.topology).tolist()
        masks[name] = dense_of(base.topology, np.ones(base.topology.nnz))
        leaves[name] = torch.nn.Parameter(torch.from_numpy(dense_of(base.topology, base.values)))
    peer = torch.optim.AdamW(leaves.values(), lr=0.01, weight_decay=0.0, foreach=False)
    for state, record in run:
        weights = with_matrices(
            weights, {n: reference.pack_dense(x.detach().numpy().copy()) for n, x in leaves.items()}
        )
        batches = step_batches(settings, TOKENS, state.step, weights)
        loss, gradients = every_gradient(weights, CONFIG, batches, reference)
        for name, leaf in leaves.items():
            leaf.grad = torch.from_numpy(gradients[name] * masks[name])
        if max_norm:
            torch.nn.utils.clip_grad_norm_(leaves.values(), max_norm, foreach=False)
        peer.step()
        assert record.loss == pytest.approx(loss, rel=1e-9)
        for name, leaf in leaves.items():
            np.testing.assert_allclose(matrix_of(state.weights, name), leaf.detach().numpy(), rtol=0, atol=1e-9)


def test_TRN_001_the_loss_is_the_mean_over_all_targets_that_count():
    settings = tiny_settings(batch=2, micro_batches=2)
    first, _ = states(settings, dtype=np.float64)
    batches = step_batches(settings, TOKENS, 1, first.weights)
    labels = batches[0].labels.copy()
    labels[0, 3:] = -100
    batches[0] = replace(batches[0], labels=labels)
    from seft_ref.model.decoder import model_forward

    losses = []
    for batch in batches:
        logits, _ = model_forward(batch.tokens, first.weights, CONFIG, reference, None)
        for row in range(2):
            for t in range(settings.length - 1):
                label = batch.labels[row, t + 1]
                if label != -100:
                    z = logits[row, t]
                    losses.append(math.log(math.fsum(math.exp(x) for x in z)) - z[label])
    found = loss_and_gradients(first.weights, CONFIG, batches, reference, {})
    assert len(losses) == 3 * 8 + 2
    assert found.loss == pytest.approx(math.fsum(losses) / len(losses), rel=1e-12)


def test_TRN_002_micro_batches_are_one_batch_up_to_rounding():
    runs = []
    for batch, micro in ((6, 1), (3, 2), (1, 6)):
        settings = tiny_settings(batch=batch, micro_batches=micro, density=0.3)
        _, run = states(settings, dtype=np.float64)
        runs.append([(record.loss, record.gradient_norm, state) for state, record in run])
    for other in runs[1:]:
        for (loss, norm, state), (other_loss, other_norm, other_state) in zip(runs[0], other, strict=True):
            assert (other_loss, other_norm) == pytest.approx((loss, norm), rel=1e-10)
            for name, target in state.targets.items():
                theirs = other_state.targets[name]
                assert positions(target.delta.topology) == positions(theirs.delta.topology)
                np.testing.assert_allclose(theirs.delta.values, target.delta.values, rtol=0, atol=1e-9)


@pytest.mark.parametrize("length", [2, 9])
def test_TRN_003_the_rows_of_a_step_start_where_the_counter_says(length):
    settings = tiny_settings(batch=2, micro_batches=2, length=length, seed=5)
    first, _ = states(settings)
    key = counter_key(5, 2)
    for step in (1, 2, 9):
        batches = step_batches(settings, TOKENS, step, first.weights)
        starts = [draw(key, (step - 1) * 4 + row) % (len(TOKENS) - length + 1) for row in range(4)]
        assert training_starts(len(TOKENS), length, 5, step, 4) == starts
        rows = [row for batch in batches for row in batch.tokens.tolist()]
        assert rows == [TOKENS[s : s + length] for s in starts]
        assert [batch.tokens.shape for batch in batches] == [(2, length)] * 2


def test_TRN_003_a_text_shorter_than_a_window_is_refused():
    settings = tiny_settings(length=9)
    first, _ = states(settings)
    assert step_batches(settings, TOKENS[:9], 1, first.weights)[0].tokens.tolist() == [TOKENS[:9]] * 3
    with pytest.raises(TextError) as refused:
        step_batches(settings, TOKENS[:8], 1, first.weights)
    assert refused.value.clause == "TRN-003"


@pytest.mark.parametrize("stop", [1, 4, 6, 7, 11])
def test_TRN_004_a_run_goes_on_from_any_state_also_inside_a_window(stop):
    settings = tiny_settings(gradient_window=3)
    _, run = states(settings)
    whole = [state for state, _ in run]
    _, run = states(settings)
    middle = [state for state, _ in zip((state for state, _ in run), range(stop), strict=False)][-1]
    rest = [state for state, _ in train(middle, settings, CONFIG, TOKENS, reference)]
    assert [state.step for state in rest] == list(range(stop + 1, 13))
    assert digest(rest[-1].targets) == digest(whole[-1].targets)


@pytest.mark.parametrize("hash_seed", ["1", "4242"])
def test_TRN_006_the_same_seed_gives_the_same_bytes_in_another_process(hash_seed):
    root = Path(seft_ref.__file__).parents[1]
    code = "from tests.seft_ref.tiny import final_digest; print(final_digest())"
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(root)}
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == final_digest()
