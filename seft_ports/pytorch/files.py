"""Sparse checkpoints (chapter 12) of a model, wrapped or merged: written with its masks, read with them."""

import dataclasses
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

import formats
from formats.convert.torch_module import from_module, to_module
from seft_ports.pytorch.errors import SeftError
from seft_ports.pytorch.model import MASK, layers_of, mask_of, plain, replace, targets_of

__all__ = ["load_sparse", "save_sparse"]


def save_sparse(model: nn.Module, folder: str | os.PathLike[str]) -> None:
    """Write a model with the support of each projection: stored zeros stay apart from absent weights (CKP-004).

    Embeddings, norms, biases and lm_head are written as they are (CKP-005), and the config beside them.
    """
    with _plain_layers(model):
        masks = {
            f"{name}.weight": mask for name, linear in targets_of(model).items() if (mask := _mask(linear)) is not None
        }
        checkpoint = from_module(model, masks=masks)
    config = getattr(model, "config", None)
    if config is not None:
        checkpoint = dataclasses.replace(checkpoint, files={"config.json": config.to_json_string().encode()})
    formats.write(folder, checkpoint)


def load_sparse(model: nn.Module, folder: str | os.PathLike[str]) -> nn.Module:
    """Load a sparse checkpoint into a plain model of its config; every projection remembers its support, for `wrap`."""
    if layers_of(model):
        raise SeftError("CKP-002", "load_sparse takes a plain model; wrap it afterwards")
    checkpoint = formats.read(folder)
    to_module(checkpoint, model)
    for name, linear in targets_of(model).items():
        tensor = checkpoint.tensors[checkpoint.tied.get(f"{name}.weight", f"{name}.weight")]
        mask = torch.ones(linear.weight.shape, dtype=torch.bool)
        if isinstance(tensor, formats.Sparse):
            mask.view(-1).zero_()[torch.from_numpy(formats.flat(tensor).copy())] = True
        linear.register_buffer(MASK, mask.to(linear.weight.device), persistent=False)
    return model


def _mask(linear: nn.Module) -> Tensor | None:
    """Return the support to write; what torch.nn.utils.prune prunes is told by the module itself."""
    return mask_of(linear) if MASK in dict(linear.named_buffers(recurse=False)) else None


@contextmanager
def _plain_layers(model: nn.Module) -> Iterator[None]:
    """Let the model have plain layers, which share the weights of its sparse ones."""
    layers = layers_of(model)
    for name, layer in layers.items():
        replace(model, name, plain(layer))
    try:
        yield
    finally:
        for name, layer in layers.items():
            replace(model, name, layer)
