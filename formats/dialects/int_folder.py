"""Opens a Hugging Face folder whose matrices are quantised to whole numbers (FMT-172 to FMT-175).

folder = open_quantised("Llama-W4A16")
folder.matrices["model.layers.0.mlp.up_proj.weight"]     ->   Quantised: codes, scales, zero points, groups, mask
folder.checkpoint()                                      ->   Checkpoint of weights in the dtype of the scales
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np

from formats import validate
from formats.container import dtype_name
from formats.dialects.coded import ATTRIBUTE, SCALE, ZERO, refuse_large_scales
from formats.dialects.compressed_tensors import open_compressed_tensors, states_sparsity
from formats.dialects.hf import open_hf, quantisation_remarks
from formats.dialects.int_codes import Quantised, expanded
from formats.dialects.int_layers import Layer, layer_of
from formats.dialects.int_schemes import (
    CONFIG,
    OWN_CONFIGS,
    PACKED,
    PLAIN,
    Json,
    Schemes,
    read_schemes,
    without_descriptions,
)
from formats.errors import FormatError
from formats.lazy import Lazy, like
from formats.records import Checkpoint, Dense, Tensor, from_support, with_values
from formats.strict_json import JSON, foreign_object

_OF_LIBRARY = frozenset({"weight_packed", "weight_scale", "weight_shape", "weight_zero_point"})
_OF_PROGRAMS = frozenset({"qweight", "qzeros", "scales"})
"""Parts that only quantised matrices have: of compressed-tensors, and of programs that write GPTQ and AWQ."""
_CODES = {"qweight": "qweight", "weight_packed": "weight_packed", "weight_scale": "weight", "bitmask": "compressed"}
"""Part that shows that a matrix is quantised -> the part that holds its codes."""
_CODES_ALONE = {part: _CODES[part] for part in ("qweight", "weight_packed")}
"""Those of them that need no configuration beside them to be known as codes; FMT-150 covers the others."""
_OF_ACTIVATIONS = ("input_scale", "input_zero_point", "output_scale", "output_zero_point")
"""Parts that say how activations are quantised, which the expanded weights do not need."""


def open_quantised(folder: str | os.PathLike[str]) -> "QuantisedFolder":
    """Return a folder of pack-quantized, int-quantized, GPTQ or AWQ matrices; each is read on access.

    Raises:
        FormatError: FMT-172 for a quantisation or a matrix that cannot be read, FMT-175 if there is none; FMT-120,
            FMT-121 and FMT-150 as `open_hf` and `open_compressed_tensors`.
    """
    return QuantisedFolder(Path(folder))


class QuantisedFolder:
    """A folder of quantised matrices.

    Attributes:
        layers: name -> dtype, shape and parts of each quantised matrix, found without reading its codes.
        matrices: name -> Quantised, read and verified on access (FMT-173).
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        files = open_hf(folder).files
        packed = CONFIG in files and states_sparsity(foreign_object(files[CONFIG]))
        # FMT-175: a config may describe sparsity as well: bitmasks become masks, and dense weights are read as usual
        self._source = open_compressed_tensors(folder) if packed else open_hf(folder).checkpoint()
        self._schemes, self._changed = read_schemes(self._source.files)
        self.layers = _layers(self._source.tensors, self._schemes)
        self.matrices: Mapping[str, Quantised] = Lazy(self.layers, lambda name: self.layers[name].load())

    def checkpoint(self, limit: int | None = None) -> Checkpoint:
        """Return the folder as a model of floats: matrices are expanded on access, and other tensors keep every bit.

        The attributes say ``source`` and the names that are ``expanded``. config.json loses its description of the
        quantisation.

        Args:
            limit: bytes that the expanded matrices may take together; None sets no limit.

        Raises:
            ExpansionTooLarge: FMT-098.
        """
        layers, source = self.layers, self._source
        total = sum(prod(layer.shape) * layer.dtype.itemsize for layer in layers.values())
        validate.check_limit(total, limit, str(self._folder))
        left_out = self._left_out()
        used = {part for layer in layers.values() for part in layer.parts}.union(left_out)
        names = [name for name in source.tensors if name not in used or name in layers]

        def make(name: str) -> Tensor:
            return expanded(layers[name].load(), name) if name in layers else source.tensors[name]

        def outline(name: str) -> Tensor:
            if name not in layers:
                return like(source.tensors, name)
            return Dense(np.broadcast_to(np.zeros((), dtype=layers[name].dtype), layers[name].shape))

        sources, matrices = self._schemes.sources, sorted(layers)
        described: dict[str, JSON] = {"source": " and ".join(sources), "expanded": [*matrices]}
        return replace(
            source,
            tensors=Lazy([*names, *layers], make, outline),
            attributes={**source.attributes, **described},
            files=self._files(),
            remarks=tuple(self._remarks(left_out, f"become {' and '.join(self._dtypes())}")),
        )

    def codes(self) -> Checkpoint:
        """Return the folder as a quantised model of this format, with codes and zero points unchanged (QNT-010).

        Raises:
            FormatError: QNT-010, at once or when a matrix is read, if the matrices are not all on one grid of 4 or 8
                bits whose groups are runs of columns, or a scale is below 0.
        """
        layers, source, left_out = self.layers, self._source, self._left_out()
        # QNT-010.5
        asymmetric = any(m.zeros is not None and m.zeros.any() for m in map(self.matrices.__getitem__, layers))

        def on_grid(name: str) -> Quantised:
            matrix = self.matrices[name]
            if not asymmetric:
                return replace(matrix, zeros=None)
            return matrix if matrix.zeros is not None else replace(matrix, zeros=np.zeros(matrix.scales.shape, np.int8))

        # a matrix with several groups a row decides, because one with a single group fits two grids: rows, and groups
        # of as many columns as it has
        first = next((name for name in layers if self.matrices[name].scales.shape[1] > 1), next(iter(layers)))
        grid = grid_of_matrix(on_grid(first), first)
        roles = (SCALE, ZERO) if grid.endswith(":asym") else (SCALE,)
        owner = {f"{name}.{role}": (name, role) for name in layers for role in roles}
        used = {part for layer in layers.values() for part in layer.parts}.union(left_out)
        names = [name for name in source.tensors if name not in used]
        refuse_taken(owner, names)

        def make(name: str) -> Tensor:
            matrix, role = owner.get(name, (name, ""))
            if matrix not in layers:
                return source.tensors[name]
            matrix_codes = on_grid(matrix)
            if grid not in (
                own := grid_of_matrix(matrix_codes, matrix),
                grid_of_matrix(matrix_codes, matrix, whole=True),
            ):
                raise FormatError("QNT-010", f"{matrix!r} is on {own}, {first!r} on {grid}; expand the model")
            return part_of(matrix_codes, role, matrix)

        described: dict[str, JSON] = {ATTRIBUTE: {"grid": grid, "rounding": "unknown"}}
        return replace(
            source,
            tensors=Lazy([*names, *layers, *owner], make),
            attributes={**source.attributes, **described},
            files=self._files(),
            scales={name: {role: f"{name}.{role}" for role in roles} for name in layers},
            remarks=tuple(self._remarks(left_out, "stay codes")),
        )

    def _files(self) -> Mapping[str, bytes]:
        """Return the companions without their descriptions of the quantisation."""
        changed, files = {name: data for name, data in self._changed.items() if data is not None}, self._source.files
        names = files.keys() - self._changed.keys() | changed.keys()
        return Lazy(names, lambda name: changed[name] if name in changed else files[name])

    def _left_out(self) -> list[str]:
        """Return the tensors that say how activations of quantised matrices are quantised."""
        modules = [name.removesuffix(".weight") for name in self.layers]
        return [f"{x}.{part}" for x in modules for part in _OF_ACTIVATIONS if f"{x}.{part}" in self._source.tensors]

    def _dtypes(self) -> list[str]:
        return sorted({dtype_name(layer.dtype) for layer in self.layers.values()})

    def _remarks(self, left_out: list[str], become: str) -> list[str]:
        files = self._source.files
        carried = quantisation_remarks(files.get(CONFIG, b""))
        remarks = [remark for remark in self._source.remarks if remark not in carried]
        remarks.append(
            f"quantised matrices of {' and '.join(self._schemes.sources)} that {become}: "
            f"{len(self.layers)}; a weight whose code is the zero point of its group counts as pruned"
        )
        if left_out:
            remarks.append(
                f"activations are no longer quantised: {len(left_out)} tensors, the first {left_out[0]}, are left out"
            )
        gone = sorted(name for name, data in self._changed.items() if data is None)
        if gone:
            remarks.append(f"left out: {', '.join(gone)}, which describes the quantisation")
        return remarks


