"""The model against a second definition with autograd: logits, loss, every gradient (MDL-001, NUM-004)."""

from itertools import pairwise

import numpy as np
import pytest

from seft_ref.kernels import reference
from seft_ref.model.config import ModelConfig
from seft_ref.model.decoder import model_forward
from seft_ref.text.batch import Batch
from seft_ref.topology.csr import from_flat
from seft_ref.train.gradients import every_gradient, loss_and_gradients
from tests.seft_ref.families import (
    CONFIGS,
    TOKENS_SHAPE,
    labels_of,
    padding,
    parameters_of,
    stored_positions,
    tokens_of,
    weights_of,
)

torch = pytest.importorskip("torch")
torch.set_num_threads(1)

from tests.seft_ref import torch_definition as definition  # noqa: E402  # needs torch

BOUND = 1e-9


def defined(json, named, tokens, labels, mask):
    """Return logits, loss and every gradient of the definition, as NumPy."""
    tensors = {name: torch.tensor(value, requires_grad=True) for name, value in named.items()}
    wanted = definition.logits(json, tensors, torch.tensor(tokens), None if mask is None else torch.tensor(mask))
    loss = definition.loss(wanted, torch.tensor(labels))
    loss.backward()
    return (
        wanted.detach().numpy(),
        loss.item(),
        {name: tensor.grad.numpy() for name, tensor in tensors.items()},
    )


def assert_same_model(within, family, json, named, tokens, labels, mask, positions=None):
    config = ModelConfig.from_json(json)
    weights = weights_of(config, named, positions=positions)
    wanted_logits, wanted_loss, wanted = defined(json, named, tokens, labels, mask)
    logits, _ = model_forward(tokens, weights, config, reference, mask)
    within(f"torch {family}", logits, wanted_logits, BOUND, "logits")
    loss, gradients = every_gradient(weights, config, [Batch(tokens, labels, mask)], reference)
    within(f"torch {family}", loss, wanted_loss, BOUND, "loss")
    assert set(gradients) == set(wanted) == set(config.parameters())
    for name, gradient in gradients.items():
        within(f"torch {family}", gradient, wanted[name], BOUND, name)


@pytest.mark.parametrize("pad", ["none", "left", "right"])
@pytest.mark.parametrize("family", CONFIGS)
def test_MDL_001_logits_loss_and_every_gradient(family, pad, within):
    config = ModelConfig.from_json(CONFIGS[family])
    tokens, mask = tokens_of(config, 11), padding(pad)
    labels = tokens.copy() if pad == "none" else labels_of(tokens, mask)
    assert_same_model(within, family, CONFIGS[family], parameters_of(config, 7), tokens, labels, mask)


@pytest.mark.parametrize("family", ["llama-gqa", "smollm2", "mistral", "qwen2", "qwen3"])
def test_MDL_001_sparse_weights(family, within):
    config = ModelConfig.from_json(CONFIGS[family])
    named = parameters_of(config, 8)
    positions = {target.name: stored_positions(target.shape, i) for i, target in enumerate(config.targets())}
    for name, kept in positions.items():
        stored = np.zeros(named[name].size, dtype=bool)
        stored[kept] = True
        named[name] = np.where(stored.reshape(named[name].shape), named[name], 0.0)
    tokens, mask = tokens_of(config, 12), padding("left")
    assert_same_model(
        within, f"{family} sparse", CONFIGS[family], named, tokens, labels_of(tokens, mask), mask, positions
    )


@pytest.mark.parametrize("length", [1, 2, 5, 6])
@pytest.mark.parametrize("family", ["llama-dynamic", "mistral"])
def test_LYR_005_lengths_around_the_context_and_the_window(family, length, within):
    config = ModelConfig.from_json(CONFIGS[family])
    named, tokens = parameters_of(config, 9), tokens_of(config, 13, (2, length))
    logits, _ = model_forward(tokens, weights_of(config, named), config, reference)
    wanted = definition.logits(
        CONFIGS[family], {name: torch.tensor(value) for name, value in named.items()}, torch.tensor(tokens)
    )
    within(f"torch {family}", logits, wanted.numpy(), BOUND, f"length {length}")


@pytest.mark.parametrize("family", ["llama-tied", "qwen3"])
@pytest.mark.parametrize("parts", [[1, 2], [2, 1], [1, 1, 1]])
def test_TRN_002_micro_batches_add_up(family, parts, within):
    json = CONFIGS[family]
    config = ModelConfig.from_json(json)
    named, tokens, mask = parameters_of(config, 10), tokens_of(config, 14), padding("left")
    labels = labels_of(tokens, mask)
    _, wanted_loss, wanted = defined(json, named, tokens, labels, mask)
    edges = np.cumsum([0, *parts])
    assert edges[-1] == TOKENS_SHAPE[0]
    batches = [Batch(tokens[a:b], labels[a:b], mask[a:b]) for a, b in pairwise(edges)]
    assert len({batch.count() for batch in batches}) > 1, "equal parts could not tell a mean of means"
    weights = weights_of(config, named)
    loss, gradients = every_gradient(weights, config, batches, reference)
    within(f"torch {family} micro-batches", loss, wanted_loss, BOUND, "loss")
    for name, gradient in gradients.items():
        within(f"torch {family} micro-batches", gradient, wanted[name], BOUND, name)
    at = {
        target.name: from_flat(target.shape, stored_positions(target.shape, i))
        for i, target in enumerate(config.targets())
    }
    step = loss_and_gradients(weights, config, batches, reference, at)
    within(f"torch {family} micro-batches", step.loss, wanted_loss, BOUND, "loss of the step")
    assert set(step.at) == set(at)
    for i, target in enumerate(config.targets()):
        gathered = wanted[target.name].reshape(-1)[stored_positions(target.shape, i)]
        within(
            f"torch {family} micro-batches",
            step.at[target.name],
            gathered,
            BOUND,
            f"{target.name} at positions",
        )
