"""`wrap` makes the linear layers in the blocks of a model sparse layers; `merge` makes them plain ones again."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from seft_ports.pytorch.delta import budgets, initial
from seft_ports.pytorch.errors import SeftError
from seft_ports.pytorch.linear import MASK, SeftLinear, check_mask
from seft_ports.pytorch.padding import Padding
from seft_ports.pytorch.patterns import check_kept, check_pattern
from seft_ports.pytorch.settings import Settings
from seft_ports.pytorch.split import is_split
from seft_ports.pytorch.update import SparseUpdate, check_finished

__all__ = [
    "NO_TARGETS",
    "TARGETS",
    "layers_of",
    "mask_of",
    "mask_zeros",
    "merge",
    "place_first",
    "place_of",
    "record_support",
    "replace",
    "show_overflow",
    "targets_of",
    "watch_padding",
    "wrap",
    "wrapped_layers",
]

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The projections of a block, in the order of their matrix indices (MDL-007)."""
NO_TARGETS = "no block of the model has a torch.nn.Linear; Conv1D (GPT-2) and experts in one tensor are not trained"
_SCORED = ("LlamaAttention", "MistralAttention", "Qwen2Attention", "Qwen3Attention")
"""The attentions of transformers whose queries and keys `_Scores` knows how to pair."""


def targets_of(model: nn.Module) -> dict[str, nn.Module]:
    """Return the linear layers of all blocks by name, in the order of matrix indices.

    A block is a module that its parent numbers, as `nn.ModuleList` does; heads and embeddings are in none.
    A linear layer is a module with `in_features` and `out_features`: `nn.Linear`, a quantised or a sparse layer, or an
    adapted one.
    """
    return dict(sorted(_linears_of_blocks(model, "", in_block=False), key=lambda one: place_of(one[0])))


def _linears_of_blocks(module: nn.Module, prefix: str, *, in_block: bool) -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        if not (hasattr(child, "in_features") and hasattr(child, "out_features")):
            yield from _linears_of_blocks(child, f"{prefix}{name}.", in_block=in_block or name.isdigit())
        elif in_block:
            yield f"{prefix}{name}", child


def place_of(name: str) -> tuple[bool, int, int]:
    """Return a key that sorts names of linear layers into the order of matrix indices (MDL-007).

    The projections of `TARGETS` come first, block by block; all other layers follow in the order of the model.
    """
    parts = name.split(".")
    blocks = [int(part) for before, part in pairwise(parts) if before == "layers" and part.isdigit()]
    return (False, blocks[0], TARGETS.index(parts[-1])) if blocks and parts[-1] in TARGETS else (True, 0, 0)


def layers_of(model: nn.Module) -> dict[str, SparseUpdate]:
    """Return the sparse updates that a run trains by name, in the order of matrix indices.

    In a wrapped model these are its sparse layers, in a model of PEFT those of the active adapter.
    """
    updates = {name: module for name, module in model.named_modules() if isinstance(module, SparseUpdate)}
    return dict(sorted((one for one in updates.items() if one[1].trained), key=lambda one: one[1].matrix))


def wrapped_layers(model: nn.Module) -> dict[str, SeftLinear]:
    """Return the sparse layers of a wrapped model by name, in the order of matrix indices; refuse adapters of PEFT."""
    layers = {}
    for name, layer in layers_of(model).items():
        if not isinstance(layer, SeftLinear):
            msg = "the model has an adapter of PEFT: make a plain model of it first, model = model.merge_and_unload()"
            raise NotImplementedError(msg)
        layers[name] = layer
    return layers


def mask_of(linear: nn.Module) -> Tensor | None:
    """Return the support of a layer as booleans, (out, in), or None if the layer has no record of it.

    A record is left by `merge`, by `load_sparse` and by torch.nn.utils.prune.
    """
    if isinstance(linear, SeftLinear):
        return linear.support()
    buffers = dict(linear.named_buffers(recurse=False))
    if MASK in buffers:
        return buffers[MASK]
    return buffers["weight_mask"] != 0 if "weight_mask" in buffers else None


def mask_zeros(model: nn.Module) -> dict[str, Tensor]:
    """Return a mask of each linear layer of the blocks, by name, that is true where the weight is not zero.

    It is a guess for a model whose file records no support. Make it once, right after pruning, because training may
    bring a stored weight to zero (TOP-004).

    A mask is bool, (out, in).
    """
    return {name: linear.weight.detach() != 0 for name, linear in targets_of(model).items()}


