"""Write and read sparse checkpoints (chapter 12) of a model that is wrapped, merged or has adapters, with its masks."""

import dataclasses
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

import formats
from formats.dialects import coded
from formats.dialects.torch_module import from_module, to_module
from seft_ports.pytorch.errors import SeftError
from seft_ports.pytorch.linear import MASK, SeftLinear
from seft_ports.pytorch.model import layers_of, replace, targets_of
from seft_ports.pytorch.patterns import RECORD, parse_record, record_of
from seft_ports.pytorch.split import is_split, reshard, whole

__all__ = ["checkpoint_of", "load_sparse", "save_sparse"]

_COMPANIONS = "seft_companions"
"""Name of the attribute in which a model keeps the files that its sparse checkpoint had beside the weights."""
_TRAVEL = (
    *("generation_config.json", "chat_template.jinja", "tokenizer.json", "tokenizer_config.json", "tokenizer.model"),
    *("special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt"),
)
"""Files of a folder that from_pretrained loaded which are written beside the weights (CKP-005.2)."""


def save_sparse(
    model: nn.Module, folder: str | os.PathLike[str], *, beside: str | os.PathLike[str] | None = None
) -> None:
    """Write a model with the support of each projection, so that a stored zero is not an absent weight (CKP-004).

    Embeddings, norms, biases and lm_head are written as they are (CKP-005), and beside them the config, the record of
    pruning, and tokenizer and generation config if the model came from a folder that has them. If FSDP splits the
    model, every process must call this; the first one writes. Of a model of PEFT the active SEFT adapter is part of the
    weights.

    beside  the folder of the quantised model that was loaded: its codes stay, and trained weights stand beside them
            (QNT-006). None writes all weights as floats

    Raises:
        FormatError: FMT-110 if `folder` exists.
    """
    reshard(model)
    if any(is_split(tensor) for tensor in model.parameters()):
        _write_first(_gathered(model), folder, _companions(model), beside)
        return
    model = _bare(model)
    with _plain_layers(model):
        _write(model, folder, _companions(model), beside)


def checkpoint_of(model: nn.Module) -> formats.Checkpoint:
    """Return the checkpoint that `save_sparse` would write of an unsplit model, without config; it shares memory."""
    model = _bare(model)
    with _plain_layers(model):
        return _read(model)


def _bare(model: nn.Module) -> nn.Module:
    """Return the model inside one of PEFT, or the model itself."""
    inner: nn.Module = model.get_base_model() if hasattr(model, "peft_config") else model
    return inner


def _masks(model: nn.Module) -> dict[str, Tensor]:
    # from_module reads the masks of torch.nn.utils.prune itself
    return {f"{n}.weight": module.get_buffer(MASK) for n, module in model.named_modules() if MASK in module._buffers}


def _write_first(
    model: nn.Module, folder: str | os.PathLike[str], files: dict[str, bytes], beside: str | os.PathLike[str] | None
) -> None:
    """Write in the first process; the others wait, and raise if it could not write."""
    failed = None
    if dist.get_rank() == 0:
        try:
            _write(model, folder, files, beside)
        except Exception as error:  # noqa: BLE001, raised below
            failed = error
    message = [failed if failed is None else str(failed)]
    dist.broadcast_object_list(message, 0)
    if failed is not None:
        raise failed
    if message[0] is not None:
        msg = f"the first process could not write: {message[0]}"
        raise RuntimeError(msg)


def _write(
    model: nn.Module, folder: str | os.PathLike[str], files: dict[str, bytes], beside: str | os.PathLike[str] | None
) -> None:
    checkpoint = dataclasses.replace(_read(model), files=files)
    if beside is not None:
        checkpoint = coded.beside(formats.read(beside), checkpoint)
    formats.write(folder, checkpoint)


def _read(model: nn.Module) -> formats.Checkpoint:
    """Return the tensors of a model of plain layers; a head that the config ties is left out, as in stock files."""
    checkpoint = from_module(model, masks=_masks(model))
    if getattr(getattr(model, "config", None), "tie_word_embeddings", False):
        tied = {name: of for name, of in checkpoint.tied.items() if name != "lm_head.weight"}
        return dataclasses.replace(checkpoint, tied=tied)
    return checkpoint


