"""Tensors that FSDP splits over processes: whole ones made of their parts, and back.

FSDP (`fully_shard`) makes a parameter a DTensor, of which each process holds a part; inside forward and backward the
parameter is an ordinary tensor, gathered for the time. `whole`, `part` and `put` take both kinds, and leave an
ordinary tensor as it is. What they ask of a DTensor every process asks in the same order.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = [
    "add",
    "all_true",
    "is_split",
    "local",
    "mean_of_all",
    "part",
    "processes",
    "put",
    "reshard",
    "split_as",
    "whole",
]


def is_split(x: Any) -> bool:
    """Return whether a tensor is a DTensor; asked so that torch.distributed.tensor need not be imported."""
    return hasattr(x, "full_tensor")


def local(x: Any) -> Tensor:
    """Return what this process holds of x, in the same memory."""
    held: Tensor = x.detach().to_local() if is_split(x) else x
    return held


def whole(x: Any) -> Tensor:
    """Return all of x, detached; x itself where it is not split."""
    gathered: Tensor = x.detach().full_tensor() if is_split(x) else x
    return gathered


def split_as(like: Any, new: Tensor) -> Tensor:
    """Return a tensor, whole and alike everywhere, split as `like` is; the tensor itself where that is not split."""
    if not is_split(like) or is_split(new):
        return new
    from torch.distributed.tensor import distribute_tensor

    # without a source nothing is sent: every process has it all
    made: Tensor = distribute_tensor(new, like.device_mesh, like.placements, src_data_rank=None)
    return made


def part(new: Tensor, like: Any) -> Tensor:
    """Return what this process would hold of a tensor, whole and alike everywhere, if it were split as `like` is."""
    return local(split_as(like, new))


def put(x: Tensor, new: Tensor) -> None:
    """Write a whole tensor, alike everywhere, into x, which may be split."""
    if new is not x:
        local(x).copy_(part(new, x))


def add(x: Any, new: Tensor) -> None:
    """Add a tensor of this process to x, in place; to x that is split, the mean of those of all processes."""
    if not is_split(x):
        x += new
        return
    from torch.distributed.tensor import DTensor, Partial

    mesh = x.device_mesh
    summed = DTensor.from_local(new, mesh, [Partial("avg")] * mesh.ndim, run_check=False)
    local(x).add_(local(summed.redistribute(placements=x.placements)))


def processes() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


@torch.no_grad()
def mean_of_all(x: Tensor) -> Tensor:
    """Make x, which is not split, the mean over the processes, in place."""
    if (n := processes()) > 1:
        dist.all_reduce(x)
        x /= n
    return x


def all_true(flags: list[Tensor], *, everywhere: bool) -> bool:
    """Return whether all flags are true, of every process if they may differ."""
    if not flags:
        return True
    told = torch.stack(flags).all().to(torch.int32)
    if everywhere:
        dist.all_reduce(told, dist.ReduceOp.MIN)
    return bool(told)


def reshard(model: nn.Module) -> None:
    """Let parameters that a forward without a backward left gathered be split again."""
    if not (dist.is_available() and dist.is_initialized()):
        return
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