def record_support(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Record the support of layers, for `wrap` and for SeftConfig(support="recorded"), in buffers outside a state_dict.

    masks  booleans, (out, in), by the name of a module; for a quantised model those of the model before quantisation

    Raises:
        SeftError: TOP-004 for a mask of another shape or dtype.
    """
    for name, mask in masks.items():
        layer = model.get_submodule(name)
        shape = (layer.out_features, layer.in_features)
        if tuple(mask.shape) != shape or mask.dtype != torch.bool:
            raise SeftError(
                "TOP-004", f"the mask of {name} is {mask.dtype} of shape {tuple(mask.shape)}, expected bool of {shape}"
            )
        layer.register_buffer(MASK, mask.to(next(layer.parameters()).device), persistent=False)


def wrap(model: nn.Module, settings: Settings, masks: Mapping[str, Tensor] | None = None) -> nn.Module:
    """Make the linear layers in the blocks of a model sparse layers, freeze everything else, and return the model.

    masks  the support of each layer, by the name of its module; without them each layer needs a record of its own, as
           `load_sparse` and torch.nn.utils.prune leave it

    Raises:
        SeftError: MDL-007 for a model without such layers and for a layer that computes something else, TOP-004 for a
            layer without a mask, CKP-001 for 16-bit weights, CKP-003 for NaN.
    """
    targets = targets_of(model)
    if not targets:
        raise SeftError("MDL-007", NO_TARGETS)
    check_kept(model, settings)
    supports = {name: (masks or {}).get(name, mask_of(linear)) for name, linear in targets.items()}
    for name, linear in targets.items():
        _check(name, linear, supports[name], settings)
    # MDL-007
    model.requires_grad_(requires_grad=False)
    shapes = [(linear.out_features, linear.in_features) for linear in targets.values()]
    slots = budgets(settings, shapes, [int(support.sum()) for support in supports.values()])
    layers = {}
    for matrix, name in enumerate(supports):
        # layers are replaced one by one, and each old one is released, so that only one matrix is in memory twice
        layers[name] = _sparse(targets.pop(name), supports[name], settings, matrix, slots[matrix])
        replace(model, name, layers[name])
    show_overflow(model)
    watch_padding(model, layers.values(), settings)
    # DDP need not broadcast them, because every rank makes the same event from the same gradient
    ignored = [f"{name}.{buffer}" for name, layer in layers.items() for buffer in (*layer._buffers, "weight", "bias")]
    nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, ignored)
    return model


def watch_padding(model: nn.Module, updates: Iterable[SparseUpdate], settings: Settings) -> None:
    """Let updates leave out the rows of padding, if their rule looks at the inputs of layers (GRD-006)."""
    if "inputs" in settings.asks() | settings.asks_at_end():
        padding = Padding()
        padding.watch(model)
        for update in updates:
            update.padding = padding


def show_overflow(model: nn.Module) -> None:
    """Let a model of transformers give NaN where a layer overflows, so that its loss is NaN too (LYR-015, LYR-016).

    Scores are looked at in the attentions of LLaMA, Mistral, Qwen2 and Qwen3, the models of MDL-001.
    """
    for module in list(model.modules()):
        if type(module).__name__.endswith("RMSNorm"):
            module.register_forward_hook(_show_overflow)
        if type(module).__name__ in _SCORED:
            _Scores(module)


def _show_overflow(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Return the output of an RMSNorm with NaN in the rows whose squares overflow; the module itself gives 0 there.

    The NaN reaches the loss, so the step is refused (TRN-007), and no norm has to wait for the device.
    """
    # LYR-015, TRN-019: squares are in float32, because the modules of transformers compute in it
    square = inputs[0].detach().float().square().mean(-1, keepdim=True)
    return output + (square - square).to(output.dtype)


class _Scores:
    """Hooks of one attention: its output is NaN at a token whose query has an infinite or NaN score with its own key.

    The NaN reaches the loss, so the step is refused (TRN-007). Without the hooks such a step could pass: a query whose
    scores are all -inf attends to masked keys, because transformers gives those finite scores. And
    `scaled_dot_product_attention` gives 0 for that query, and for one whose scores are all NaN.

    One score of each query is enough. Every query sees its own key, and RoPE does not change their product. If that
    score is finite, another that is +inf or NaN makes the output NaN anyway. A score of -inf beside a finite one is
    refused only if it is the score of the query's own key.
    """

    def __init__(self, attention: nn.Module) -> None:
        self._width = attention.head_dim
        self._query: Tensor | None = None
        self._trouble: Tensor | None = None
        norms = hasattr(attention, "q_norm")
        attention.get_submodule("q_norm" if norms else "q_proj").register_forward_hook(self._remember)
        attention.get_submodule("k_norm" if norms else "k_proj").register_forward_hook(self._score)
        attention.get_submodule("o_proj").register_forward_hook(self._show)

    def _remember(self, _: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
        self._query = output.detach()

    def _score(self, _: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
        assert self._query is not None
        key = output.detach().reshape(*output.shape[:2], -1, 1, self._width)
        # LYR-007: several query heads share one key head
        query = self._query.reshape(*key.shape[:3], -1, self._width)
        self._query = None
        # LYR-016, TRN-019: an infinite or NaN entry of q or k makes the score NaN or infinite, and s - s is then NaN
        scores = (query * key).sum(-1).flatten(2)
        self._trouble = (scores - scores).sum(-1, keepdim=True)

    def _show(self, _: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> Tensor:
        assert self._trouble is not None
        trouble, self._trouble = self._trouble, None
        return output + trouble.to(output.dtype)


def _check(name: str, linear: nn.Module, mask: Tensor | None, settings: Settings) -> None:
    """Refuse a layer that cannot be made sparse."""
    if not (type(linear) is nn.Linear or _is_product(linear)):
        raise SeftError("MDL-007", f"{name} is a {type(linear).__name__}, expected torch.nn.Linear")
    if is_split(linear.weight):
        msg = f"{name} is split (FSDP); wrap the model before it is"
        raise NotImplementedError(msg)
    if mask is None:
        raise SeftError(
            "TOP-004", f"nothing tells the support of {name}; give masks, or mask_zeros(model) if its zeros are pruned"
        )
    weight = linear.weight.detach()
    if weight.dtype not in (torch.float32, torch.float64) and not settings.keep_dtype:
        raise SeftError(
            "CKP-001",
            f"{name} is {weight.dtype}; load the model with dtype=float32, or ask for Settings(keep_dtype=True)",
        )
    if not bool(torch.isfinite(weight).all()):
        raise SeftError("CKP-003", f"{name} has a NaN or infinite weight")
    check_mask(mask, weight)
    if settings.pattern is not None:
        check_pattern(mask, settings.pattern)


@torch.no_grad()
def _is_product(linear: nn.Module) -> bool:
    """Return whether a layer of another class computes x Wᵀ + b as nn.Linear does, such as FalconLinear."""
    weight = getattr(linear, "weight", None)
    shape = (linear.out_features, linear.in_features)
    if not isinstance(linear, nn.Linear) or weight is None or weight.shape != shape or not weight.is_floating_point():
        return False
    x = torch.linspace(-1, 1, linear.in_features, dtype=weight.dtype, device=weight.device)[None]
    return torch.allclose(linear(x), nn.functional.linear(x, weight, linear.bias), equal_nan=True)


def _sparse(linear: nn.Module, mask: Any, settings: Settings, matrix: int, slots: int) -> SeftLinear:
    weight = linear.weight.detach()
    layer = SeftLinear(weight, mask.to(weight.device), slots, linear.bias, matrix, settings)
    place_first(layer, settings)
    return layer.train(linear.training)


def place_first(update: SparseUpdate, settings: Settings) -> None:
    """Give an empty update its first positions, unless the gradient of the first step chooses them.

    The matrix index of the update must be set before, because random draws depend on it (DLT-004).
    """
    if settings.initial_positions != "gradient":
        base = update.base()
        everywhere = torch.ones_like(base) if settings.initial_scope == "anywhere" else base
        allowed = torch.nonzero(everywhere.view(-1)).flatten()
        # the weight is 0 outside B, and so is b
        weight = update.effective().reshape(-1)[allowed]
        update.place(initial(settings, allowed, weight, update.delta_budget, update.matrix))


def replace(model: nn.Module, name: str, module: nn.Module) -> None:
    """Replace the submodule of this name."""
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)


def merge(model: nn.Module) -> dict[str, Tensor]:
    """Replace the sparse layers by plain ones with the effective weight, and return the support of each by name.

    Raises:
        SeftError: EVT-004 if a matrix stores more than it did at load; the last adapt pass has not run.
    """
    layers = wrapped_layers(model)
    if any(is_split(layer.weight) or is_split(layer.values) for layer in layers.values()):
        msg = "the model is split (FSDP): save_sparse in every process, load_sparse into a plain model, which is merged"
        raise NotImplementedError(msg)
    check_finished(layers)
    supports = {name: layer.support() for name, layer in layers.items()}
    for name, layer in layers.items():
        replace(model, name, layer.plain())
    return supports
