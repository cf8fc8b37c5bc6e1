"""Hugging Face folders: `model.safetensors`, or shards with an index, beside configuration and tokenizer.

to_sparse("Llama-pruned", "Llama-sparse")      every stored weight keeps its bits
to_hf("Llama-sparse", "Llama-again")           and comes back with them: stock loaders open the result
"""

import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from math import prod
from pathlib import Path
from types import TracebackType

import numpy as np

from formats import atomic, strict_json, validate
from formats.container import DTYPES, NONE, MappedFile, Section, dtype_name
from formats.dialects.checks import cast, check_cast, name_after_cast, require_model
from formats.dialects.coded import ATTRIBUTE
from formats.dialects.quantised import quantisations
from formats.dialects.sparsify import sparsified
from formats.dialects.stock import open_stock, outline, write_stock
from formats.dialects.version_index import refuse_version
from formats.errors import CannotHold, FormatError
from formats.index import MAX_INDEX, advice_for
from formats.lazy import Lazy, like
from formats.reader import Reader, open_checkpoint
from formats.records import ANY, LIMIT, Array, Checkpoint, Dense, Mask, Tensor, to_dense
from formats.regular import read_bounded
from formats.writer import SHARD_BYTES, write

WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
CONFIG = "config.json"
FOLDER = "a Hugging Face folder"
"""The name of this format in error messages."""

_SHARD_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,242}\.safetensors")


def open_hf(folder: str | os.PathLike[str]) -> "HfFolder":
    """Return a lazy reader of a Hugging Face folder; a context manager.

    Raises:
        FormatError: FMT-120 if a file is missing or index and shards contradict each other;
            FMT-121 if a shard is truncated or malformed.
    """
    return HfFolder(Path(folder))


