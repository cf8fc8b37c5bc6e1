"""A tiny pruned model, and adapters for it."""

import torch
from peft import get_peft_model

from seft_ports.peft import SeftConfig, SeftLayer
from seft_ports.pytorch.model import targets_of
from tests.ports import pytorch_tiny as tiny


def config(**other):
    return SeftConfig(**{"density": 0.2, "evolve_every": 3, "drop_fraction": 0.9} | other)


def pruned(dtype=torch.float32, **other):
    """Return a tiny model whose pruned weights are 0, and their masks."""
    model = tiny.model(**other)
    masks = tiny.masks(model)
    for name, linear in targets_of(model).items():
        linear.weight.data *= masks[name]
    return model.to(dtype), masks


def adapted(dtype=torch.float32, **other):
    return get_peft_model(pruned(dtype)[0], config(**other))


def layers(model):
    return {name: module for name, module in model.named_modules() if isinstance(module, SeftLayer)}


def bits(model):
    return {name: x.clone() for name, x in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