def grid_of_matrix(matrix: Quantised, name: str, *, whole: bool = False) -> str:
    """Return the grid of a matrix (QNT-001).

    Args:
        matrix: the matrix.
        name: for errors.
        whole: whether to state the group size even if each row is a single group.

    Raises:
        FormatError: QNT-010 for bits, groups or scales that no grid has.
    """
    columns, groups = matrix.shape[1], matrix.scales.shape[1]
    size = columns // max(groups, 1)
    if matrix.bits not in (4, 8):
        raise FormatError(
            "QNT-010", f"{name!r} has codes of {matrix.bits} bits, and grids have 4 or 8; expand the model"
        )
    if size * groups != columns or not np.array_equal(matrix.group_of_column, np.arange(columns) // max(size, 1)):
        raise FormatError("QNT-010", f"the groups of {name!r} are no runs of one number of columns; expand the model")
    if (matrix.scales < 0).any():
        raise FormatError("QNT-010", f"{name!r} has a scale below 0; expand the model")
    if matrix.mask_is_stored and (matrix.mask & (matrix.scales == 0)[:, matrix.group_of_column]).any():
        raise FormatError("QNT-010", f"{name!r} stores weights under a scale of 0; expand the model")
    refuse_large_scales("QNT-010", name, matrix.scales, matrix.bits, zero_points=matrix.zeros is not None)
    return (
        f"int{matrix.bits}"
        + (f":g{size}" if groups > 1 or whole else "")
        + (":asym" if matrix.zeros is not None else "")
    )


def refuse_taken(owner: Mapping[str, tuple[str, str]], names: Iterable[str]) -> None:
    """Refuse a tensor that has the name of a part of a matrix of codes.

    Args:
        owner: name of a part -> matrix and role.
        names: the names of the other tensors.

    Raises:
        FormatError: QNT-010.
    """
    if clashes := sorted(set(names) & set(owner)):
        raise FormatError(
            "QNT-010", f"the name {clashes[0]!r} is taken, and {owner[clashes[0]][0]!r} needs it; expand the model"
        )


def part_of(matrix: Quantised, role: str, name: str) -> Tensor:
    """Return the tensor of a role of a matrix, its codes if the role is empty (QNT-009)."""
    if role == ZERO:
        assert matrix.zeros is not None, "its grid says so"
        return Dense(matrix.zeros)
    if role == SCALE:
        scales = matrix.scales.astype(np.float32)
        # FMT-174.2, QNT-003.3: a scale of 0 is replaced, because scales must be above 0; its weights are all pruned
        largest = scales.max(axis=1, keepdims=True)
        return Dense(np.where(scales > 0, scales, np.where(largest > 0, largest, np.float32(1))))
    validate.check_sparse_shape(matrix.shape, name)
    return with_values(from_support(matrix.mask), matrix.codes[matrix.mask])


def codes_in(folder: Path) -> str | None:
    """Return the name of a quantised matrix of a folder that `open_quantised` may read, None if there is none.

    A folder has one if it holds packed codes, or codes and a config.json that describes a quantisation.
    """
    source = open_hf(folder)
    descriptions: list[Json] = []
    without_descriptions(foreign_object(source.files.get(CONFIG, b"{}")), descriptions)
    parts = _CODES if descriptions or OWN_CONFIGS.keys() & source.files.keys() else _CODES_ALONE
    for name in source:
        stem, _, part = name.rpartition(".")
        codes = f"{stem}.{parts.get(part)}"
        # FMT-175.2: words of codes are I32, and codes that are not packed I8
        dtype = "I32" if part in _CODES_ALONE else "I8"
        if part in parts and codes in source and source.section(codes).dtype == dtype:
            return f"{stem}.weight"
    return None


def _layers(tensors: Mapping[str, Tensor], schemes: Schemes) -> dict[str, Layer]:
    """Return the quantised matrices by name, after verifying that every part belongs to one."""
    parts: dict[str, set[str]] = {}
    for name in tensors:
        module, _, part = name.rpartition(".")
        parts.setdefault(module, set()).add(part)
    telling = _OF_LIBRARY if {PACKED, PLAIN}.intersection(schemes.sources) else _OF_PROGRAMS
    modules = sorted(module for module, names in parts.items() if names & telling)
    if PLAIN in schemes.sources:
        for module in sorted(module for module, names in parts.items() if "weight" in names and not names & telling):
            weight = like(tensors, f"{module}.weight")
            if isinstance(weight, Dense) and weight.dtype == np.int8:
                raise FormatError("FMT-172", f"{module!r} has codes and no 'weight_scale'; fetch the folder again")
    if not modules:
        raise FormatError(
            "FMT-175", "no tensor of the folder belongs to a quantised matrix; leave the option to expand out"
        )
    layers = {}
    for module in modules:
        layer = layers[f"{module}.weight"] = _layer(tensors, module, schemes)
        of_scheme = {name.rpartition(".")[2] for name in layer.parts}
        strange = {part for part in parts[module] - of_scheme if part.startswith("weight_") or part in _OF_PROGRAMS}
        if strange:
            raise FormatError(
                "FMT-172", f"the quantised matrix {module!r} cannot be read: {min(strange)!r} is no part of its scheme"
            )
    return layers


def _layer(tensors: Mapping[str, Tensor], module: str, schemes: Schemes) -> Layer:
    """Return the matrix of a module, as described by the only one of its schemes that fits its shapes."""
    fitting: list[Layer] = []
    refusals: list[FormatError] = []
    for scheme in schemes.of(module):
        try:
            fitting.append(layer_of(tensors, module, scheme))
        except FormatError as refusal:
            refusals.append(refusal)
    if not fitting:
        raise refusals[0]
    if len(fitting) > 1:
        raise FormatError(
            "FMT-172",
            f"the shapes of {module!r} fit {len(fitting)} schemes of {CONFIG}, and none of them names it; expand the "
            "model with the library that made it, and convert the result",
        )
    return fitting[0]