def _companions(model: nn.Module) -> dict[str, bytes]:
    """Return the files beside the weights of a model: those that it came with, and its config and record of pruning."""
    companions: dict[str, bytes] | None = getattr(model, _COMPANIONS, None)
    if companions is None:
        path = getattr(model, "name_or_path", None)
        there = [Path(str(path)) / name for name in _TRAVEL] if path else []
        companions = {file.name: file.read_bytes() for file in there if file.is_file()}
    config, record = getattr(model, "config", None), record_of(model)
    files = companions | ({} if config is None else {"config.json": config.to_json_string().encode()})
    return files | ({} if record is None else {"pruning.json": record})


def load_sparse(model: nn.Module, folder: str | os.PathLike[str]) -> nn.Module:
    """Load a sparse checkpoint into a plain model of its config; each projection keeps its support for `wrap`.

    A quantised model is loaded as weights, not as codes (QNT-002), so the plain model must be in float32.

    folder  a sparse checkpoint

    Raises:
        SeftError: CKP-002 for a wrapped or adapted model, PRN-008 for a damaged record of pruning.
        FormatError: FMT-156 for names that do not fit the model, or the clause that the file breaks.
        FileNotFoundError: if there is no such folder.
    """
    if layers_of(model):
        raise SeftError("CKP-002", "load_sparse takes a plain model; wrap it afterwards")
    checkpoint = formats.read(folder)
    if checkpoint.scales:
        checkpoint = coded.expanded(checkpoint)
    to_module(checkpoint, model)
    setattr(model, _COMPANIONS, {name: bytes(data) for name, data in checkpoint.files.items()})
    record = checkpoint.files.get("pruning.json")
    if record is not None:
        # PRN-008
        parse_record(record)
        setattr(model, RECORD, bytes(record))
    for name, linear in targets_of(model).items():
        tensor = checkpoint.tensors[checkpoint.tied.get(f"{name}.weight", f"{name}.weight")]
        mask = torch.ones(linear.weight.shape, dtype=torch.bool)
        if isinstance(tensor, formats.Sparse):
            mask.view(-1).zero_()[torch.from_numpy(formats.flat(tensor).copy())] = True
        linear.register_buffer(MASK, mask.to(linear.weight.device), persistent=False)
    return model


def _gathered(model: nn.Module) -> nn.Module:
    """Return bare modules with the whole tensors of a split model, on the CPU; they are empty except in process 0."""
    bare, first = nn.Module(), dist.get_rank() == 0
    bare.config = getattr(model, "config", None)
    copies: dict[object, Tensor] = {}

    def gathered(tensor: Tensor, key: object) -> Tensor:
        """Gather a tensor once, in every process, so that tied tensors stay tied."""
        if key not in copies:
            copies[key] = whole(tensor).detach().cpu() if first else whole(tensor).new_zeros(0)
        return copies[key]

    for path, module in model.named_modules(remove_duplicate=False):
        at = bare
        for name in path.split(".") if path else ():
            if name not in at._modules:
                at.add_module(name, nn.Module())
            at = at.get_submodule(name)
        tensors = dict(module.named_parameters(recurse=False))
        if isinstance(module, SeftLinear):
            at.register_buffer(MASK, gathered(module.support(), (id(module), MASK)), persistent=False)
            at.register_buffer("weight", gathered(module.refresh(), (id(module), "weight")))
            tensors.pop("values")
            tensors.pop("weight")
        else:
            lasting = dict(module.named_buffers(recurse=False))
            tensors |= {name: x for name, x in lasting.items() if name not in module._non_persistent_buffers_set}
        for name, tensor in tensors.items():
            at.register_buffer(name, gathered(tensor, id(tensor)))
    return bare


@contextmanager
def _plain_layers(model: nn.Module) -> Iterator[None]:
    """Replace the sparse layers by plain ones that share their weights, until the context ends."""
    # two kinds of sparse layers have `plain`: those of this port and those of seft_ports.peft
    layers = {name: module for name, module in model.named_modules() if hasattr(module, "plain")}
    # PEFT's name for a copy that modules_to_save trains in the place of a module
    copies = {n: module for n, module in model.named_modules() if type(module).__name__ == "ModulesToSaveWrapper"}
    for name, layer in layers.items():
        replace(model, name, layer.plain())
    for name, module in copies.items():
        replace(model, name, _active_copy(module))
    try:
        yield
    finally:
        for name, layer in (layers | copies).items():
            replace(model, name, layer)


def _active_copy(wrapper: Any) -> nn.Module:
    """Return the module that a wrapper of PEFT for modules_to_save calls in its forward."""
    active = [name for name in wrapper.active_adapters if name in wrapper.modules_to_save]
    module: nn.Module = wrapper.original_module
    if active and not wrapper.disable_adapters:
        module = wrapper.modules_to_save[active[0]]
    return module
