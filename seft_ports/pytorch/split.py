"""Gather tensors that FSDP splits over processes, and split them again.

FSDP (`fully_shard`) makes a parameter a DTensor, of which each process holds a part. During forward and backward the
parameter is an ordinary, gathered tensor. `whole`, `part` and `put` take both kinds, and leave an ordinary tensor as
it is. With a DTensor they communicate, so every process must call them in the same order.
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
    """Return whether a tensor is a DTensor, without importing torch.distributed.tensor."""
    return hasattr(x, "full_tensor")


def local(x: Any) -> Tensor:
    """Return the part of x that this process holds, in the same memory."""
    share: Tensor = x.detach().to_local() if is_split(x) else x
    return share


def whole(x: Any) -> Tensor:
    """Return all of x, gathered and detached, or x itself if it is not split."""
    gathered: Tensor = x.detach().full_tensor() if is_split(x) else x
    return gathered


def split_as(like: Any, new: Tensor) -> Tensor:
    """Return `new`, the same on every process, split as `like` is, or `new` itself if `like` is not split."""
    if not is_split(like) or is_split(new):
        return new
    from torch.distributed.tensor import distribute_tensor

    # without a source rank nothing is sent, because every process already has the whole tensor
    split: Tensor = distribute_tensor(new, like.device_mesh, like.placements, src_data_rank=None)
    return split


def part(new: Tensor, like: Any) -> Tensor:
    """Return this process's part of `new`, split as `like` is; every process must pass the same `new`."""
    return local(split_as(like, new))


def put(x: Tensor, new: Tensor) -> None:
    """Write the whole tensor `new`, the same on every process, into x, which may be split."""
    if new is not x:
        local(x).copy_(part(new, x))


def add(x: Any, new: Tensor) -> None:
    """Add `new` to x in place; if x is split, add the mean of `new` over all processes."""
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
    """Replace x, which is not split, by its mean over all processes, in place, and return it."""
    if (n := processes()) > 1:
        dist.all_reduce(x)
        x /= n
    return x


def all_true(flags: list[Tensor], *, everywhere: bool) -> bool:
    """Return whether all flags are true; with `everywhere`, those of every process."""
    if not flags:
        return True
    flag = torch.stack(flags).all().to(torch.int32)
    if everywhere:
        dist.all_reduce(flag, dist.ReduceOp.MIN)
    return bool(flag)


def reshard(model: nn.Module) -> None:
    """Split parameters again that FSDP left gathered after a forward without a backward."""
    if not (dist.is_available() and dist.is_initialized()):
        return
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
