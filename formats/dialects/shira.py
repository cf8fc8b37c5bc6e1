"""Reads and writes SHiRA adapters of PEFT: amounts to add at positions (row, column) of linear layers.

    q_proj.shira_indices   I32 [2, K]   [ 0 0 2 ]       q_proj.shira_weight   F32 [K]   [ a b c ]
                                        [ 1 4 0 ]

PEFT makes room for K = r (rows + columns) amounts a module, with one r for all modules. If a module has fewer changes,
the writer pads with −0.0, because adding it leaves every number as it is, zeros of either sign included (FMT-157).
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from formats import atomic, strict_json
from formats.container import dtype_name
from formats.dialects.changes import (
    ABOUT,
    ADAPTER_FLOATS,
    CONFIG,
    PREFIX,
    WEIGHTS,
    Adapter,
    Changes,
    check_change,
    check_in_base,
    check_options,
    check_vector,
    float_base,
    open_adapter,
    order,
    sorted_support,
)
from formats.dialects.stock import outline, write_stock
from formats.errors import CannotHold, FormatError
from formats.lazy import Lazy
from formats.records import Array, Dense, Sparse, Tensor, bits, flat, with_values

INDICES, VALUES = "shira_indices", "shira_weight"
SUFFIX = ".weight"
KNOWN = ABOUT | {"init_weights", "mask_type", "r", "random_seed", "target_modules"}
"""Options that steer training only."""

EXACT, PADDED = "given", "given-padded"
"""Values of mask_type that are written. Any word but random keeps PEFT from drawing a mask; given-padded says that
amounts of −0.0 are padding (FMT-157)."""

WRITABLE = frozenset({"F16", "BF16", "F32"})
"""Dtypes that PEFT, which loads into float32, keeps as they are."""

MAX_F32_INDEX = 2**24
"""From here on float32 does not represent every integer."""

MAX_INDEX = 2**31 - 1


class Plan(NamedTuple):
    """What is needed to write one module."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nnz: int
    room: int
    """Weights that the base stores."""
    taken: bool
    """Whether one of the amounts is −0.0."""

    def size(self, r: int) -> int:
        """Return how many amounts PEFT makes room for, given r."""
        return r * sum(self.shape)


def read_shira(folder: str | os.PathLike[str], base: Mapping[str, Tensor]) -> Changes:
    """Return the changes of a SHiRA adapter: amounts to add, with the dtype and the bits of the file (FMT-151).

    Indices may be I32, I64, or integers written as F32. The padding of `write_shira` is left out.

    Args:
        folder: holds adapter_config.json and adapter_model.safetensors.
        base: name -> tensor of the model that the adapter was trained on.

    Raises:
        FormatError: FMT-151 for what is missing, unknown or does not fit, for indices when a tensor is accessed;
            FMT-121 for malformed weights.
    """
    adapter = open_adapter(Path(folder), "SHIRA", [frozenset({INDICES, VALUES})], "FMT-151")
    check_options(adapter.config, KNOWN, "FMT-151")
    _check_sizes(adapter)
    modules = adapter.base_names()
    check_in_base(modules, base, "FMT-151")
    padded = adapter.config.get("mask_type") == PADDED

    def fetch(name: str) -> Sparse:
        shape = float_base(base, name, "FMT-151").shape
        positions = _positions(adapter.array(modules[name], INDICES), shape, name)
        values = adapter.array(modules[name], VALUES)
        if padded:
            kept = ~_adds_nothing(values)
            positions, values = positions[kept], values[kept]
        support, permutation = sorted_support(positions, shape, name, "FMT-151")
        return with_values(support, values[permutation])

    return Changes("add", Lazy(modules, fetch), adapter.attributes("shira"))


