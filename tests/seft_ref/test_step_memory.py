"""What a step holds: blocks computed twice (MDL-008), logits some rows at a time (LYR-012)."""

import tracemalloc
from dataclasses import fields, is_dataclass

import numpy as np
import pytest

from seft_ref.errors import LayerError
from seft_ref.kernels import cpu, reference
from seft_ref.layers.cross_entropy import cross_entropy_backward, cross_entropy_forward
from seft_ref.layers.linear import Linear, linear_backward, linear_forward
from seft_ref.matrix.window import Window
from seft_ref.model import head
from seft_ref.model.activations import activation_bytes, per_token, recomputes
from seft_ref.model.decoder import decoder_backward, decoder_forward
from seft_ref.model.head import head_loss, head_loss_and_gradient, rows_at_once
from seft_ref.model.weights import assemble
from seft_ref.topology.csr import full
from seft_ref.train.gradients import loss_and_gradients
from seft_ref.train.loop import initial_state, step_batches, train
from seft_ref.train.memory import LOGIT_COPIES
from tests.seft_ref.families import CONFIGS, weights_of
from tests.seft_ref.test_gradients import tiny_step
from tests.seft_ref.tiny import CONFIG, TOKENS, digest, model, start, tiny_config, tiny_settings


def arrays_of(value, seen):
    """Every array of a cache once, weights and kernels left out."""
    if isinstance(value, np.ndarray):
        while value.base is not None:
            value = value.base
        seen[id(value)] = value
    elif isinstance(value, tuple | list):
        for item in value:
            arrays_of(item, seen)
    elif is_dataclass(value):
        for field in fields(value):
            if field.name not in ("weight", "linear", "kernels", "rope", "block", "around", "config"):
                arrays_of(getattr(value, field.name), seen)
    return seen


@pytest.mark.parametrize("family", CONFIGS)
def test_MDL_008_a_block_computed_again_gives_the_same_bits(family):
    config, parameters, batch = tiny_step(family)
    weights = weights_of(config, parameters)
    found = []
    for recompute in (False, True):
        y, cache = decoder_forward(batch.tokens, weights, config, reference, batch.mask, recompute=recompute)
        dy = np.random.default_rng(1).standard_normal(y.shape).astype(y.dtype)
        gradients = {}
        for name, gradient in decoder_backward(dy, cache):
            gradients[name] = [a.tobytes() for a in arrays_of(gradient, {}).values()]
        found.append((y.tobytes(), gradients))
    assert found[0] == found[1]
    assert len(found[0][1]) == len(config.parameters()) - (not config.tie_word_embeddings)


@pytest.mark.parametrize("kernels", [reference, cpu])
def test_MDL_008_a_run_does_not_depend_on_it(kernels):
    digests = []
    for recompute in (False, True, None):
        settings = tiny_settings(steps=7, evolve_every=3, gradient_window=2)
        dense, bases = model()
        state = start(settings, CONFIG, dense, bases, TOKENS)
        for after, _record in train(state, settings, CONFIG, TOKENS, reference, recompute=recompute):
            state = after
        digests.append(digest(state.targets))
    assert digests[0] == digests[1] == digests[2]


@pytest.mark.parametrize("family", ["llama", "llama-gqa", "llama-head_dim", "qwen3", "smollm2"])
@pytest.mark.parametrize("shape", [(1, 5), (3, 8)])
def test_MDL_008_the_formula_counts_what_the_caches_hold(family, shape):
    config, parameters, _ = tiny_step(family)
    weights = weights_of(config, parameters)
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, shape)
    _, cache = decoder_forward(tokens, weights, config, reference)
    itemsize = weights.norm.itemsize
    held = sum(a.nbytes for a in arrays_of(cache.blocks, {}).values())
    expected = activation_bytes(config, *shape, itemsize, recompute=False)
    # what one block gives is what the next starts from, and RMSNorm keeps one number a row
    assert held == expected, (held / itemsize / shape[0] / shape[1], per_token(config, shape[1]))
    _, cache = decoder_forward(tokens, weights, config, reference, recompute=True)
    held = sum(a.nbytes for a in arrays_of([b.x for b in cache.blocks], {}).values())
    one = expected // config.num_hidden_layers
    assert held + one == activation_bytes(config, *shape, itemsize, recompute=True)


def test_MDL_008_only_large_steps_are_computed_twice():
    config, parameters, _ = tiny_step("llama")
    weights = weights_of(config, parameters)
    assert not recomputes(config, (4, 128), weights.norm)
    assert recomputes(config, (4, 1 << 20), weights.norm)