class HfFolder(Mapping[str, Dense]):
    """The tensors of a Hugging Face folder, name -> Dense, in sorted order; each is a view of a mapped file.

    Attributes:
        files: name -> bytes of the companions, read on access (FMT-123).
        left_out: name -> reason, for every entry of the folder that is read neither as a companion nor as weights;
            names of folders end in a slash.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise FormatError("FMT-120", f"{folder} is not a folder")
        refuse_version(folder)
        shards = _shards(folder)
        self._owner = {name: (file, section) for file, shard in shards.values() for name, section in shard.items()}
        # FMT-159.3
        pairs = (name for name in self._owner if f"{name.removesuffix('_orig')}_mask" in self._owner)
        if masked := min((name for name in pairs if name.endswith("_orig")), default=None):
            raise FormatError(
                "FMT-159",
                f"{folder} has {masked!r} and its mask, which torch.nn.utils.prune keeps while it masks a layer and no "
                "loader of such a folder reads; call prune.remove(layer, 'weight'), then save_pretrained",
            )
        companions, self.left_out = _sorted_out(folder, {*shards} if WHOLE in shards else {*shards, INDEX})
        self.files: Mapping[str, bytes] = Lazy(companions, lambda name: companions[name].read_bytes())

    def checkpoint(self) -> Checkpoint:
        """Return the folder as a checkpoint of dense tensors.

        Its remarks list the files that are left out, and the quantisations whose tensors are copied unchanged.
        """
        remarks = []
        if self.left_out:
            listed = ", ".join(f"{name} ({reason})" for name, reason in self.left_out.items())
            remarks.append(f"left out: {listed}")
        remarks += quantisation_remarks(self.files.get(CONFIG, b""))
        return Checkpoint("model", self, files=self.files, remarks=tuple(remarks))

    def like(self, name: str) -> Dense:
        """Return a tensor with the dtype and shape of `self[name]`, without reading its values."""
        section = self.section(name)
        return Dense(np.broadcast_to(np.zeros((), dtype=DTYPES[section.dtype]), section.shape))

    def __getitem__(self, name: str) -> Dense:
        """Return a tensor: a read-only view of the file, bit for bit. KeyError if it is not there."""
        file, section = self._owner[name]
        values = file.array(section)
        validate.check_bool(values, name)
        return Dense(values)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._owner))

    def __len__(self) -> int:
        return len(self._owner)

    def section(self, name: str) -> Section:
        """Return dtype and shape of a tensor without reading it. KeyError if it is not there."""
        return self._owner[name][1]

    def close(self) -> None:
        """Release the files; arrays that were returned keep the mappings that they view."""
        self._owner = {}

    def __enter__(self) -> "HfFolder":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def quantisation_remarks(config: bytes) -> list[str]:
    """Return a remark for each quantisation that a config.json describes: its tensors stay unchanged (FMT-128)."""
    return [
        f"{CONFIG} describes a quantisation ({label}): its tensors are carried as they are, bit for bit, and zeros "
        f"among packed codes are not taken for sparsity"
        for label in quantisations(config)
    ]


def refuse_packed(names: Collection[str]) -> None:
    """Refuse a folder that has packed tensors but whose config does not say so (FMT-150).

    Otherwise a reader would take the bitmasks and packed values for weights.
    """
    stems = {name.removesuffix(".bitmask") for name in names if name.endswith(".bitmask")}
    packed = sorted(stem for stem in stems if f"{stem}.compressed" in names and f"{stem}.shape" in names)
    if packed:
        listed = repr(packed[0]) + (f" and {len(packed) - 1} more" if len(packed) > 1 else "")
        raise FormatError(
            "FMT-150",
            f"compressed-tensors packed {listed}, and {CONFIG} does not say how; convert the folder together with the "
            f"{CONFIG} that was written with it",
        )


def to_sparse(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    *,
    encoding: str = "auto",
    dtype: str | None = None,
    compress: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    zeros: str = ANY,
) -> tuple[str, ...]:
    """Write the Hugging Face folder src as the sparse checkpoint dst, and return remarks for the user.

    `to_hf` turns dst into the same tensors again (FMT-125). One tensor is in memory at a time. The remarks list every
    file and folder of src that is left out (FMT-123). They say how many entries of −0.0 are left out or stored
    (FMT-127), and whether config.json describes a quantisation (FMT-128).

    Args:
        src: the folder to read.
        dst: the folder to make.
        encoding: as in `sparsified`.
        dtype: as in `sparsified`.
        compress: as in `formats.write`.
        shard_bytes: as in `formats.write`.
        zeros: as in `sparsified`.

    Raises:
        FormatError: FMT-110 if dst is there, FMT-120 or FMT-121 for a bad src, FMT-126 for an overflow,
            FMT-150 for parts of packed tensors.
    """
    with open_hf(src) as source:
        refuse_packed(source.keys())
        checkpoint = sparsified(source.checkpoint(), encoding, dtype, zeros)
        write(dst, checkpoint, encoding=encoding, compress=compress, shard_bytes=shard_bytes)
    return checkpoint.remarks


def to_hf(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    *,
    dtype: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    limit: int | None = None,
) -> None:
    """Write the sparse checkpoint src as the Hugging Face folder dst, one tensor in memory at a time.

    Absent positions become +0.0, so they cannot be distinguished from stored zeros. Tied names stay absent (FMT-124).
    Attributes are left out, because such a folder has no place for them.

    Args:
        src: a checkpoint folder or file.
        dst: the folder to make.
        dtype: name of the dtype to cast floats to, for example ``"F32"``; None keeps every bit.
        shard_bytes: bytes of tensors that a shard may hold before the next tensor opens another one.
        limit: bytes that all tensors may take together once they are dense (FMT-098); None limits each tensor alone.

    Raises:
        FormatError: FMT-110 if dst is there, the broken rule of src, FMT-098, FMT-126 for a cast that overflows,
            FMT-154 for a mask or another kind than a model, QNT-009 for a quantised model.
    """
    check_cast(dtype)
    if shard_bytes < 1:
        raise FormatError("FMT-084", f"shard_bytes is {shard_bytes}, expected at least 1")

    def fetch(name: str) -> Array:
        return _values(cast(Dense(to_dense(reader.load_verified(name), limit=limit or LIMIT)), dtype, name))

    with open_checkpoint(src) as reader:
        if reader.scales and ATTRIBUTE in reader.attributes:
            # QNT-009.4
            raise FormatError(
                "QNT-009", f"{src} is quantised, and a folder would have its codes as weights; expand it first"
            )
        outlines = _outlines(reader, dtype)
        _check_dense(outlines, limit)
        write_hf(dst, outlines, fetch, reader.files, shard_bytes=shard_bytes)


def checkpoint_to_hf(
    dst: str | os.PathLike[str],
    checkpoint: Checkpoint,
    *,
    dtype: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    limit: int | None = None,
) -> None:
    """Write the tensors and companions of a checkpoint as the Hugging Face folder dst, as `to_hf` does.

    Each tensor is fetched once; before that, `formats.lazy.like` gives its dtype and shape.

    Raises:
        FormatError: FMT-110 if dst is there, FMT-098, FMT-126 for a cast that overflows, FMT-154 for a mask or another
            kind than a model.
    """
    check_cast(dtype)
    require_model(checkpoint.kind, FOLDER)
    outlines = []
    for name in sorted(checkpoint.tensors):
        tensor = like(checkpoint.tensors, name)
        if isinstance(tensor, Mask):
            raise CannotHold("FMT-154", f"{name!r} is a mask, which {FOLDER} cannot hold")
        outlines.append(outline(name, name_after_cast(dtype_name(tensor.dtype), dtype), tensor.shape))

    def fetch(name: str) -> Array:
        return _values(cast(Dense(to_dense(checkpoint.tensors[name], limit=limit or LIMIT)), dtype, name))

    _check_dense(outlines, limit)
    write_hf(dst, outlines, fetch, checkpoint.files, shard_bytes=shard_bytes)


def _check_dense(outlines: list[Section], limit: int | None) -> None:
    """Verify that the tensors of a folder take at most limit bytes together (FMT-098), before a byte is written."""
    total = sum(prod(section.shape) * DTYPES[section.dtype].itemsize for section in outlines)
    validate.check_limit(total, limit, FOLDER)


def _values(tensor: Tensor) -> Array:
    assert isinstance(tensor, Dense)
    return tensor.values


def write_hf(
    dst: str | os.PathLike[str],
    outlines: list[Section],
    fetch: Callable[[str], Array],
    files: Mapping[str, bytes],
    *,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a Hugging Face folder, one tensor in memory at a time (FMT-124).

    Args:
        dst: the folder to make.
        outlines: name, dtype and shape of every tensor.
        fetch: name -> its array; called once for each, in file order.
        files: the companions, name -> bytes.
        shard_bytes: bytes of tensors that a shard may hold before the next tensor opens another one.

    Raises:
        FormatError: FMT-110 if dst is there, FMT-013 for the name of a companion.
    """
    validate.check_file_names(list(files))
    with atomic.new_folder(Path(dst)) as folder:
        for name, data in files.items():
            atomic.write_bytes(folder / name, data)
        shards = _split(outlines, shard_bytes)
        if len(shards) == 1:
            write_stock(folder / WHOLE, shards[0], fetch)
            return
        weight_map: dict[str, strict_json.JSON] = {}
        for i, shard in enumerate(shards, start=1):
            file_name = f"model-{i:05d}-of-{len(shards):05d}.safetensors"
            write_stock(folder / file_name, shard, fetch)
            weight_map.update({section.name: file_name for section in shard})
        total = sum(section.nbytes for shard in shards for section in shard)
        text = strict_json.canonical({"metadata": {"total_size": total}, "weight_map": weight_map})
        atomic.write_bytes(folder / INDEX, text.encode())