def write_shira(
    folder: str | os.PathLike[str], changes: Changes, base: Mapping[str, Tensor], *, base_name: str = ""
) -> None:
    """Write changes as a SHiRA adapter that PEFT loads: ``PeftModel.from_pretrained(model, folder)``.

    r is the smallest for which K = r (rows + columns) holds the changes of every tensor. The rest of K is padded with
    amounts of −0.0 at the lowest unchanged positions of the support of the base (FMT-157). Padding stays within that
    support, because PEFT may train it further.

    Args:
        folder: the folder to make.
        changes: amounts to add to weights of linear layers; each tensor is fetched up to three times. Attributes
            are left out, because an adapter has no place for them.
        base: name -> tensor of the model that is changed.
        base_name: what the configuration is to name as the base, for example a repository; nothing by default.

    Raises:
        CannotHold: FMT-154 for new values, for tensors that are no matrix ``<module>.weight`` of the base, for
            dtypes that float32 does not hold, and for matrices too small or too sparse for the r of the others.
        DestinationExists: FMT-110.
    """
    if changes.op != "add":
        raise CannotHold(
            "FMT-154",
            f"a SHiRA adapter holds amounts to add, these changes are of op {changes.op!r}; "
            f"write them as a delta of values instead",
        )
    if not changes.tensors:
        raise CannotHold("FMT-154", "there are no changes, and PEFT loads no adapter without a module")
    plans = [_plan(name, tensor, base) for name, tensor in changes.tensors.items()]
    r = max(1, *(-(-plan.nnz // max(plan.size(1), 1)) for plan in plans))
    padded = any(plan.size(r) > plan.nnz for plan in plans)
    for plan in plans:
        _check_room(plan, r)
        if padded and plan.taken:
            raise CannotHold(
                "FMT-154", f"{plan.name!r} has amounts of −0.0, which would be taken for filling; drop them first"
            )
    config: dict[str, strict_json.JSON] = {
        "base_model_name_or_path": base_name or None,
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_weights": True,
        "mask_type": PADDED if padded else EXACT,
        "modules_to_save": None,
        "peft_type": "SHIRA",
        "r": r,
        "random_seed": None,
        # an expression of whole paths, because PEFT matches a list by endings and would hit other modules, too
        "target_modules": "|".join(re.escape(plan.name.removesuffix(SUFFIX)) for plan in plans),
        "task_type": None,
    }
    sections, sources = [], {}
    for plan in plans:
        path = PREFIX + plan.name.removesuffix(SUFFIX)
        for section in (
            outline(f"{path}.{INDICES}", "I32", (2, plan.size(r))),
            outline(f"{path}.{VALUES}", plan.dtype, (plan.size(r),)),
        ):
            sections.append(section)
            sources[section.name] = plan

    def content(section: str) -> Array:
        plan = sources[section]
        positions, values = _filled(changes.tensors[plan.name], base[plan.name], plan.size(r))
        if section.endswith(VALUES):
            return values
        return np.stack(np.divmod(positions, plan.shape[1])).astype(np.int32)

    with atomic.new_folder(Path(folder)) as temporary:
        atomic.write_bytes(temporary / CONFIG, strict_json.canonical(config).encode())
        write_stock(temporary / WEIGHTS, sections, content)


def _check_sizes(adapter: Adapter) -> None:
    for module, sections in adapter.modules.items():
        indices, values = sections[INDICES], sections[VALUES]
        check_vector(values, ADAPTER_FLOATS, "FMT-151")
        if indices.dtype not in ("I32", "I64", "F32") or indices.shape != (2, *values.shape):
            raise FormatError(
                "FMT-151",
                f"{INDICES} of {module!r} is {indices.dtype} of shape {list(indices.shape)}, "
                f"expected I32 of shape {[2, *values.shape]} beside {values.shape[0]} values",
            )


def _positions(indices: Array, shape: tuple[int, ...], name: str) -> NDArray[np.int64]:
    """Return flat positions (K,) of indices (2, K): rows, then columns."""
    if len(shape) != 2:
        raise FormatError("FMT-151", f"{name!r} of the base has shape {list(shape)}, expected a matrix")
    if indices.dtype == np.float32:
        # F32 comes from tools that save no integers; NaN is refused, because it fails the first comparison
        wrong = ~((indices >= 0) & (indices < MAX_F32_INDEX)) | (indices % 1 != 0)
        if wrong.any():
            raise FormatError(
                "FMT-151",
                f"{INDICES} of {name!r} holds {float(indices[wrong][0])!r} as F32, expected an integer from 0 to "
                f"{MAX_F32_INDEX - 1}",
            )
    whole = indices.astype(np.int64)
    for axis, what in enumerate(("rows", "columns")):
        if whole.size and (whole[axis].min() < 0 or whole[axis].max() >= shape[axis]):
            raise FormatError(
                "FMT-151",
                f"{what} of {name!r} run from {whole[axis].min()} to {whole[axis].max()}, the base has {shape[axis]}",
            )
    positions: NDArray[np.int64] = whole[0] * shape[1] + whole[1]
    return positions


def _adds_nothing(values: Array) -> NDArray[np.bool_]:
    """Return which amounts are −0.0, (K,): adding −0.0 keeps every number, but adding +0.0 makes −0.0 positive."""
    return bits(values) == bits(np.full(1, -0.0, dtype=values.dtype))


def _plan(name: str, tensor: Sparse, base: Mapping[str, Tensor]) -> Plan:
    """Return the plan of a module, after verifying that an adapter can hold its changes."""
    if name not in base or not name.endswith(SUFFIX) or name == SUFFIX:
        raise CannotHold(
            "FMT-154", f"{name!r} is no <module>{SUFFIX} of the base; SHiRA changes weights of linear layers only"
        )
    try:
        before = float_base(base, name, "FMT-154")
    except FormatError as error:
        # CannotHold, because these changes are the caller's, and no foreign file is at fault
        raise CannotHold(error.clause, error.message) from error
    if len(tensor.shape) != 2 or tensor.shape != before.shape or max(tensor.shape) > MAX_INDEX:
        raise CannotHold(
            "FMT-154",
            f"changes of {name!r} have shape {list(tensor.shape)}, the base has {list(before.shape)}; "
            f"expected one matrix with fewer than 2^31 rows and columns",
        )
    dtype = dtype_name(tensor.dtype)
    if dtype not in WRITABLE:
        raise CannotHold(
            "FMT-154", f"{name!r} has amounts of {dtype}, which PEFT does not keep; cast them to F32 first"
        )
    check_change(tensor, name)
    return Plan(name, dtype, tensor.shape, tensor.nnz, before.nnz, bool(_adds_nothing(tensor.values).any()))


def _check_room(plan: Plan, r: int) -> None:
    """Verify that there are positions for the amounts that PEFT makes room for: stored in the base, or changed."""
    if plan.size(r) > max(plan.room, plan.nnz):
        raise CannotHold(
            "FMT-154",
            f"{plan.name!r} has {plan.nnz} changes and {plan.room} stored weights; PEFT would hold {plan.size(r)} "
            f"there, r (rows + columns) with r = {r}, which the largest tensor needs: write tensors with another share "
            f"of changes apart",
        )


def _filled(tensor: Sparse, before: Tensor, size: int) -> tuple[NDArray[np.int64], Array]:
    """Return positions and amounts (size,) in row-major order, padding included."""
    positions = flat(tensor)
    need = size - positions.size
    # `size` candidates are enough, because at most positions.size of them are changed
    candidates = np.arange(size, dtype=np.int64) if isinstance(before, Dense) else flat(before)[:size]
    free = np.setdiff1d(candidates, positions, assume_unique=True)[:need]
    together = np.concatenate([positions, free])
    amounts = np.concatenate([tensor.values, np.full(need, -0.0, dtype=tensor.dtype)])
    permutation = order(together)
    return together[permutation], amounts[permutation]
