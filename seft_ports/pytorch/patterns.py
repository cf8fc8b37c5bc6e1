"""N:M patterns: at most N of every M neighbours of a row are stored (TOP-005), on GPUs as semi-structured tensors."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from seft_ports.pytorch.errors import SeftError
from seft_ports.pytorch.select import smallest_of_pools
from seft_ports.pytorch.settings import Settings

__all__ = ["RECORD", "check_kept", "check_pattern", "keep_pattern", "parse_record", "record_of", "to_semi_structured"]

RECORD = "seft_record"
"""Name of the attribute in which a model keeps its record of pruning."""


def parse_record(text: str | bytes) -> tuple[int, int] | None:
    """Return (N, M) of the pattern that a pruning.json names, or None if it names none.

    Raises:
        SeftError: PRN-008 for a text that is no record of pruning.
    """
    try:
        pattern = json.loads(text).get("pattern")
        most, group = (int(n) for n in pattern.split(":")) if pattern is not None else (0, 0)
    except (ValueError, AttributeError, TypeError) as error:
        # PRN-008
        raise SeftError("PRN-008", f"pruning.json is no record of pruning ({error}); prune the model again") from error
    return (most, group) if pattern is not None else None


def record_of(model: nn.Module) -> bytes | None:
    """Return the record of pruning (PRN-008) that a model came with, the bytes of its pruning.json, or None.

    `load_sparse` keeps it, and a folder that from_pretrained loaded has it beside the weights.
    """
    record: bytes | None = getattr(model, RECORD, None)
    if record is not None:
        return record
    file = Path(str(getattr(model, "name_or_path", None) or "")) / "pruning.json"
    return file.read_bytes() if file.is_file() else None


def check_kept(model: nn.Module, settings: Settings) -> None:
    """Refuse settings that name no pattern and would break the one that the model is pruned to (EVT-007)."""
    leaves = settings.initial_scope == "anywhere" or (settings.evolves and settings.grow_scope != "active")
    # EVT-007
    record = record_of(model) if settings.pattern is None and leaves else None
    if record is not None and (pattern := parse_record(record)) is not None:
        most, group = pattern
        raise SeftError(
            "EVT-007",
            f"the model is pruned {most}:{group}, and growth anywhere breaks that: give pattern=({most}, {group}), "
            "which grows among stored weights, and scope='group' for a pattern that moves",
        )


def check_pattern(base: Tensor, pattern: Sequence[int]) -> None:
    """Raise SeftError (TOP-005) for a support, booleans (out, in), that does not fit an N:M pattern."""
    most, group = pattern
    # TOP-005
    if base.shape[1] % group:
        raise SeftError("TOP-005", f"a row of {base.shape[1]} weights has no groups of {group}; leave out pattern")
    if base.numel() and int(base.view(-1, group).sum(1).max()) > most:
        raise SeftError(
            "TOP-005", f"a group of {group} stores more than {most} weights; prune the model {most}:{group} first"
        )


def keep_pattern(scores: Tensor, pattern: Sequence[int]) -> Tensor:
    """Return a mask with the N largest scores of every M neighbours of a row, ties to the lower column (PRN-004).

    scores  (out, in), such as weight.abs(); the mask has the same shape

    Raises:
        SeftError: PRN-004 if M does not divide the row, SEL-004 for a NaN or infinite score.
    """
    most, group = pattern
    # PRN-004
    if scores.shape[1] % group:
        raise SeftError("PRN-004", f"a row of {scores.shape[1]} weights has no groups of {group}")
    pools = torch.arange(scores.numel(), device=scores.device) // group
    counts = torch.full((scores.numel() // group,), most, device=scores.device)
    mask = torch.zeros(scores.numel(), dtype=torch.bool, device=scores.device)
    mask[smallest_of_pools(-scores.reshape(-1), pools, counts)] = True
    return mask.view(scores.shape)


def to_semi_structured(model: nn.Module, names: Sequence[str] | None = None) -> list[str]:
    """Make the weights of linear layers that fit 2:4 torch's semi-structured tensors, which GPUs multiply faster.

    Merge before, because such a weight is not trained. It holds two of every four weights and two bits for each. Torch
    takes float16 and bfloat16, a multiple of 32 rows, and one of 64 columns.

    names  names of the modules; None for all linear layers whose weight fits

    Returns:
        The names of the layers that were changed.

    Raises:
        SeftError: TOP-005 for a layer that was named and does not fit; nothing is changed then.
        NotImplementedError: on a processor, for which torch has no such products; ValueError for weights in 32 bits.
    """
    layers = {name: one for name, one in model.named_modules() if isinstance(one, nn.Linear)}
    for name in names or ():
        check_pattern(layers[name].weight.detach() != 0, (2, 4))
        if not _fits(layers[name].weight):
            shape = tuple(layers[name].weight.shape)
            raise SeftError("TOP-005", f"{name} is {shape}; torch takes multiples of 32 rows and of 64 columns")
    chosen = [name for name, layer in layers.items() if _fits(layer.weight)] if names is None else list(names)
    for name in chosen:
        if layers[name].weight.dtype not in (torch.float16, torch.bfloat16):
            msg = f"{name} is {layers[name].weight.dtype}; torch multiplies 2:4 in 16 bits: model.to(torch.bfloat16)"
            raise ValueError(msg)
        if not _on_gpu(layers[name].weight):
            msg = "torch multiplies 2:4 tensors on GPUs alone; move the model to one first: model.to('cuda')"
            raise NotImplementedError(msg)
    packed = {name: torch.sparse.to_sparse_semi_structured(layers[name].weight.detach()) for name in chosen}
    for name, weight in packed.items():
        layers[name].weight = nn.Parameter(weight, requires_grad=False)
    return chosen


def _fits(weight: Tensor) -> bool:
    """Return whether a weight is 2:4 and of a shape that torch takes."""
    rows, columns = weight.shape
    if rows % 32 or columns % 64:
        return False
    return int((weight.detach() != 0).view(-1, 4).sum(1).max()) <= 2


def _on_gpu(weight: Tensor) -> bool:
    return weight.device.type != "cpu"
