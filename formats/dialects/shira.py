"""Reads and writes SHiRA adapters of PEFT: amounts to add at positions (row, column) of linear layers.

    q_proj.shira_indices   I32 [2, K]   [ 0 0 2 ]       q_proj.shira_weight   F32 [K]   [ a b c ]
                                        [ 1 4 0 ]

PEFT makes room for K = r (rows + columns) amounts a module, with one r for all modules. If a module has fewer changes,
the writer pads with −0.0, because adding it leaves every number as it is, zeros of either sign included (FMT-157).
"""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from formats import strict_json
from formats.container import Section
from formats.dialects.changes import (
    ABOUT,
    ADAPTER_FLOATS,
    Adapter,
    Changes,
    check_in_base,
    check_options,
    check_vector,
    float_base,
    open_adapter,
    sorted_support,
)
from formats.dialects.padding import (
    Plan,
    check_sizes,
    padded_to,
    plans_of,
    target_modules,
    without_padding,
    write_folder,
)
from formats.dialects.stock import outline
from formats.errors import FormatError
from formats.lazy import Lazy
from formats.records import Array, Sparse, Tensor, with_values

INDICES, VALUES = "shira_indices", "shira_weight"
KNOWN = ABOUT | {"init_weights", "mask_type", "r", "random_seed", "target_modules"}
"""Options that steer training only."""

EXACT, PADDED = "given", "given-padded"
"""Values of mask_type that are written. Any word but random keeps PEFT from drawing a mask; given-padded says that
amounts of −0.0 are padding (FMT-157)."""

MAX_F32_INDEX = 2**24
"""From here on float32 does not represent every integer."""


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
        support, permutation = sorted_support(positions, shape, name, "FMT-151")
        amounts = with_values(support, values[permutation])
        return without_padding(amounts) if padded else amounts

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
        base_name: the name of the base in the configuration, for example a repository; none by default.

    Raises:
        CannotHold: FMT-154 for new values, for tensors that are no matrix ``<module>.weight`` of the base, for
            dtypes that float32 does not hold, and for matrices too small or too sparse for the r of the others.
        DestinationExists: FMT-110.
    """
    plans = plans_of(changes, base, "SHiRA")
    r = max(1, *(-(-plan.nnz // max(sum(plan.shape), 1)) for plan in plans))
    sizes = {plan.name: r * sum(plan.shape) for plan in plans}
    padded = check_sizes(plans, sizes, f"r (rows + columns) with r = {r}")
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
        "target_modules": target_modules(plans),
        "task_type": None,
    }
    sources = {f"{plan.path}.{role}": plan for plan in plans for role in (INDICES, VALUES)}

    def describe(section: str, plan: Plan) -> Section:
        size = sizes[plan.name]
        return outline(section, plan.dtype, (size,)) if section.endswith(VALUES) else outline(section, "I32", (2, size))

    def content(section: str) -> Array:
        plan = sources[section]
        positions, values = padded_to(sizes[plan.name], changes.positions_of(plan.name), base[plan.name])
        if section.endswith(VALUES):
            return values
        return np.stack(np.divmod(positions, plan.shape[1])).astype(np.int32)

    sections = [describe(section, plan) for section, plan in sources.items()]
    write_folder(Path(folder), strict_json.canonical(config), sections, content, {})


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
        # some tools cannot save integers and write F32; NaN is refused, because it fails the first comparison
        with np.errstate(invalid="ignore"):  # because NumPy warns of infinity and signalling NaN
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
