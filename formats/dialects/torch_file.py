"""Reads and writes files of torch.save: a dict of name to tensor, sparse matrices as CSR.

write_torch_csr("pruned.pt", checkpoint)       torch.load gives CSR matrices and dense tensors
read_torch("pruned.pt")                        reads that file, or any state dict whose indices are valid
"""

import os
import zipfile
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch

from formats import atomic, validate
from formats.dialects.checks import require_plain
from formats.dialects.torch_pickle import StorageId, check_pickle, check_size
from formats.dialects.torch_tensors import (
    check_kind,
    from_torch,
    from_torch_csr,
    to_torch,
    to_torch_csr,
    without_warnings_of_torch,
)
from formats.errors import CannotHold, FormatError
from formats.records import LIMIT, Checkpoint, Dense, Mask, Tensor, from_support, with_values
from formats.regular import open_regular

ITEM_BYTES = {
    **dict.fromkeys(("Char", "Byte", "Bool", "QUInt8", "QInt8", "QUInt4x2", "QUInt2x4", "Untyped"), 1),
    **dict.fromkeys(("Half", "BFloat16", "Short"), 2),
    **dict.fromkeys(("Float", "Int", "QInt32"), 4),
    **dict.fromkeys(("Double", "Long", "ComplexFloat"), 8),
}
"""Class of a storage, without "Storage" -> bytes of an element."""


def write_torch_csr(
    path: str | os.PathLike[str], checkpoint: Checkpoint, *, index_dtype: torch.dtype = torch.int64
) -> None:
    """Write a torch.save file of a dict: name to sparse CSR tensor for sparse matrices, to dense tensor for others.

    Tied names share their tensor. The same checkpoint gives the same bytes with the same torch, whatever the file's
    name. All tensors are in memory at once.

    Args:
        path: the file to make, in place of an older one if there is one (FMT-111).
        checkpoint: a model without attributes and companions, for which there is no place.
        index_dtype: torch.int64 or torch.int32, of row pointers and columns.

    Raises:
        CannotHold: FMT-154 for a mask, a sparse tensor that is no matrix, or a dtype that torch lacks.
        FormatError: the clause that a record or name breaks; FMT-153 for so many tensors that their pickle is larger
            than readers take. Nothing is left behind.
    """
    require_plain(checkpoint, "a torch file")
    state = {name: _to_tensor(checkpoint.tensors[name], name, index_dtype) for name in sorted(checkpoint.tensors)}
    # aliases come last, because a reader stores a tensor under the first name that shows it
    state.update({alias: state[target] for alias, target in sorted(checkpoint.tied.items())})
    with atomic.new_file(Path(path)) as temporary, temporary.open("xb") as file:
        # torch gets a file, not a path, because it would name the root of its archive after the path
        try:
            torch.save(state, file)
        except RuntimeError as error:
            # torch counts its bytes once more after a write has failed, and raises its own error over that of the disk
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
        file.flush()
        # FMT-153.5: because no reader would take a larger pickle
        _pickle_of(temporary)
        os.fsync(file.fileno())


def _to_tensor(tensor: Tensor, name: str, index_dtype: torch.dtype) -> torch.Tensor:
    if isinstance(tensor, Mask):
        raise CannotHold(
            "FMT-154", f"{name!r} is a mask, torch has no tensor without values; give it some with with_values"
        )
    if isinstance(tensor, Dense):
        validate.check_record(tensor, name)
        return to_torch(tensor.values, name=name)
    return to_torch_csr(tensor, index_dtype=index_dtype, name=name)