def _outlines(reader: Reader, dtype: str | None) -> list[Section]:
    infos = [reader.info(name) for name in reader.names()]
    masks = [i.name for i in infos if i.dtype == NONE]
    require_model(reader.kind, FOLDER)
    if masks:
        raise CannotHold("FMT-154", f"{masks[0]!r} is a mask, which {FOLDER} cannot hold")
    return [outline(i.name, name_after_cast(i.dtype, dtype), i.shape) for i in infos]


def _split(tensors: list[Section], shard_bytes: int) -> list[list[Section]]:
    """Return runs of tensors of at most shard_bytes each; a larger tensor is a run of its own."""
    shards: list[list[Section]] = [[]]
    size = 0
    for tensor in tensors:
        if shards[-1] and size + tensor.nbytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.nbytes
    return shards


def _sorted_out(folder: Path, read: Collection[str]) -> tuple[dict[str, Path], dict[str, str]]:
    """Return the companions of a folder, and the reason for every entry that is left out; files in read are skipped."""
    companions, left_out = {}, {}
    for path in sorted(folder.iterdir()):
        # FMT-123
        if path.is_dir():
            left_out[f"{path.name}/"] = "a folder"
        elif path.name in read:
            continue
        elif path.name.startswith("."):
            left_out[path.name] = "hidden"
        elif not path.is_file():
            left_out[path.name] = "no regular file"
        elif path.name.lower().endswith(validate.WEIGHT_SUFFIXES):
            left_out[path.name] = "weights that are not read"
        elif path.stat().st_size > validate.MAX_FILE_BYTES:
            left_out[path.name] = f"more than {validate.MAX_FILE_BYTES:,} bytes"
        else:
            companions[path.name] = path
    return companions, left_out


