"""Reads and writes Super-Tuning adapters of PEFT: amounts to add at flat positions of linear layers (FMT-170).

    q_proj.supertuning_indices   I32 [K]   [ 13 6 2 ]      q_proj.supertuning_values   F32 [K]   [ a b c ]

PEFT makes room for K = int(rows · columns · (1 − sparsity)) amounts a module, with one sparsity for all modules. If a
module has fewer changes, the writer pads with −0.0 and says so in `__metadata__`, which PEFT does not read.
"""

import json
import os
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path

import numpy as np

from formats.container import Section
from formats.dialects.changes import (
    ABOUT,
    Adapter,
    Changes,
    check_in_base,
    check_options,
    check_vector,
    float_base,
    number,
    open_adapter,
    sorted_support,
)
from formats.dialects.padding import (
    WRITABLE,
    Plan,
    check_sizes,
    padded_to,
    plans_of,
    target_modules,
    without_padding,
    write_folder,
)
from formats.dialects.stock import metadata_of, outline
from formats.errors import CannotHold, FormatError
from formats.lazy import Lazy
from formats.records import Array, Sparse, Tensor, with_values

INDICES, VALUES = "supertuning_indices", "supertuning_values"
FACTORS = frozenset({"supertuning_lora_A.weight", "supertuning_lora_B.weight"})
"""Roles of the paper's hybrid, Supra, which adds low-rank factors to the sparse amounts."""

KNOWN = ABOUT | {
    "init_weights",
    "lora_alpha",
    "lora_dropout",
    "save_precomputed_indices",
    "select_top",
    "sparsity",
    "target_modules",
}
"""Options that steer training only, and sparsity, which the reader compares with the values."""

PADDING, MINUS_ZERO = "seft.padding", "-0.0"
"""Entry of ``__metadata__`` that says that amounts of −0.0 are padding. A key of the configuration would not do,
because PEFT warns of every key that it does not know."""

STEPS = 2**53
"""Sparsities that are written are multiples of 1 / STEPS, so that 1 − sparsity is exact in float64."""

MAX_POSITIONS = 2**31
"""Most positions of a matrix, because PEFT casts indices to int32 without a check."""


def read_super_tuning(folder: str | os.PathLike[str], base: Mapping[str, Tensor]) -> Changes:
    """Return the changes of a Super-Tuning adapter: amounts to add, with the dtype and the bits of the file (FMT-170).

    The padding of `write_super_tuning` is left out.

    Args:
        folder: holds adapter_config.json and adapter_model.safetensors.
        base: name -> tensor of the model that the adapter was trained on.

    Raises:
        FormatError: FMT-170 for what is missing, unknown or does not fit, for indices and counts when a tensor is
            accessed; FMT-121 for malformed weights.
    """
    pair = frozenset({INDICES, VALUES})
    role_sets = [pair, frozenset({VALUES}), pair | FACTORS, FACTORS | {VALUES}]
    adapter = open_adapter(Path(folder), "SUPERTUNING", role_sets, "FMT-170")
    _refuse_what_is_no_list(adapter)
    check_options(adapter.config, KNOWN, "FMT-170")
    sparsity = number(adapter.config, "sparsity", "FMT-170")
    if not 0 <= sparsity < 1:
        raise FormatError("FMT-170", f"the adapter has sparsity = {sparsity!r}, expected at least 0 and below 1")
    for sections in adapter.modules.values():
        _check_sections(sections)
    padded = _says_padded(adapter)
    modules = adapter.base_names()
    check_in_base(modules, base, "FMT-170")

    def fetch(name: str) -> Sparse:
        shape = float_base(base, name, "FMT-170").shape
        positions = adapter.array(modules[name], INDICES).astype(np.int64)
        values = adapter.array(modules[name], VALUES)
        if len(shape) != 2:
            raise FormatError("FMT-170", f"{name!r} of the base has shape {list(shape)}, expected a matrix")
        expected = room_of(prod(shape), sparsity)
        if values.size != expected:
            raise FormatError(
                "FMT-170",
                f"{name!r} of the base has shape {list(shape)}, where sparsity {sparsity!r} leaves {expected} amounts; "
                f"the adapter has {values.size}: is this the base it was made for?",
            )
        support, permutation = sorted_support(positions, shape, name, "FMT-170")
        amounts = with_values(support, values[permutation])
        return without_padding(amounts) if padded else amounts

    return Changes("add", Lazy(modules, fetch), adapter.attributes("super-tuning"))


def room_of(positions: int, sparsity: float) -> int:
    """Return how many amounts PEFT makes room for in a matrix of so many positions, with PEFT's float64 arithmetic."""
    return int(positions * (1 - sparsity))