def read_torch(path: str | os.PathLike[str], *, limit: int = LIMIT) -> Checkpoint:
    """Return the tensors of a state dict that torch.save wrote, after verifying every index.

    Dense tensors are views of the mapped file; sparse ones are in memory. If several names show the same tensor, it is
    stored under the first of them, and the others are tied to it. Nothing but tensors is unpickled.

    Args:
        path: a zip file of torch.save: a dict of name to tensor, or a dict of such a dict under ``"state_dict"``.
        limit: bytes that the row pointers of all COO tensors may take together, because they are made from the shapes.

    Raises:
        FormatError: FMT-153 for what torch refuses, an entry that is no tensor, a tensor larger than its bytes,
            or wrong indices; FMT-159 for a mask of torch.nn.utils.prune that cannot be applied.
        CannotHold: FMT-154 for a subclass of tensors, a layout or dtype that a checkpoint has no equal of.
        ExpansionTooLarge: FMT-098.
    """
    path = Path(path)
    tensors: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    owners: dict[object, str] = {}
    used = 0
    for name, tensor in _state_dict(path).items():
        _check_entry(name, tensor, path.name)
        view = _view(tensor)
        if view is not None and view in owners:
            tied[name] = owners[view]
            continue
        owners[view] = name
        if tensor.layout == torch.sparse_coo:
            # FMT-098: the row pointers of a COO tensor are made from its shape
            used += 8 * (prod(tensor.shape[:-1]) + 1)
            validate.check_limit(used, limit, f"what leads up to {name!r} in {path.name}")
        tensors[name] = _from_tensor(tensor, name, limit)
    return Checkpoint("model", _with_masks(tensors, tied, path.name), tied=tied)


def _with_masks(tensors: dict[str, Tensor], tied: dict[str, str], file: str) -> dict[str, Tensor]:
    """Return the tensors with each pair X_orig, X_mask of torch.nn.utils.prune as the one tensor X (FMT-159)."""
    joined = dict(tensors)
    for name, values in tensors.items():
        stem = name.removesuffix("_orig")
        mask = tensors.get(f"{stem}_mask")
        if stem == name or not isinstance(values, Dense) or not isinstance(mask, Dense) or not values.shape:
            continue
        if values.shape != mask.shape:
            continue
        support = mask.values != 0
        if not bool((mask.values[support] == 1).all()):
            wrong = "the mask holds values other than 0 and 1"
        elif stem in tensors or {stem, name, f"{stem}_mask"} & {*tied, *tied.values()}:
            wrong = f"{stem!r} is a tensor of its own, or one of them is tied"
        else:
            del joined[name], joined[f"{stem}_mask"]
            joined[stem] = with_values(from_support(support), values.values[support])
            continue
        pair = f"{file}: {name!r} and '{stem}_mask' look like a masked parameter"
        raise FormatError("FMT-159", f"{pair}, but {wrong}; call prune.remove, then save")
    return joined


def _state_dict(path: Path) -> dict[Any, Any]:
    # types that the program has added to torch's safe globals may be loaded here, too
    added = torch.serialization.get_safe_globals()
    trusted = [f[1] if isinstance(f, tuple) else f"{f.__module__}.{f.__qualname__}" for f in added]
    data, sizes = _pickle_of(path)
    for storage in check_pickle(data, path.name, trusted):
        _check_storage(storage, sizes, path.name)
    try:
        # the file is mapped, because then no storage can be larger than the file
        with without_warnings_of_torch():
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except MemoryError:
        raise
    except Exception as error:
        # the text of torch is not shown, because it advises to switch its protection off
        raise FormatError(
            "FMT-153",
            f"{path.name} holds more than tensors, or is damaged, and was not loaded; save module.state_dict() alone",
        ) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        others = sorted(repr(key) for key in state if key != "state_dict")
        if others:
            raise FormatError(
                "FMT-153", f"{path.name} has {', '.join(others):.200} beside 'state_dict'; save that entry alone"
            )
        state = state["state_dict"]
    if not isinstance(state, dict):
        raise FormatError("FMT-153", f"{path.name} holds a {type(state).__name__}, expected a dict of tensors by name")
    return state


def _check_storage(storage: StorageId, sizes: Mapping[str, int], file: str) -> None:
    """Verify that a storage is not larger than its member, because torch maps members without a look at their sizes.

    Raises:
        FormatError: FMT-153.
    """
    nbytes = storage.numel * ITEM_BYTES.get(storage.kind.removesuffix("Storage"), 16)
    member = sizes.get(f"data/{storage.key}", 0)
    if nbytes > member:
        raise FormatError(
            "FMT-153",
            f"{file} states {nbytes} bytes for storage {storage.key!r:.80}, its member has {member}; save it again",
        )


