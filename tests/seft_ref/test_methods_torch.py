"""Whole runs of the methods that torch repeats, by autograd and its own AdamW, in binary64 (ADP-010, ADP-011)."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from seft_ref.arrays.rng import counter_key, uniform
from seft_ref.kernels import reference
from seft_ref.topology.csr import flat
from seft_ref.train import factors
from seft_ref.train.loop import step_batches, train
from seft_ref.train.settings import settings_of
from tests.seft_ref import torch_definition
from tests.seft_ref.test_methods import CONFIG, JSON, SHORT, begin, settings
from tests.seft_ref.tiny import TOKENS, dense_of, magnitude_keep, packed_weights, parameters, pruned_bases, start


def torch_factors(method, wanted):
    """The start of every factor (ADP-002), written out once more."""
    made = {}
    for number, matrix in enumerate(CONFIG.targets()):
        n_out, n_in = matrix.shape
        rows = wanted.adapter.bands if method == "spp" else wanted.adapter.rank
        draws = uniform(counter_key(wanted.seed, 5, number), range(rows * n_in)).reshape(rows, n_in)
        start = [(2 * draws - 1) / np.sqrt(n_in), np.zeros((n_out, 1 if method == "spp" else rows))]
        made[matrix.name] = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in start]
    return made


def torch_weight(method, wanted, held, pair):
    """W plus the change of an adapter, from dense matrices."""
    first, second = pair
    scale = wanted.adapter.alpha / wanted.adapter.rank
    if method == "spp":
        bands = len(first)
        own = first.repeat_interleave(held.shape[0] // bands, dim=0)
        return held + scale * own * second * held
    change = scale * second @ first
    return held + (change * (held != 0) if method == "sparse-peft" else change)


def torch_run(method, wanted, dense, bases):
    """Losses, and the dense weight of every target at the end."""
    held = {name: torch.tensor(dense_of(base.topology, base.values)) for name, base in bases.items()}
    named = {name: torch.tensor(values) for name, values in dense.items()}
    made = torch_factors(method, wanted)
    optimizer = torch.optim.AdamW(
        [x for pair in made.values() for x in pair], lr=wanted.lr, weight_decay=0.1, betas=(0.9, 0.999), eps=1e-8
    )
    losses = []
    for step in range(1, wanted.steps + 1):
        rows = step_batches(replace(wanted, batch=4, micro_batches=1), TOKENS, step, ORIGINAL)[0].tokens
        weights = {name: torch_weight(method, wanted, held[name], pair) for name, pair in made.items()}
        tokens = torch.tensor(rows)
        loss = torch_definition.loss(torch_definition.logits(JSON, named | weights, tokens), tokens)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([x for pair in made.values() for x in pair], wanted.max_norm)
        optimizer.step()
        losses.append(float(loss.detach()))
    weights = {name: torch_weight(method, wanted, held[name], pair).detach().numpy() for name, pair in made.items()}
    return losses, weights


ORIGINAL = packed_weights(CONFIG, parameters(CONFIG), pruned_bases(CONFIG, parameters(CONFIG), magnitude_keep(0.6)))


@pytest.mark.parametrize("method", ["lora", "sparse-peft", "spp"])
def test_ADP_010_ADP_011_a_run_is_that_of_autograd_and_of_torchs_adamw(method):
    wanted = settings(method)
    dense, bases, state = begin(wanted)
    losses, want = torch_run(method, wanted, dense, bases)
    steps = list(factors.train(state, wanted, CONFIG, TOKENS, reference))
    state, found = steps[-1][0], [record.loss for _, record in steps]
    np.testing.assert_allclose(found, losses, rtol=1e-9)
    for name, (topology, values) in factors.finish(state, wanted, reference).items():
        np.testing.assert_allclose(dense_of(topology, values), want[name], rtol=1e-9, atol=1e-12)
        kept = len(want[name].reshape(-1)) if method == "lora" else bases[name].nnz
        assert topology.nnz == kept


@pytest.mark.parametrize("method", ["sparse-full", "shira"])
def test_DLT_002_a_run_of_slots_that_stay_is_that_of_autograd_and_of_torchs_adamw(method):
    own = {"rank": 2} if method == "shira" else {}
    wanted = settings_of(method, **SHORT, **own)
    dense = parameters(CONFIG, np.float64)
    bases = pruned_bases(CONFIG, dense, magnitude_keep(0.6))
    first = start(wanted, CONFIG, dense, bases, TOKENS)
    held = {name: torch.tensor(dense_of(base.topology, base.values)) for name, base in bases.items()}
    slots = {name: torch.tensor(flat(target.delta.topology)) for name, target in first.targets.items()}
    phi = {name: torch.zeros(len(at), dtype=torch.float64, requires_grad=True) for name, at in slots.items()}
    optimizer = torch.optim.AdamW(phi.values(), lr=wanted.lr, weight_decay=0.1, betas=(0.9, 0.999), eps=1e-8)

    def weight_of(name):
        change = torch.zeros(held[name].numel(), dtype=torch.float64).index_put((slots[name],), phi[name])
        return held[name] + change.reshape(held[name].shape)

    named = {name: torch.tensor(values) for name, values in dense.items()}
    for state, record in train(first, wanted, CONFIG, TOKENS, reference):
        rows = step_batches(replace(wanted, batch=4, micro_batches=1), TOKENS, state.step, ORIGINAL)[0].tokens
        tokens = torch.tensor(rows)
        changed = {name: weight_of(name) for name in held}
        loss = torch_definition.loss(torch_definition.logits(JSON, named | changed, tokens), tokens)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(phi.values(), wanted.max_norm)
        optimizer.step()
        np.testing.assert_allclose(record.loss, float(loss.detach()), rtol=1e-9)
        for name, target in state.targets.items():
            np.testing.assert_allclose(target.delta.values, phi[name].detach().numpy(), rtol=1e-9, atol=1e-12)
