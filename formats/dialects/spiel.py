"""Reads SpIEL adapters (peft_type SFT): amounts to add at flat positions, unsorted, because training moves them.

    q_proj.sft_delta.indices   [ 7 2 9 ]      order   [ 1 0 2 ]      positions   [ 2 7 9 ]
    q_proj.sft_delta.values    [ a b c ]                             amounts     [ b a c ]

Moments that an optimizer keeps per slot are in the order of the file, too: permute them with `order`.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from formats.dialects.changes import (
    ABOUT,
    ADAPTER_FLOATS,
    CONFIG,
    Adapter,
    Changes,
    check_in_base,
    check_options,
    check_vector,
    float_base,
    open_adapter,
    order,
    sorted_support,
)
from formats.errors import FormatError
from formats.lazy import Lazy
from formats.records import Sparse, Tensor, with_values

__all__ = ["order", "read_spiel"]

INDICES, VALUES = "sft_delta.indices", "sft_delta.values"
KNOWN = ABOUT | {
    "candidate_reselection_proportion",
    "candidate_reselection_steps",
    "density",
    "dtype",
    "initial_reselection_rate",
    "num_deltas",
    "num_tunable_weights",
    "reselection_rate_policy",
    "reselection_steps",
    "selection_accumulation_steps",
    "selection_algorithm",
    "target_modules",
}
"""Options that steer training only; num_deltas is compared with the file."""


def read_spiel(folder: str | os.PathLike[str], base: Mapping[str, Tensor]) -> Changes:
    """Return the changes of a SpIEL adapter: amounts to add, with the dtype and the bits of the file (FMT-151).

    Args:
        folder: holds adapter_config.json and adapter_model.safetensors.
        base: name -> tensor of the model that the adapter was trained on.

    Raises:
        FormatError: FMT-151 for what is missing, unknown or does not fit, for indices when a tensor is accessed;
            FMT-121 for malformed weights.
    """
    adapter = open_adapter(Path(folder), "SFT", [frozenset({INDICES, VALUES})], "FMT-151")
    check_options(adapter.config, KNOWN, "FMT-151")
    _check_sizes(adapter)
    modules = adapter.base_names()
    check_in_base(modules, base, "FMT-151")

    def fetch(name: str) -> Sparse:
        shape = float_base(base, name, "FMT-151").shape
        positions = adapter.array(modules[name], INDICES).astype(np.int64)
        support, permutation = sorted_support(positions, shape, name, "FMT-151")
        return with_values(support, adapter.array(modules[name], VALUES)[permutation])

    return Changes("add", Lazy(modules, fetch), adapter.attributes("spiel"))


def _check_sizes(adapter: Adapter) -> None:
    """Verify dtypes, that indices and values have the same length, and that the configuration states that length."""
    for module, sections in adapter.modules.items():
        indices, values = sections[INDICES], sections[VALUES]
        check_vector(indices, frozenset({"I32", "I64"}), "FMT-151")
        check_vector(values, ADAPTER_FLOATS, "FMT-151")
        if indices.shape != values.shape:
            raise FormatError("FMT-151", f"{module!r} has {indices.shape[0]} indices for {values.shape[0]} values")
    announced = adapter.config.get("num_deltas")
    if announced is None:
        return
    sizes = {module: sections[VALUES].shape[0] for module, sections in adapter.modules.items()}
    if not isinstance(announced, dict) or announced != sizes:
        wrong = sorted(set(sizes) ^ set(announced)) if isinstance(announced, dict) else []
        differing = wrong or sorted(m for m in sizes if isinstance(announced, dict) and announced[m] != sizes[m])
        raise FormatError(
            "FMT-151", f"num_deltas of {CONFIG} and the tensors disagree{f' on {differing[0]!r}' if differing else ''}"
        )
