"""The changes that a foreign adapter or patch makes to a base model, and the checks that their readers share.

read_spiel("adapter", base).tensors["model.layers.0.self_attn.q_proj.weight"]   ->   Sparse: positions, amounts
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from formats import strict_json, validate
from formats.container import FLOATS, MappedFile, Section, dtype_name
from formats.dialects.stock import open_stock
from formats.errors import CannotHold, FormatError
from formats.records import Array, Dense, Mask, Sparse, Tensor, bits, from_flat, rows_of, with_values
from formats.regular import read_bounded
from formats.strict_json import JSON, Fraction

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
MAX_CONFIG = 10_000_000
"""Bytes that a configuration may have."""

ADAPTER_FLOATS = frozenset({"F16", "BF16", "F32", "F64"})
"""Dtypes of trained values; narrower ones mean nothing without their quantisation scheme."""

ABOUT = frozenset(
    {"auto_mapping", "base_model_name_or_path", "inference_mode", "peft_type", "peft_version", "revision", "task_type"}
)
"""Options of every adapter that say nothing about values."""


@dataclass(frozen=True, slots=True, eq=False)
class Changes:
    """Changes of a base model, not yet bound to its digests."""

    op: str
    """``"add"``: values are amounts to add; ``"replace"``: values are the new bits."""
    tensors: Mapping[str, Sparse | Dense]
    """Name of a base tensor -> its changed positions in the shape of the base, row-major, each once; a scalar as a
    whole, if op is ``"replace"``. Lazy: a tensor is read, sorted and checked on each access."""
    attributes: dict[str, JSON] = field(default_factory=dict)
    """The attributes with which a checkpoint records the source; fractions are `float.hex` strings."""
    removed: Mapping[str, Mask] = field(default_factory=dict)
    """Name of a base tensor -> the positions to remove from it; only if op is ``"replace"``."""

    def positions_of(self, name: str) -> Sparse:
        """Return the changed positions of a tensor.

        Raises:
            CannotHold: FMT-154 for a scalar, which changes as a whole.
        """
        tensor = self.tensors[name]
        if isinstance(tensor, Dense):
            raise CannotHold("FMT-154", f"{name!r} is a scalar and changes, which this format cannot hold")
        return tensor


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """An opened adapter folder: its configuration, and the tensors of each module."""

    config: dict[str, JSON]
    file: MappedFile
    modules: dict[str, dict[str, Section]]
    """Module path -> role -> section. The roles of a module are one of the sets that `open_adapter` was given."""

    def array(self, module: str, role: str) -> Array:
        """Return a tensor of a module as a read-only array."""
        return self.file.array(self.modules[module][role])

    def base_names(self) -> dict[str, str]:
        """Return a mapping of the name of a base tensor -> module path."""
        return {f"{module}.weight": module for module in self.modules}

    def attributes(self, kind: str) -> dict[str, JSON]:
        """Return the attributes that any adapter has: its kind, and the name of its base if the config states it."""
        base_name = self.config.get("base_model_name_or_path")
        named: dict[str, JSON] = {"base_model": base_name} if isinstance(base_name, str) and base_name else {}
        return {"adapter": kind, **named}


def open_adapter(folder: Path, peft_type: str, role_sets: Iterable[frozenset[str]], clause: str) -> Adapter:
    """Return the adapter in a folder; its configuration and the header of its weights are read, no tensor is.

    Args:
        folder: holds adapter_config.json and adapter_model.safetensors.
        peft_type: the kind that the configuration must name.
        role_sets: the endings of tensor names behind a module path; a module must have all of one set and no other.
        clause: the clause id that errors name.

    Raises:
        FormatError: FMT-121 for malformed weights; clause for everything else.
    """
    config = _read_config(folder, clause)
    if config.get("peft_type") != peft_type:
        raise FormatError(clause, f"{CONFIG} has peft_type {config.get('peft_type')!r:.80}, expected {peft_type!r}")
    if not (folder / WEIGHTS).is_file():
        raise FormatError(
            clause, f"{folder} lacks {WEIGHTS}; pickled weights are not read, save them with safe_serialization=True"
        )
    file, sections = open_stock(folder / WEIGHTS)
    allowed = list(role_sets)
    roles = frozenset().union(*allowed)
    modules: dict[str, dict[str, Section]] = {}
    for name, section in sections.items():
        role = next((role for role in roles if name.endswith("." + role)), "")
        module = name[len(PREFIX) : -len(role) - 1]
        if not role or not module or not name.startswith(PREFIX):
            whole = " A whole module was trained (modules_to_save): merge with PEFT, then seft diff MODEL MERGED DELTA."
            raise FormatError(
                clause,
                f"{name!r} has no place in this adapter, expected {PREFIX}<module>.{'|'.join(sorted(roles))}."
                + (whole if name.endswith((".weight", ".bias")) else ""),
            )
        modules.setdefault(module, {})[role] = section
    if not modules:
        raise FormatError(clause, f"{WEIGHTS} has no tensors")
    for module, parts in modules.items():
        if frozenset(parts) not in allowed:
            raise FormatError(clause, f"module {module!r} has only {', '.join(sorted(parts))}")
    return Adapter(config, file, modules)


def _read_config(folder: Path, clause: str) -> dict[str, JSON]:
    if not (folder / CONFIG).is_file():
        raise FormatError(clause, f"{folder} lacks {CONFIG}")
    data = read_bounded(folder / CONFIG, MAX_CONFIG)
    if data is None:
        raise FormatError(clause, f"{CONFIG} has more than {MAX_CONFIG} bytes")
    try:
        config = strict_json.parse_any(data, CONFIG)
    except FormatError as broken:
        raise FormatError(clause, f"{CONFIG} cannot be read: {broken}") from broken
    if not isinstance(config, dict):
        raise FormatError(clause, f"{CONFIG} is not a JSON object")
    return config


def check_options(config: Mapping[str, JSON], known_options: frozenset[str], clause: str) -> None:
    """Verify that every unknown option is off, because it may change what the adapter means.

    Off is null, false, 0, empty, or the word none.
    """
    for key, value in sorted(config.items()):
        off = not value or value == "none" or (isinstance(value, Fraction) and float(value) == 0)
        if key not in ABOUT | known_options and not off:
            raise FormatError(
                clause, f"{CONFIG} has {key} = {value!r:.80}, which changes what the adapter means and is not read"
            )


def number(config: Mapping[str, JSON], key: str, clause: str, *, config_name: str = CONFIG) -> float:
    """Return a number of a configuration as float64; a fraction arrives as `strict_json.Fraction`."""
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int | Fraction):
        raise FormatError(clause, f"{config_name} has {key} = {value!r:.80}, expected a number")
    return float(value)


def check_in_base(names: Iterable[str], base: Mapping[str, Tensor], clause: str) -> None:
    """Verify that the base has every tensor that is to be changed, without reading one."""
    for name in names:
        if name not in base:
            raise FormatError(
                clause, f"the base has no {name!r}, which is to be changed; is this the base it was made for?"
            )


def replacement(before: Dense | Sparse, old: Array, new: Array) -> Sparse | Dense:
    """Return what replaces a tensor: the positions whose bits change and their new values, or a scalar as a whole.

    Shapes: old and new (elements,), the expanded values before and after.
    """
    if not before.shape:
        return Dense(new.reshape(()))
    changed = np.flatnonzero(bits(new) != bits(old))
    return with_values(from_flat(before.shape, changed), new[changed])


def base_tensor(base: Mapping[str, Tensor], name: str, clause: str, *, scalars: bool = False) -> Dense | Sparse:
    """Return a tensor of the base, after verifying that a `Sparse` can hold its changes.

    scalars  whether a scalar is taken, whose changes a `Dense` holds

    Raises:
        CannotHold: FMT-154 for rows of 2^31 columns or more, and for a scalar that is not taken.
        FormatError: clause for a mask, which has no values.
    """
    tensor = base[name]
    if isinstance(tensor, Mask):
        raise FormatError(clause, f"{name!r} of the base is a mask, which has no values to change")
    if not tensor.shape and not scalars:
        raise CannotHold("FMT-154", f"{name!r} of the base is a scalar, which has no positions to change")
    if tensor.shape and tensor.shape[-1] > validate.MAX_SPARSE_DIM:
        raise CannotHold(
            "FMT-154", f"{name!r} of the base has shape {list(tensor.shape)}; changes need rows shorter than 2^31"
        )
    return tensor


def float_base(base: Mapping[str, Tensor], name: str, clause: str) -> Dense | Sparse:
    """Return a tensor of the base to which amounts can be added.

    Raises:
        FormatError: as `base_tensor`; clause if it holds no floats.
    """
    tensor = base_tensor(base, name, clause)
    if dtype_name(tensor.dtype) not in FLOATS:
        raise FormatError(
            clause, f"{name!r} of the base is {dtype_name(tensor.dtype)}, expected floats: amounts are added to it"
        )
    return tensor


def check_vector(section: Section, dtypes: frozenset[str], clause: str) -> None:
    """Verify that a section has one dimension and one of these dtypes."""
    if len(section.shape) != 1 or section.dtype not in dtypes:
        raise FormatError(
            clause,
            f"{section.name!r} is {section.dtype} of shape {list(section.shape)}, "
            f"expected one dimension of {' or '.join(sorted(dtypes))}",
        )


def order(indices: Array) -> NDArray[np.int64]:
    """Return the permutation that sorts indices: ``indices[order(indices)]``; equal indices keep their order.

    Apply it also to whatever is kept per slot, such as values and the moments of an optimizer.

    Shapes and dtypes: indices (nnz,) any integer dtype; result (nnz,) int64.
    """
    return np.argsort(indices, kind="stable").astype(np.int64, copy=False)


def sorted_support(
    positions: NDArray[np.int64], shape: tuple[int, ...], name: str, clause: str
) -> tuple[Mask, NDArray[np.int64]]:
    """Return the support of flat positions in any order, and the permutation that sorts them and their values.

    A position that comes twice is refused, because no writer makes one, and readers would disagree on its meaning.

    Shapes and dtypes: positions (nnz,) int64; the permutation (nnz,) int64.

    Raises:
        FormatError: clause for a position outside the shape or one that comes twice.
    """
    if positions.size:
        lowest, highest = int(np.min(positions)), int(np.max(positions))
        if lowest < 0 or highest >= prod(shape):
            raise FormatError(
                clause,
                f"positions of {name!r} run from {lowest} to {highest}, the base has shape {list(shape)} "
                f"with {prod(shape)} elements",
            )
    permutation = order(positions)
    rising = positions[permutation]
    twice = np.flatnonzero(rising[1:] == rising[:-1])
    if twice.size:
        raise FormatError(
            clause, f"position {int(rising[twice[0]])} of {name!r} comes twice, expected every position once"
        )
    return from_flat(shape, rising), permutation


def listed(tensor: Dense | Sparse) -> Sparse:
    """Return a stored change as a `Sparse`; a change of every position may be stored as a dense tensor (FMT-005)."""
    if isinstance(tensor, Sparse):
        return tensor
    return with_values(from_flat(tensor.shape, np.arange(tensor.values.size)), tensor.values.reshape(-1))


def check_change(tensor: Sparse, name: str) -> None:
    """Verify a tensor to be written: arrays that fit each other, columns in range and rising within each row.

    Raises:
        CannotHold: FMT-154 for arrays that do not fit each other.
        FormatError: FMT-066 to FMT-069.
    """
    nnz = tensor.values.size
    shapes = (tensor.indptr.shape, tensor.indices.shape, tensor.values.shape)
    if not tensor.shape or shapes != ((rows_of(tensor.shape) + 1,), (nnz,), (nnz,)):
        raise CannotHold(
            "FMT-154", f"{name!r} of shape {list(tensor.shape)} has arrays of shapes {[list(s) for s in shapes]}"
        )
    validate.check_row_ptr(tensor.indptr, nnz, name)
    validate.check_columns(tensor.indptr, tensor.indices, tensor.shape[-1], name)