def _shards(folder: Path) -> dict[str, tuple[MappedFile, dict[str, Section]]]:
    """Return the opened weight files of a folder, after comparing them with the index if there is one (FMT-120)."""
    if (folder / WHOLE).is_file():
        return {WHOLE: open_stock(folder / WHOLE)}
    if not (folder / INDEX).is_file():
        why = f"{folder} has neither {WHOLE} nor {INDEX}, the weight files of a model"
        raise FormatError("FMT-120", f"{why}; {advice}" if (advice := advice_for(folder)) else why)
    weight_map = _weight_map(folder / INDEX)
    shards = {}
    for file_name in sorted(set(weight_map.values())):
        if not (folder / file_name).is_file():
            raise FormatError("FMT-120", f"{folder} lacks {file_name!r}, which its index names")
        shards[file_name] = open_stock(folder / file_name)
    stored = {(name, file_name) for file_name, (_, sections) in shards.items() for name in sections}
    wrong = sorted(stored ^ set(weight_map.items()))
    if wrong:
        name, file_name = wrong[0]
        says = "has it there, its index does not" if wrong[0] in stored else "lacks it, its index says otherwise"
        raise FormatError("FMT-120", f"{name!r} in {file_name!r}: the folder {says}")
    return shards


def _weight_map(path: Path) -> dict[str, str]:
    try:
        data = read_bounded(path, MAX_INDEX)
        if data is None:
            raise FormatError("FMT-120", f"more than {MAX_INDEX} bytes")
        value = strict_json.parse_any(data, "the text")
    except FormatError as error:
        raise FormatError("FMT-120", f"{path.name} cannot be read: {error}") from error
    entries = value.get("weight_map") if isinstance(value, dict) else None
    if not isinstance(entries, dict) or not entries:
        raise FormatError("FMT-120", f"{path.name} has no weight_map")
    weight_map = {}
    for name, file_name in entries.items():
        # FMT-120: only a plain file name is accepted, so that an index never leads out of its folder
        if not isinstance(file_name, str) or not _SHARD_NAME.fullmatch(file_name):
            raise FormatError(
                "FMT-120", f"{path.name} puts {name!r} into {file_name!r:.80}, expected the name of a file beside it"
            )
        weight_map[name] = file_name
    return weight_map
