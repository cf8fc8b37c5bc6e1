"""A folder of parts: the names of its files and the index that binds them.

model.sparse.safetensors                                  one part, no index
model.sparse-00001-of-00002.safetensors ... and model.sparse.index.json
"""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from formats import strict_json
from formats.compress import MAGIC
from formats.errors import FormatError
from formats.header import MANIFEST_KEY, MAX_HEAD, check_version
from formats.regular import open_regular
from formats.strict_json import JSON
from formats.typed_json import as_digest, as_object, closed

WHOLE = "model.sparse.safetensors"
INDEX = "model.sparse.index.json"
MAX_INDEX = 100_000_000
MAX_PARTS = 99_999

# FMT-112: names that loaders of dense weights look for
STOCK = re.compile(r"(?i)(model|adapter_model|pytorch_model)(-\d+-of-\d+)?\.safetensors")


_VERSION_FOLDER = re.compile(r"weight_v\d{6,}", re.ASCII)
_VERSION_FILE = re.compile(r"\d{6,18}\.(model|delta)", re.ASCII)
_PICKLED = re.compile(r"pytorch_model(-\d+-of-\d+)?\.bin", re.ASCII)


def advice_for(folder: Path) -> str:
    """Return what a folder seems to hold instead of a model, and what to do with it; empty if nothing is known."""
    names = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    if {"adapter_config.json", "adapter_model.safetensors"} & {*names}:
        missing = {"adapter_config.json", "adapter_model.safetensors"} - {*names}
        what = f"is an adapter without {min(missing)}; fetch that again" if missing else "is an adapter"
        return f"{folder} {what}; seft convert {folder} DELTA --to delta --base MODEL makes a delta of it"
    if _VERSION_FOLDER.fullmatch(folder.name) and "model.safetensors.index.json" not in names:
        return f"{folder} is a version folder without its index, model.safetensors.index.json; fetch it again"
    if versions := [name for name in names if _VERSION_FILE.fullmatch(name)]:
        return f"{folder} holds {len(versions)} versions of a run; name one, such as {folder / versions[-1]}"
    if pickled := [name for name in names if _PICKLED.fullmatch(name)]:
        return f"{folder} has its weights in {pickled[0]}, which is not read; let transformers save it as safetensors"
    return ""


def is_sparse(path: Path) -> bool:
    """Return whether a path looks like a checkpoint of this format, even a damaged one; OSError if it is not there.

    Every zstd frame counts as a packed file (FMT-177), because no other format begins with a zstd frame.
    """
    if path.is_dir():
        return any(path.glob("model.sparse*.safetensors")) or (path / INDEX).exists()
    with open_regular(path) as file:
        start = file.read(8)
        if start.startswith(MAGIC):
            return True
        size = int.from_bytes(start, "little")
        return size < MAX_HEAD and MANIFEST_KEY.encode() in file.read(size)


def part_name(part: int, count: int) -> str:
    """Return the file name of a part, counted from 1 (FMT-100)."""
    return f"model.sparse-{part:05d}-of-{count:05d}.safetensors"


def index_text(spec: str, roots: Sequence[str], tensors: Sequence[Collection[str]]) -> str:
    """Return the canonical index of parts, given the root digest and the tensor names of each (FMT-101)."""
    weight_map: dict[str, JSON] = {
        name: part_name(i, len(roots)) for i, names in enumerate(tensors, start=1) for name in names
    }
    return strict_json.canonical({"metadata": {"manifests": list(roots), "spec": spec}, "weight_map": weight_map})


def parse_index(data: bytes) -> list[str]:
    """Return the root digests of the parts that an index lists; `compare_index` checks the rest of it.

    Raises:
        FormatError: FMT-024 to FMT-028, FMT-040 to FMT-042, FMT-047, FMT-101.
    """
    what = "the index"
    value = closed(as_object(strict_json.parse(data, what), what), {"metadata", "weight_map"}, what)
    metadata = as_object(value["metadata"], "metadata of the index")
    spec = metadata.get("spec")
    check_version(spec if isinstance(spec, str) else "", what)
    closed(metadata, {"manifests", "spec"}, "metadata of the index")
    roots = metadata["manifests"]
    if not isinstance(roots, list) or not 2 <= len(roots) <= MAX_PARTS:
        raise FormatError(
            "FMT-101", f"the index must list 2 to {MAX_PARTS} manifests; one part stands without index as {WHOLE}"
        )
    as_object(value["weight_map"], "weight_map of the index")
    return [as_digest(root, "a manifest of the index") for root in roots]


def compare_index(data: bytes, spec: str, roots: Sequence[str], tensors: Sequence[Mapping[str, object]]) -> None:
    """Verify that an index is exactly the one that its parts imply (FMT-101)."""
    expected = index_text(spec, roots, tensors)
    if data == expected.encode():
        return
    indexed = as_object(as_object(strict_json.parse(data, "the index"), "the index")["weight_map"], "weight_map")
    stored = as_object(as_object(strict_json.parse(expected.encode(), "parts"), "parts")["weight_map"], "weight_map")
    for name in sorted(set(indexed) | set(stored)):
        if indexed.get(name) != stored.get(name):
            raise FormatError(
                "FMT-101", f"the index has {name!r} in {indexed.get(name)}, the parts have it in {stored.get(name)}"
            )
    raise FormatError("FMT-101", f"the index says another version than its parts, which say {spec}")


def unlisted(folder: Path, listed: Collection[str]) -> list[str]:
    """Return the files of a folder that are neither hidden, nor of its checkpoint, nor among the companions listed."""
    names = (entry.name for entry in sorted(folder.iterdir()) if entry.is_file())
    return [n for n in names if n not in listed and not n.startswith(".") and not n.lower().startswith("model.sparse")]


def expected_files(names: Collection[str], roots: Sequence[str] | None, advice: str = "") -> list[str]:
    """Return the checkpoint files of a folder in part order, after verifying that it holds these and no others.

    Args:
        names: the file names of the folder.
        roots: the root digests of the index, None where there is no index.
        advice: what the folder is if it is no checkpoint (`advice_for`).

    Raises:
        FormatError: FMT-102, FMT-103.
    """
    parts = [WHOLE] if roots is None else [part_name(i, len(roots)) for i in range(1, len(roots) + 1)]
    expected = set(parts) if roots is None else {*parts, INDEX}
    ours = {name for name in names if name.lower().startswith("model.sparse")}
    if expected - ours:
        raise FormatError(
            "FMT-102",
            f"the folder lacks {min(expected - ours)!r}; {advice or 'is it a sparse checkpoint? seft show tells'}",
        )
    if ours - expected:
        raise FormatError(
            "FMT-103", f"the folder holds {min(ours - expected)!r}, which does not belong to the checkpoint"
        )
    return parts