def _refuse_what_is_no_list(adapter: Adapter) -> None:
    """Refuse adapters whose change is more than amounts at stated positions."""
    roles = frozenset().union(*adapter.modules.values())
    if adapter.config.get("r") or roles & FACTORS:
        raise FormatError(
            "FMT-170",
            "the adapter is of the hybrid Supra, which adds factors of rank r; merge it with PEFT (merge_and_unload, "
            "save_pretrained), and make a delta of the two models: seft diff BASE MERGED DELTA",
        )
    without = sorted(module for module, sections in adapter.modules.items() if INDICES not in sections)
    if without:
        raise FormatError(
            "FMT-170",
            f"module {without[0]!r} has only {VALUES}; PEFT computes their positions anew by torch.topk, whose order "
            f"of equal magnitudes depends on version and device. Where it was trained, set save_precomputed_indices "
            f"of its PeftConfig to True, load it with PeftModel.from_pretrained(model, folder, config=config), and "
            f"save it again",
        )


def _check_sections(sections: Mapping[str, Section]) -> None:
    indices, values = sections[INDICES], sections[VALUES]
    check_vector(values, WRITABLE, "FMT-170")
    check_vector(indices, frozenset({"I32", "I64"}), "FMT-170")
    if indices.shape != values.shape:
        raise FormatError("FMT-170", f"{indices.name!r} has {indices.shape[0]} indices beside {values.shape[0]} values")


def _says_padded(adapter: Adapter) -> bool:
    mark = metadata_of(adapter.file).get(PADDING)
    if mark not in (None, MINUS_ZERO):
        raise FormatError("FMT-170", f"the metadata have {PADDING} = {mark!r:.80}, expected {MINUS_ZERO!r}")
    return mark is not None


def write_super_tuning(
    folder: str | os.PathLike[str], changes: Changes, base: Mapping[str, Tensor], *, base_name: str = ""
) -> None:
    """Write changes as a Super-Tuning adapter that PEFT loads: ``PeftModel.from_pretrained(model, folder)``.

    The sparsity is the largest multiple of 2^−53 that leaves room for the changes of every tensor. The rest of the room
    is padded with amounts of −0.0 at the lowest unchanged positions of the support of the base.

    Args:
        folder: the folder to make.
        changes: amounts to add to weights of linear layers; each tensor is fetched up to three times. Attributes
            are left out, because an adapter has no place for them.
        base: name -> tensor of the model that is changed.
        base_name: the name of the base in the configuration, for example a repository; none by default.

    Raises:
        CannotHold: FMT-154 for new values, for tensors that are no matrix ``<module>.weight`` of the base or that have
            none or more than 2^31 positions, for dtypes that float32 does not hold, and for matrices too small or too
            sparse for the sparsity of the others.
        DestinationExists: FMT-110.
    """
    plans = plans_of(changes, base, "Super-Tuning")
    for plan in plans:
        if not 1 <= prod(plan.shape) <= MAX_POSITIONS:
            raise CannotHold(
                "FMT-154",
                f"{plan.name!r} has {prod(plan.shape)} positions, expected 1 to 2^31, as int32 indices of PEFT reach",
            )
    sparsity = _sparsity(plans)
    sizes = {plan.name: room_of(prod(plan.shape), sparsity) for plan in plans}
    padded = check_sizes(plans, sizes, f"int(rows columns (1 − sparsity)) with sparsity {sparsity!r}")
    config = {
        "base_model_name_or_path": base_name or None,
        "inference_mode": True,
        "init_weights": True,
        "lora_alpha": None,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "SUPERTUNING",
        "r": None,
        "save_precomputed_indices": True,
        "select_top": True,
        "sparsity": sparsity,
        "target_modules": target_modules(plans),
        "task_type": None,
    }
    sources = {f"{plan.path}.{role}": plan for plan in plans for role in (INDICES, VALUES)}

    def content(section: str) -> Array:
        plan = sources[section]
        positions, values = padded_to(sizes[plan.name], changes.positions_of(plan.name), base[plan.name])
        return values if section.endswith(VALUES) else positions.astype(np.int32)

    sections = [
        outline(section, plan.dtype if section.endswith(VALUES) else "I32", (sizes[plan.name],))
        for section, plan in sources.items()
    ]
    text = json.dumps(config, ensure_ascii=False, indent=2, sort_keys=True)
    write_folder(Path(folder), text, sections, content, {PADDING: MINUS_ZERO} if padded else {})


def _sparsity(plans: Iterable[Plan]) -> float:
    """Return the largest multiple of 1 / STEPS that leaves room for every change, and for one amount a module."""
    needs = [(prod(plan.shape), max(plan.nnz, 1)) for plan in plans]

    def has_room(steps: int) -> bool:
        return all(room_of(positions, 1 - steps / STEPS) >= need for positions, need in needs)

    # steps / STEPS is 1 − sparsity; with steps = STEPS there is room for every position
    steps = 1 + bisect_left(range(1, STEPS + 1), 1, key=has_room)
    return 1 - steps / STEPS