def _pickle_of(path: Path) -> tuple[bytes, dict[str, int]]:
    """Return the pickle of a file and the sizes of the members beside it, after verifying that torch finds the same.

    The file must be a zip from its first byte on, with uncompressed members of unique names, because torch maps
    members without checking any of that.
    """
    with open_regular(path) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
                packed = [info.filename for info in members if info.compress_type != zipfile.ZIP_STORED]
                pickles = [info for info in members if info.filename.endswith("/data.pkl")]
                for info in pickles:
                    check_size(info.file_size, path.name)
                sound = len({info.filename for info in members}) == len(members) and not archive.comment
                sound = sound and min((info.header_offset for info in members), default=0) == 0
                data = archive.read(pickles[0]) if len(pickles) == 1 and sound and not packed else None
        except FormatError:
            raise
        # every error is caught, because zipfile raises a dozen kinds of errors over damaged bytes
        except Exception as error:
            raise FormatError(
                "FMT-153",
                f"{path.name} is no zip file ({error!s:.200}); if torch before 1.6 wrote it, load it with torch and "
                f"save it again",
            ) from error
    if packed:
        raise FormatError(
            "FMT-153", f"member {packed[0]!r} of {path.name} is compressed, torch.save stores members as they are"
        )
    if data is None:
        raise FormatError(
            "FMT-153", f"{path.name} is a zip file that torch.save did not write: it holds {len(pickles)} pickles"
        )
    folder = pickles[0].filename.removesuffix("data.pkl")
    sizes = {info.filename.removeprefix(folder): info.file_size for info in members}
    return data, sizes


def _check_entry(name: object, tensor: object, file: str) -> None:
    """Verify key and type of an entry, and that a tensor does not show more bytes than its storage has."""
    if not isinstance(name, str):
        raise FormatError("FMT-153", f"{file} has the key {name!r:.80}, expected names of tensors")
    if not isinstance(tensor, torch.Tensor):
        raise FormatError(
            "FMT-153", f"{name!r} in {file} is a {type(tensor).__name__}, expected a tensor; save tensors alone"
        )
    try:
        validate.check_name(name)
    except FormatError as error:
        raise FormatError("FMT-153", f"{file} has a name that no checkpoint can hold: {error}") from error
    check_kind(tensor, name)
    # FMT-007: checked first, because NumPy refuses a dimension of 2^62 even beside a dimension of 0
    for part in (tensor, *_parts(tensor)):
        _check_shape(tuple(part.shape), name, file)
    for part in _parts(tensor):
        check_kind(part, f"a part of {name}")
        nbytes = part.untyped_storage().nbytes()
        # FMT-096: because a tensor with strides of 0 may show a few bytes as any number of elements
        if part.numel() * part.element_size() > nbytes:
            raise FormatError(
                "FMT-153",
                f"{name!r} in {file} shows {part.numel()} elements of {nbytes} bytes; call contiguous() before saving",
            )


def _check_shape(shape: tuple[int, ...], name: str, file: str) -> None:
    try:
        validate.check_shape(shape, name)
    except FormatError as error:
        raise CannotHold("FMT-154", f"{name!r} in {file} is larger than a checkpoint can hold: {error}") from error


def _parts(tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
    if tensor.layout == torch.sparse_csr:
        return tensor.crow_indices(), tensor.col_indices(), tensor.values()
    if tensor.layout == torch.sparse_coo:
        return tensor._indices(), tensor._values()
    return (tensor,) if tensor.layout == torch.strided else ()


def _view(tensor: torch.Tensor) -> object:
    """Return a key that is equal for names of one tensor; None for a tensor without bytes, which is tied to nothing."""
    parts = _parts(tensor)
    # empty parts have no address, so two COO tensors without values would look like one
    if not tensor.numel() or not any(part.numel() for part in parts):
        return None
    if any(not part.data_ptr() for part in parts if part.numel()):
        return None
    return (
        tensor.layout,
        tuple(tensor.shape),
        *((p.data_ptr(), p.dtype, tuple(p.shape), p.stride(), p.is_conj(), p.is_neg()) for p in parts),
    )


def _from_tensor(tensor: torch.Tensor, name: str, limit: int) -> Tensor:
    if tensor.layout == torch.strided:
        dense = Dense(from_torch(tensor, name=name))
        check_values(dense, name)
        return dense
    sparse = from_torch_csr(tensor, name=name, limit=limit)
    check_values(sparse, name)
    return sparse


def check_values(tensor: Tensor, name: str) -> None:
    """Verify the booleans of a tensor.

    Raises:
        FormatError: FMT-153 for a byte that is neither 0 nor 1.
    """
    try:
        if not isinstance(tensor, Mask):
            validate.check_bool(tensor.values, name)
    except FormatError as error:
        raise FormatError("FMT-153", f"{name!r} cannot be read: {error}") from error
