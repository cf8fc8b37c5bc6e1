"""Copies live torch modules into checkpoints, and loads checkpoints into modules (FMT-156).

    weight_orig, weight_mask  (torch.nn.utils.prune)   <->   weight: Sparse, the support is the mask

A pruned parameter is one tensor of a checkpoint. Zeros that the mask keeps stay stored, so that training goes on
with the same support after saving and loading.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.utils import prune

from formats import validate
from formats.dialects.torch_tensors import TORCH, check_kind, from_torch, to_torch
from formats.errors import CannotHold, FormatError
from formats.records import Array, Checkpoint, Dense, Mask, Sparse, Tensor, from_support, to_dense, with_values

_UNPRUNABLE = frozenset(dtype for dtype in TORCH if dtype.name.startswith("float8"))

SHOWN = 8
"""Names that a message lists before it counts the rest."""


@dataclass(frozen=True, slots=True, eq=False)
class _Slot:
    """A parameter or persistent buffer of a module under the name that a checkpoint gives it."""

    owner: torch.nn.Module
    attribute: str
    """Its name in owner, without the ``_orig`` of a pruned one."""
    tensor: torch.Tensor
    mask: torch.Tensor | None
    """The mask of torch.nn.utils.prune, None if it is not pruned."""
    is_parameter: bool

    @property
    def memory(self) -> object:
        """A key that is equal for tied slots; unique for a tensor without bytes, which nothing is tied to."""
        t = self.tensor
        key = (t.data_ptr(), t.device, t.dtype, tuple(t.shape), t.stride())
        return key if t.numel() and t.data_ptr() else id(self)


def from_module(
    module: torch.nn.Module, *, masks: Mapping[str, torch.Tensor | NDArray[np.bool_]] | None = None
) -> Checkpoint:
    """Return a copy of the parameters and persistent buffers of a module, under the names of its state_dict.

    Args:
        module: on any device. A parameter that torch.nn.utils.prune prunes becomes one sparse tensor whose support
            is its mask. A tied tensor is stored once, under its first name.
        masks: name -> booleans of the tensor's shape, True where stored, for supports that the module does not know.

    Raises:
        FormatError: FMT-156 for a state_dict that is not the module's parameters and buffers, and for masks that
            fit no tensor, are not boolean, or leave out a value that is not zero.
        CannotHold: FMT-154 for a tensor that a checkpoint cannot hold, and for tied tensors with two supports.
    """
    slots = _slots(module)
    supports = _of_tied(_given_masks(masks or {}, slots), slots)
    tensors: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    owners: dict[object, tuple[str, NDArray[np.bool_] | None]] = {}
    for name, slot in slots.items():
        support = supports.get(name) if slot.mask is None else _support(slot.mask, name)
        if slot.memory in owners:
            target, other = owners[slot.memory]
            if (support is None) != (other is None) or (
                support is not None and other is not None and not np.array_equal(support, other)
            ):
                raise CannotHold(
                    "FMT-154",
                    f"{name!r} and {target!r} are one tensor with two supports; give both the same mask, or untie them",
                )
            tied[name] = target
            continue
        owners[slot.memory] = (name, support)
        tensors[name] = _record(slot, support, name)
    return Checkpoint("model", tensors, tied=tied)


def _of_tied(supports: dict[str, NDArray[np.bool_]], slots: Mapping[str, _Slot]) -> dict[str, NDArray[np.bool_]]:
    """Return masks by name; one that is given for a name of a tied tensor holds for its other names, too."""
    by_memory = {slots[name].memory: support for name, support in reversed(supports.items())}
    others = {n: by_memory[s.memory] for n, s in slots.items() if s.mask is None and s.memory in by_memory}
    return others | supports


def _record(slot: _Slot, support: NDArray[np.bool_] | None, name: str) -> Tensor:
    values = from_torch(slot.tensor, name=name).copy()
    if support is None:
        return Dense(values)
    if slot.mask is None and (outside := int(np.count_nonzero(values[~support]))):
        raise FormatError(
            "FMT-156", f"the mask of {name!r} leaves out {outside} values that are not zero; set them to 0 first"
        )
    return with_values(from_support(support), values[support])


def _support(mask: torch.Tensor, name: str) -> NDArray[np.bool_]:
    """Return the mask of a pruned parameter, which torch keeps as zeros and ones of its dtype, as booleans."""
    values = from_torch(mask, name=f"mask of {name}")
    support: NDArray[np.bool_] = values != 0
    if not bool((values[support] == 1).all()):
        raise CannotHold(
            "FMT-154", f"the mask of {name!r} holds values other than 0 and 1; apply it with prune.remove first"
        )
    return support


def _given_masks(
    masks: Mapping[str, torch.Tensor | NDArray[np.bool_]], slots: Mapping[str, _Slot]
) -> dict[str, NDArray[np.bool_]]:
    """Return the masks of the caller as arrays, after comparing them with the module (FMT-156)."""
    supports: dict[str, NDArray[np.bool_]] = {}
    unknown = sorted(set(masks) - set(slots))
    if unknown:
        raise FormatError("FMT-156", f"masks are given for {_listed(unknown)}, which the module does not have")
    for name, mask in masks.items():
        array: Array = from_torch(mask, name=f"mask of {name}") if isinstance(mask, torch.Tensor) else mask
        shape = tuple(slots[name].tensor.shape)
        if slots[name].mask is not None:
            raise FormatError("FMT-156", f"{name!r} is pruned by the module and given a mask as well; leave one out")
        if not isinstance(array, np.ndarray) or array.dtype != np.bool_ or array.shape != shape or not shape:
            raise FormatError(
                "FMT-156",
                f"the mask of {name!r} is {getattr(array, 'dtype', type(array))} of shape "
                f"{list(getattr(array, 'shape', ()))}, expected bool of shape {list(shape)}, at least one dimension",
            )
        supports[name] = array
    return supports


def to_module(
    checkpoint: Checkpoint, module: torch.nn.Module, *, strict: bool = True, prune_masks: bool = False
) -> None:
    """Load a checkpoint into the parameters and persistent buffers of a module, in place.

    Absent positions become +0.0. A parameter that the module already prunes takes values and mask from the
    checkpoint; a dense tensor gives it a mask of ones. Everything is checked, and every record is in memory, before
    anything is changed; dense arrays are made one at a time.

    Args:
        checkpoint: names, shapes and dtypes as in the module; a name may be absent if a name tied to it is there.
        module: on any device but meta.
        strict: whether a name that only one side has is an error; shapes and dtypes must agree in any case.
        prune_masks: prune each parameter whose tensor is sparse with torch.nn.utils.prune.custom_from_mask, so that
            training keeps the support. Optimizers made before keep working: the parameter stays the same object.

    Raises:
        FormatError: FMT-156, listing every tensor that is missing, unexpected or of another shape or dtype.
        CannotHold: FMT-154 for a mask without values.
        FormatError: the clause that a record breaks.
    """
    slots = _slots(module)
    sources = {name: checkpoint.tied.get(name, name) for name in (*checkpoint.tensors, *checkpoint.tied)}
    validate.check_tied(checkpoint.tied, checkpoint.tensors)
    groups: dict[object, list[str]] = defaultdict(list)
    for name, slot in slots.items():
        groups[slot.memory].append(name)
    # a tied name whose twin is present is not missing, because stock files leave it out
    for names in groups.values():
        present = [name for name in names if name in sources]
        sources.update({name: sources[present[0]] for name in names if present and name not in sources})
    source_names = dict.fromkeys(sources[name] for name in slots if name in sources)
    records = {source: checkpoint.tensors[source] for source in source_names}
    for name, record in records.items():
        validate.check_record(record, name)
        if isinstance(record, Mask):
            raise CannotHold(
                "FMT-154", f"{name!r} is a mask without values, a module needs values; join them with with_values"
            )
    wrong = [*_other_names(slots, sources)] if strict else []
    wrong += _misfits(slots, sources, records, prune_masks=prune_masks)
    for names in groups.values():
        if len(loaded := sorted({sources[name] for name in names if name in sources})) > 1:
            wrong.append(f"{_listed(names)} are one tensor of the module, the checkpoint has {_listed(loaded)} apart")
    if wrong:
        more = [f"and {len(wrong) - SHOWN} more"] if len(wrong) > SHOWN else []
        raise FormatError("FMT-156", "; ".join([*wrong[:SHOWN], *more]))
    # places are grouped by owner, because a module that is used in two places is loaded and pruned once
    places = {(id(slot.owner), slot.attribute): name for name, slot in slots.items() if name in sources}
    for name in places.values():
        _load(slots[name], records[sources[name]], prune_masks=prune_masks)


def _other_names(slots: Mapping[str, _Slot], sources: Mapping[str, str]) -> Iterable[str]:
    if missing := sorted(set(slots) - set(sources)):
        yield f"missing in the checkpoint: {_listed(missing)}"
    if unexpected := sorted(set(sources) - set(slots)):
        yield f"unexpected, not in the module: {_listed(unexpected)}"


def _misfits(
    slots: Mapping[str, _Slot], sources: Mapping[str, str], records: Mapping[str, Tensor], *, prune_masks: bool
) -> Iterable[str]:
    for name in sorted(set(slots) & set(sources)):
        slot, record = slots[name], records[sources[name]]
        assert not isinstance(record, Mask)
        actual = (list(record.shape), TORCH.get(record.dtype, record.dtype))
        expected = (list(slot.tensor.shape), slot.tensor.dtype)
        if any(stride == 0 and n > 1 for n, stride in zip(slot.tensor.shape, slot.tensor.stride(), strict=True)):
            yield f"{name!r} is an expanded view, whose entries share memory; clone() it in the module"
        if actual[0] != expected[0]:
            yield f"{name!r} is {actual[1]} {actual[0]}, the module has {expected[1]} {expected[0]}"
        elif actual[1] != expected[1]:
            yield f"{name!r} is {actual[1]}, the module has {expected[1]}; make the module in dtype={actual[1]}"
        if prune_masks and isinstance(record, Sparse) and (not slot.is_parameter or record.dtype in _UNPRUNABLE):
            yield f"{name!r} is sparse, and torch prunes no buffer and no float8; expand it with to_dense"


def _load(slot: _Slot, record: Tensor, *, prune_masks: bool) -> None:
    values = to_torch(to_dense(record))
    with torch.no_grad():
        slot.tensor.detach().copy_(values)
    sparse = isinstance(record, Sparse)
    if slot.mask is None and not (prune_masks and sparse):
        return
    mask = to_torch(to_dense(Mask(record.shape, record.indptr, record.indices))) if isinstance(record, Sparse) else None
    if slot.mask is None:
        prune.custom_from_mask(slot.owner, slot.attribute, mask)
        return
    with torch.no_grad():
        if mask is None:
            slot.mask.fill_(1)
        else:
            slot.mask.copy_(mask)
    # the masked attribute is computed again, as prune does before each forward
    hook = _pruning(slot.owner)[slot.attribute]
    setattr(slot.owner, slot.attribute, hook.apply_mask(slot.owner))


def _slots(module: torch.nn.Module) -> dict[str, _Slot]:
    """Return the parameters and buffers that state_dict saves, in its order, by their names in a checkpoint.

    Raises:
        FormatError: FMT-156 for a state_dict that is not the module's own tensors.
        CannotHold: FMT-154 for a tensor without values or of a foreign kind.
    """
    slots: dict[str, _Slot] = {}
    own_names: set[str] = set()
    for path, owner in module.named_modules(remove_duplicate=False):
        prefix = f"{path}." if path else ""
        pruned = _pruning(owner)
        masks = {f"{attribute}_mask" for attribute in pruned}
        parameters = {k: p for k, p in owner._parameters.items() if p is not None}
        lasting = {
            k: b for k, b in owner._buffers.items() if b is not None and k not in owner._non_persistent_buffers_set
        }
        own_names |= {prefix + key for key in (*parameters, *lasting)}
        for key, tensor in (*parameters.items(), *lasting.items()):
            if key in masks:
                continue
            attribute = key.removesuffix("_orig") if key.removesuffix("_orig") in pruned else key
            name = prefix + attribute
            check_kind(tensor, name)
            mask = lasting[f"{attribute}_mask"] if attribute != key else None
            slots[name] = _Slot(owner, attribute, tensor, mask, key in parameters)
    other = sorted(own_names ^ set(module.state_dict()))
    if other:
        raise FormatError(
            "FMT-156",
            f"state_dict and the module's own parameters and buffers differ in {_listed(other)}: hooks or extra state "
            f"of a module cannot be carried; remove them, or save the state_dict with torch and use read_torch",
        )
    return slots


def _pruning(owner: torch.nn.Module) -> dict[str, prune.BasePruningMethod]:
    """Return name -> pruning hook of the parameters of one module that torch.nn.utils.prune prunes."""
    hooks = owner._forward_pre_hooks.values()
    return {hook._tensor_name: hook for hook in hooks if isinstance(hook, prune.BasePruningMethod)}


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(repr(name) for name in names[:SHOWN]) + more
