"""Sparse weight patches of TRL: flat indices and the new values of each changed tensor, in one safetensors file.

q_proj.weight.indices  I32   [ 3 17 90 ]       __metadata__   sparse "True", model_version "12", ...
q_proj.weight.values   BF16  [ a  b  c ]       new values, not differences
"""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from formats import atomic, strict_json, validate
from formats.container import DTYPES, MappedFile, Section, dtype_name
from formats.dialects.changes import (
    Changes,
    base_tensor,
    check_change,
    check_in_base,
    check_vector,
    sorted_support,
)
from formats.dialects.stock import metadata_of, open_stock, outline, write_stock
from formats.errors import CannotHold, FormatError
from formats.lazy import Lazy
from formats.records import Array, Sparse, Tensor, flat, with_values
from formats.strict_json import JSON

EMPTY = "__empty_delta__"
"""Name of the only tensor in a patch that changes nothing, because readers of patches expect a tensor."""


def read_trl_delta(path: str | os.PathLike[str], base: Mapping[str, Tensor]) -> Changes:
    """Return the changes of a TRL patch: new bits, in the dtype of the base (FMT-151).

    Tensors are ``<name>.indices`` I32 or I64 and ``<name>.values``; or ``<name>.idx`` and ``<name>.val`` with the
    metadata ``encoding`` "raw" (I32) or "gap_delta" (U16 or U32: the number of positions between two indices, counted
    from -1 for the first).

    Args:
        path: a patch, or a folder that holds exactly one.
        base: name -> tensor of the model before the patch.

    Raises:
        FormatError: FMT-151 for what is missing, unknown or does not fit, for indices when a tensor is accessed;
            FMT-121 for a malformed file.
    """
    source = _the_file(Path(path))
    file, sections = open_stock(source)
    metadata = _metadata(file)
    pairs, decode = _pairs(sections, metadata)
    _check_announced(metadata, pairs)
    check_in_base(pairs, base, "FMT-151")

    def fetch(name: str) -> Sparse:
        before = base_tensor(base, name, "FMT-151")
        indices, values = pairs[name]
        if DTYPES[values.dtype] != before.dtype:
            raise FormatError(
                "FMT-151",
                f"{values.name!r} is {values.dtype}, the base has {dtype_name(before.dtype)}; "
                f"new values must have the dtype of the base, convert one of them first",
            )
        support, permutation = sorted_support(decode(file.array(indices)), before.shape, name, "FMT-151")
        new = file.array(values)
        validate.check_bool(new, name)
        return with_values(support, new[permutation])

    # changed_params is left out, because it repeats the names of the tensors
    kept_metadata: dict[str, JSON] = {key: value for key, value in sorted(metadata.items()) if key != "changed_params"}
    return Changes("replace", Lazy(pairs, fetch), {"adapter": "trl-delta", "metadata": kept_metadata})


def write_trl_delta(path: str | os.PathLike[str], changes: Changes, metadata: Mapping[str, str]) -> None:
    """Write a TRL patch with ``.indices`` I32 and ``.values``, replacing the file if it is there (FMT-154).

    Args:
        path: the file to write.
        changes: new bits; each tensor is fetched three times. Attributes are not written.
        metadata: entries such as model_version or checksum_sha256. format, version, sparse, num_changed_params,
            total_changed_elements and changed_params are filled in, and must not be contradicted here.

    Raises:
        CannotHold: FMT-154 for amounts to add, and for a position beyond 2^31 - 1.
        FormatError: FMT-084 for metadata that contradicts an entry that is filled in.
    """
    if changes.op != "replace":
        raise CannotHold(
            "FMT-154",
            f"a TRL patch holds new values, these changes are of op {changes.op!r}; apply them to the base and take "
            f"the difference to it first",
        )
    sizes = {}
    outlines = []
    for name in changes.tensors:
        tensor = changes.positions_of(name)
        check_change(tensor, name)
        positions = flat(tensor)
        if positions.size and int(positions[-1]) > validate.MAX_SPARSE_DIM:
            raise CannotHold(
                "FMT-154",
                f"{name!r} changes position {int(positions[-1])}, I32 indices end at {validate.MAX_SPARSE_DIM}",
            )
        sizes[name] = tensor.nnz
        outlines.append(outline(f"{name}.indices", "I32", (tensor.nnz,)))
        outlines.append(outline(f"{name}.values", dtype_name(tensor.dtype), (tensor.nnz,)))
    header = _header(sizes, metadata)

    def content(section: str) -> Array:
        if section == EMPTY:
            return np.zeros(1, dtype=np.int32)
        name, role = section.rsplit(".", 1)
        tensor = changes.positions_of(name)
        return tensor.values if role == "values" else flat(tensor).astype(np.int32)

    with atomic.new_file(Path(path)) as temporary:
        write_stock(temporary, outlines or [outline(EMPTY, "I32", (1,))], content, header)


