"""Reads and writes SEFT adapters of PEFT: amounts to add at flat positions, and positions to prune (FMT-171).

    q_proj.seft_delta.indices  I32 [K]  [ 2 6 13 ]    q_proj.seft_delta.values  F32 [K]  [ a b c ]
    q_proj.seft_delta.pruned   I32 [P]  [ 4 ]

If the base does not store the position of an index, that position is added to its support.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from formats import change
from formats.container import Section, dtype_name
from formats.delta_rules import ADD, REMOVE, REPLACE, operation_of
from formats.dialects.changes import (
    ABOUT,
    PREFIX,
    Changes,
    check_in_base,
    check_options,
    check_vector,
    float_base,
    open_adapter,
    sorted_support,
)
from formats.dialects.padding import SUFFIX, write_folder
from formats.dialects.stock import outline
from formats.errors import CannotHold, FormatError
from formats.lazy import Lazy
from formats.plain import set_bits
from formats.records import Array, Checkpoint, Dense, Mask, Sparse, Tensor, bits, flat, from_flat, with_values
from formats.strict_json import JSON

INDICES, VALUES, PRUNED = "seft_delta.indices", "seft_delta.values", "seft_delta.pruned"
KNOWN = ABOUT | {
    *("adapt", "adapts", "budget_by", "candidates", "counts", "density", "drop", "drop_fraction", "drop_schedule"),
    *("drops", "event_replaces_step", "events", "evolve_every", "evolve_until", "evolves", "exclude_modules", "exempt"),
    *("first_event", "gradient_window", "grow", "grow_scope", "init_weights", "initial_positions", "initial_scope"),
    *("layers_pattern", "layers_to_transform", "moments", "optimizer", "pattern", "preset", "rank", "regrow", "scope"),
    *("seed", "slots", "start", "stored", "stored_sha256", "support", "target_modules"),
}
"""Options that change no value."""
_INTEGERS = frozenset({"I32", "I64"})
_SLACK = 2.0**-20
"""Added to the number of slots that follows from a density, before it is rounded down (DLT-002)."""


def read_seft(folder: str | os.PathLike[str], base: Mapping[str, Tensor]) -> Changes:
    """Return the changes of a SEFT adapter (FMT-171).

    If the adapter prunes nothing, they are amounts to add. Otherwise they are new values and, for a sparse base,
    positions to remove.

    Args:
        folder: holds adapter_config.json and adapter_model.safetensors.
        base: name -> tensor of the model that the adapter was trained on.

    Raises:
        FormatError: FMT-171 for what is missing, unknown or does not fit, for positions when a tensor is accessed;
            FMT-121 for malformed weights.
    """
    adapter = open_adapter(Path(folder), "SEFT", [frozenset({INDICES, VALUES, PRUNED})], "FMT-171")
    check_options(adapter.config, KNOWN, "FMT-171")
    for sections in adapter.modules.values():
        _check_sections(sections)
    modules = adapter.base_names()
    check_in_base(modules, base, "FMT-171")
    _check_stored(adapter.config.get("stored_sha256"), [base[name] for name in sorted(modules)])
    prunes = any(sections[PRUNED].shape[0] for sections in adapter.modules.values())

    def parts(name: str) -> tuple[Sparse, NDArray[np.int64], Dense | Sparse]:
        """Return the amounts of a module, its pruned positions, both in ascending order, and its base tensor."""
        tensor = float_base(base, name, "FMT-171")
        if len(tensor.shape) != 2:
            raise FormatError("FMT-171", f"{name!r} of the base has shape {list(tensor.shape)}, expected a matrix")
        at, gone = (adapter.array(modules[name], role).astype(np.int64) for role in (INDICES, PRUNED))
        support, permutation = sorted_support(at, tensor.shape, name, "FMT-171")
        pruned = flat(sorted_support(gone, tensor.shape, name, "FMT-171")[0])
        if isinstance(tensor, Sparse) and not np.isin(pruned, flat(tensor)).all():
            raise FormatError(
                "FMT-171", f"the adapter prunes positions of {name!r} that the base does not store; is this its base?"
            )
        return with_values(support, adapter.array(modules[name], VALUES)[permutation]), pruned, tensor

    def amounts(name: str) -> Sparse:
        return parts(name)[0]

    def values(name: str) -> Sparse:
        amounts, pruned, tensor = parts(name)
        if dtype_name(tensor.dtype) not in change.SUMMED:
            raise FormatError(
                "FMT-171", f"{name!r} of the base is {dtype_name(tensor.dtype)}, to which no amounts are added"
            )
        at = flat(amounts)
        old = change.values_at(tensor, at)
        # ADPT-004: the base of a pruned position that grew again is 0
        old[np.isin(at, pruned)] = 0
        new = change.sums_of(old, amounts.values, tensor.dtype, name)
        if isinstance(tensor, Dense):
            # a dense tensor cannot lose a position, so a pruned weight becomes +0
            zeros = np.setdiff1d(pruned, at, assume_unique=True)
            at, new = np.concatenate([at, zeros]), np.concatenate([new, np.zeros(zeros.size, dtype=new.dtype)])
            order = np.argsort(at)
            at, new = at[order], new[order]
        return with_values(from_flat(tensor.shape, at), new)

    def removed(name: str) -> Mask:
        amounts, pruned, tensor = parts(name)
        return from_flat(tensor.shape, np.setdiff1d(pruned, flat(amounts), assume_unique=True))

    attributes = adapter.attributes("seft")
    if not prunes:
        return Changes(ADD, Lazy(modules, amounts), attributes)
    sparse = [name for name in modules if isinstance(base[name], Sparse)]
    return Changes(REPLACE, Lazy(modules, values), attributes, Lazy(sparse, removed))


def _check_sections(sections: Mapping[str, Section]) -> None:
    indices, values, pruned = (sections[role] for role in (INDICES, VALUES, PRUNED))
    check_vector(values, frozenset({"F32", "F64"}), "FMT-171")
    for section in (indices, pruned):
        check_vector(section, _INTEGERS, "FMT-171")
    if indices.shape != values.shape:
        raise FormatError("FMT-171", f"{indices.name!r} has {indices.shape[0]} indices beside {values.shape[0]} values")


def _check_stored(digest: JSON, tensors: Sequence[Tensor]) -> None:
    """Refuse a base that stores other positions than the digest says (FMT-171.10), if all of these are sparse."""
    matrices = [tensor for tensor in tensors if isinstance(tensor, Sparse) and len(tensor.shape) == 2]
    if digest is None or len(matrices) < len(tensors):
        return
    total = sha256()
    for matrix in matrices:
        mask = np.empty((matrix.shape[0], -(-matrix.shape[1] // 8)), dtype=np.uint8)
        set_bits(matrix.indptr, matrix.indices, mask)
        total.update(mask.data)
    if total.hexdigest() != digest:
        raise FormatError("FMT-171", "the base stores other positions than that of the adapter; is this its base?")


def write_seft(folder: str | os.PathLike[str], delta: Checkpoint, base: Mapping[str, Tensor]) -> None:
    """Write a delta as a SEFT adapter that PEFT loads once `seft_ports.peft` is imported (FMT-171.5).

    Args:
        folder: the folder to make.
        delta: the delta; each of its operations is read at least twice.
        base: name -> tensor of the model that it changes.

    Raises:
        CannotHold: FMT-154 for a tensor that is no matrix ``<module>.weight`` of floats, for one that is given as a
            whole, for a new value that no amount reaches, and for more changes than the base stores.
        DestinationExists: FMT-110.
    """
    assert delta.delta is not None, "convert verified it"
    names = sorted(delta.delta.tensors)
    operations: dict[str, set[str]] = {name: set() for name in names}
    for stored in delta.tensors:
        operation, name = operation_of(stored)
        operations[name].add(operation)
    for name in names:
        if not _is_matrix(name, base.get(name)) or not operations[name] or operations[name] - {ADD, REPLACE, REMOVE}:
            raise CannotHold(
                "FMT-154", f"{name!r} is no matrix <module>{SUFFIX} of the base of which some positions change"
            )

    # cached, because the tensors of a module are mostly written one after the other
    @lru_cache(maxsize=1)
    def parts(name: str) -> dict[str, Array]:
        tensor = base[name]
        assert not isinstance(tensor, Mask), "checked above"
        return _parts(name, operations[name], delta.tensors, tensor)

    roles = (INDICES, VALUES, PRUNED)
    paths = {f"{PREFIX}{name.removesuffix(SUFFIX)}.{role}": (name, role) for name in names for role in roles}
    sections, needs = [], []
    for name in names:
        tensor = base[name]
        arrays, shape = parts(name), tensor.shape
        # in a dense base PEFT counts the weights that are not 0 as stored
        room = int(np.count_nonzero(tensor.values)) if isinstance(tensor, Dense) else tensor.nnz
        if arrays[INDICES].size > room:
            raise CannotHold(
                "FMT-154", f"{name!r} has {arrays[INDICES].size} changes; an adapter has at most {room} there"
            )
        needs.append((prod(shape), arrays[INDICES].size))
        for role, array in arrays.items():
            path = f"{PREFIX}{name.removesuffix(SUFFIX)}.{role}"
            sections.append(outline(path, dtype_name(array.dtype), array.shape))
    config = {
        "density": _density(needs),
        "inference_mode": True,
        "peft_type": "SEFT",
        # a delta does not state which rule made it; with adapts "never" PEFT may merge more weights than the base has
        "preset": "static",
        "adapts": "never",
        "initial_scope": "anywhere",
        # target_modules is an expression of whole paths, because PEFT would match the names of a list as endings, too
        "target_modules": "|".join(re.escape(name.removesuffix(SUFFIX)) for name in names),
    }
    text = json.dumps(config, ensure_ascii=False, indent=2, sort_keys=True)
    write_folder(Path(folder), text, sections, lambda path: parts(paths[path][0])[paths[path][1]], {})


def _is_matrix(name: str, tensor: Tensor | None) -> bool:
    floats = isinstance(tensor, Dense | Sparse) and dtype_name(tensor.dtype) in change.SUMMED
    return floats and tensor is not None and len(tensor.shape) == 2 and name.endswith(SUFFIX)


def _parts(name: str, operations: set[str], stored: Mapping[str, Tensor], tensor: Dense | Sparse) -> dict[str, Array]:
    """Return the three arrays of a module."""
    none = np.empty(0, dtype=np.int64)
    wide = np.float64 if tensor.dtype == np.float64 else np.float32
    at, amounts, gone = none, np.empty(0, dtype=wide), none
    if REMOVE in operations:
        gone = change.positions(stored[f"{REMOVE}:{name}"])
    for operation in operations & {ADD, REPLACE}:
        operand = stored[f"{operation}:{name}"]
        assert not isinstance(operand, Mask), "FMT-131"
        at, new = change.positions(operand), operand.values.reshape(-1)
        amounts = new.astype(wide)
        if operation == REPLACE:
            amounts, unreached = _amounts(name, change.values_at(tensor, at), new, wide)
            # the base counts as 0 at a pruned position, so the amount there is the new value
            gone = np.union1d(gone, at[unreached])
            if isinstance(tensor, Dense):
                # FMT-171.9: a weight that becomes 0 is pruned, because a dense base has no other way to say so
                leaves = (bits(new) == 0) & (change.values_at(tensor, at) != 0)
                gone = np.union1d(gone, at[leaves])
                at, amounts = at[~leaves], amounts[~leaves]
        elif not np.array_equal(amounts.astype(new.dtype), new):
            raise CannotHold("FMT-154", f"{name!r} has amounts that {np.dtype(wide)} does not hold")
    kind = np.int32 if prod(tensor.shape) <= 2**31 else np.int64
    return {INDICES: at.astype(kind), VALUES: amounts, PRUNED: gone.astype(kind)}


def _amounts(name: str, old: Array, new: Array, wide: type) -> tuple[Array, NDArray[np.bool_]]:
    """Return the amounts that turn old values into new ones bit for bit, and a mask of those that need old = 0."""
    nearest: Array = (new.astype(np.float64) - old.astype(np.float64)).astype(wide)
    amounts, missed = nearest.copy(), np.ones(new.size, dtype=np.bool_)
    # tries the rounded difference and its two neighbours, because rounding may miss the new value
    for tried in (nearest, np.nextafter(nearest, wide(np.inf)), np.nextafter(nearest, wide(-np.inf))):
        amounts[missed] = tried[missed]
        missed = bits(change.sums_of(old, amounts, new.dtype, name)) != bits(new)
    amounts[missed] = new[missed]
    if (bits(change.sums_of(np.where(missed, 0, old), amounts, new.dtype, name)) != bits(new)).any():
        raise CannotHold("FMT-154", f"{name!r} has a new value that no amount to add reaches bit for bit, such as −0.0")
    return amounts, missed


def _density(needs: list[tuple[int, int]]) -> float:
    """Return the least density that leaves room for every matrix; needs has its positions and its changes."""
    density = max(count / positions for positions, count in needs)
    while any(int(density * positions + _SLACK) < count for positions, count in needs):
        density = float(np.nextafter(density, 2))
    # at least 2^-53, because a density must be above 0
    return min(1.0, max(density, 2.0**-53))