@pytest.mark.parametrize("rows", [1, 3, 64, 1000])
@pytest.mark.parametrize("n", [(1, 1), (2, 9), (5, 40)])
def test_LYR_012_rows_in_parts_give_the_loss_and_gradient_of_all(backend, monkeypatch, rows, n):
    monkeypatch.setattr(head, "LEAST_ROWS", rows)
    monkeypatch.setattr(head, "LOGITS", rows * 11)
    numbers = np.random.default_rng(7)
    x, table = numbers.standard_normal((*n, 6)), numbers.standard_normal((11, 6))
    targets = numbers.integers(0, 11, n[0] * n[1])
    targets[numbers.random(targets.size) < 0.3] = -100
    lm_head = Linear(reference.pack_dense(backend.array(table)))
    x, count = backend.array(x), max(1, int((targets >= 0).sum()))
    targets = backend.array(targets)
    logits, cache = linear_forward(x, lm_head, reference)
    xp = backend.xp
    loss, loss_cache = cross_entropy_forward(xp.reshape(logits, (-1, 11)), targets, count)
    dlogits = cross_entropy_backward(xp.ones_like(loss), loss_cache)
    dx, _, _ = linear_backward(xp.reshape(dlogits, logits.shape), cache)
    found, gradient = head_loss_and_gradient(x, lm_head, targets, count, reference)
    tolerance = 1e-12 if backend.numpy(x).dtype == np.float64 else 1e-5
    assert found == pytest.approx(float(loss), rel=tolerance)
    assert head_loss(x, lm_head, targets, count, reference) == found
    np.testing.assert_allclose(backend.numpy(gradient), backend.numpy(dx), rtol=tolerance, atol=tolerance)


def test_LYR_012_the_logits_of_a_long_batch_are_never_held():
    rng = np.random.default_rng(0)
    x, table = rng.standard_normal((1, 4096, 8)).astype(np.float32), rng.standard_normal((4096, 8)).astype(np.float32)
    lm_head = Linear(reference.pack_dense(table))
    tracemalloc.start()
    head_loss_and_gradient(x, lm_head, rng.integers(0, 4096, 4096), 4096, reference)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows_at_once(4096, 4096) == 2048
    # logits, softmax and gradient of the rows at hand (TRN-012), and what is as large as x
    assert peak < LOGIT_COPIES * 4 * 2048 * 4096 + (4 << 20)


@pytest.mark.parametrize(
    ("n_rows", "n_classes", "expected"),
    # 192 rows of so many classes fit; 512 are three parts, of a multiple of 16
    [
        (0, 49152, 0),
        (1, 49152, 1),
        (192, 49152, 192),
        (193, 49152, 112),
        (512, 49152, 176),
        (300, 1 << 20, 64),
        (7, 2, 7),
    ],
)
def test_LYR_012_parts_are_of_one_size(n_rows, n_classes, expected):
    assert rows_at_once(n_rows, n_classes) == expected


def test_LYR_012_no_part_is_larger_than_may_be(monkeypatch):
    monkeypatch.setattr(head, "LEAST_ROWS", 3)
    monkeypatch.setattr(head, "LOGITS", 0)
    assert [rows_at_once(n, 11) for n in (0, 1, 3, 4, 18, 19)] == [0, 1, 3, 3, 3, 3]


def test_LYR_012_refuses_what_the_whole_refuses():
    lm_head = Linear(reference.pack_dense(np.ones((3, 2))))
    with pytest.raises(LayerError, match="LYR-011"):
        head_loss_and_gradient(np.ones((1, 2, 2)), lm_head, np.asarray([0, 3]), 2, reference)
    with pytest.raises(LayerError, match="LYR-011"):
        head_loss(np.ones((1, 0, 2)), lm_head, np.asarray([], dtype=np.int64), 0, reference)


def test_GRD_002_a_window_gives_the_gradient_at_positions_too():
    config, parameters, batch = tiny_step()
    weights = weights_of(config, parameters)
    name, shape = config.targets()[3].name, config.targets()[3].shape
    topology = full(shape, weights.norm)
    found = loss_and_gradients(weights, config, [batch], reference, {name: topology}, {name: Window(shape)})
    assert found.kept[name].latest.at(topology, reference).tobytes() == found.at[name].tobytes()


def test_KRN_011_a_step_without_an_event_allocates_nothing_of_the_size_of_a_matrix():
    config = tiny_config(
        hidden_size=512, intermediate_size=1500, num_hidden_layers=2, num_attention_heads=4, head_dim=64
    )
    settings = tiny_settings(steps=4, evolve_every=4, batch=1, length=6, density=0.01)
    dense, bases = model(config=config)
    packed = {name: cpu.pack(base.topology, base.values) for name, base in bases.items()}
    packed["lm_head.weight"] = cpu.pack_dense(dense["lm_head.weight"])
    weights = assemble(config, dense, packed)
    state = initial_state(settings, config, weights, bases, cpu, step_batches(settings, TOKENS, 1, weights))
    largest = max(shape[0] * shape[1] for shape in (m.shape for m in config.targets())) * 4
    steps = train(state, settings, config, TOKENS, cpu)
    next(steps)  # kernels are compiled, their scratch is there
    tracemalloc.start()
    next(steps)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < largest / 2, (peak, largest)