def _header(sizes: Mapping[str, int], metadata: Mapping[str, str]) -> dict[str, str]:
    filled = {
        "format": "sparse_weight_patch",
        "version": "1",
        "sparse": "True",
        "num_changed_params": str(len(sizes)),
        "total_changed_elements": str(sum(sizes.values())),
        "changed_params": json.dumps(list(sizes)),
    }
    for key, value in filled.items():
        if key in metadata and metadata[key] != value:
            raise FormatError(
                "FMT-084", f"metadata has {key} = {metadata[key]!r:.80}, the changes say {value!r:.80}; leave it out"
            )
    return {**metadata, **filled}


def _the_file(path: Path) -> Path:
    if not path.is_dir():
        if not path.is_file():
            raise FormatError("FMT-151", f"{path} is neither a file nor a folder")
        return path
    patches = sorted(path.glob("*.safetensors"))
    if len(patches) != 1:
        raise FormatError(
            "FMT-151", f"{path} holds {len(patches)} safetensors files, expected one; name the patch to read"
        )
    return patches[0]


def _metadata(file: MappedFile) -> dict[str, str]:
    metadata: dict[str, str] = {}
    for key, value in metadata_of(file).items():
        if not isinstance(value, str):
            raise FormatError("FMT-151", f"metadata {key!r} of the patch is {value!r:.80}, expected text")
        metadata[key] = value
    if metadata.get("sparse") == "False" or metadata.get("format") == "anchor_checkpoint":
        raise FormatError("FMT-151", "this is an anchor, a whole model; read it as a Hugging Face folder instead")
    return metadata


def _pairs(
    sections: Mapping[str, Section], metadata: Mapping[str, str]
) -> tuple[dict[str, tuple[Section, Section]], Callable[[Array], NDArray[np.int64]]]:
    """Return name -> sections of indices and values, and the function that turns indices into positions."""
    if set(sections) == {EMPTY}:
        return {}, _positions
    coded = any(key.endswith(".idx") for key in sections)
    index_suffix, data_suffix = (".idx", ".val") if coded else (".indices", ".values")
    names = {key.removesuffix(index_suffix) for key in sections if key.endswith(index_suffix)}
    expected = {name + role for name in names for role in (index_suffix, data_suffix)}
    if set(sections) != expected or not names:
        wrong = min(set(sections) ^ expected, default="")
        raise FormatError(
            "FMT-151", f"{wrong!r} has no partner, expected pairs of <name>{index_suffix} and <name>{data_suffix} only"
        )
    encoding = metadata.get("encoding", "") if coded else "raw"
    if encoding not in ("raw", "gap_delta"):
        raise FormatError("FMT-151", f"the indices have the encoding {encoding!r:.80}, expected raw or gap_delta")
    dtypes = frozenset({"U16", "U32"} if encoding == "gap_delta" else {"I32", "I64"})
    pairs = {}
    for name in names:
        indices, values = sections[name + index_suffix], sections[name + data_suffix]
        check_vector(indices, dtypes, "FMT-151")
        check_vector(values, frozenset(DTYPES), "FMT-151")
        if indices.shape != values.shape:
            raise FormatError("FMT-151", f"{name!r} has {indices.shape[0]} indices for {values.shape[0]} values")
        pairs[name] = indices, values
    return pairs, _positions if encoding == "raw" else _from_gaps


def _positions(indices: Array) -> NDArray[np.int64]:
    return indices.astype(np.int64)


def _from_gaps(gaps: Array) -> NDArray[np.int64]:
    # a step is at most 2^32, so the sums exceed every legal position, and are refused, before they could overflow
    return np.cumsum(gaps.astype(np.int64) + 1) - 1


def _check_announced(metadata: Mapping[str, str], names: Mapping[str, object]) -> None:
    """Verify that a list of changed tensors in the metadata, if there is one, names those of the file."""
    if "changed_params" not in metadata:
        return
    try:
        announced = strict_json.parse_any(metadata["changed_params"].encode(), "changed_params")
    except (FormatError, UnicodeEncodeError) as broken:
        raise FormatError("FMT-151", f"changed_params of the patch cannot be read: {broken}") from broken
    if not isinstance(announced, list) or sorted(map(str, announced)) != sorted(names):
        raise FormatError(
            "FMT-151", f"changed_params of the patch is {announced!r:.80}, its tensors are {sorted(names)!r:.80}"
        )
