"""Mutants of folders (parts, index, companions), of file names (FMT-112), and of dense arrays (FMT-098)."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np

from conformance.engine.parts import validate
from conformance.oracle.files_folders import INDEX, WHOLE
from conformance.wrong.mutants.base import REFUSALS, Mutant, Operation, Values, changed, mutants, reset, right
from conformance.wrong.mutants.train_around import names


def indexed(change: Callable[[Values], Any]) -> Operation:
    """Return a writer of folders whose index is changed."""

    def f(a: Values) -> Values:
        files = dict(right("folder.write")(a)["files"])
        if INDEX in files:
            index = json.loads(files[INDEX].tobytes())
            change(index)
            files[INDEX] = _text(json.dumps(index, sort_keys=True, separators=(",", ":"), ensure_ascii=False))
        return {"files": files}

    return f


def _text(text: str) -> Any:
    return np.frombuffer(text.encode(), dtype=np.uint8)


def ends_with_a_line(a: Values) -> Values:
    files = dict(right("folder.write")(a)["files"])
    return {"files": {n: np.append(raw, np.uint8(10)) if n == INDEX else raw for n, raw in files.items()}}


def named(change: Callable[[str], str]) -> Operation:
    """Return a writer of folders whose parts have other names."""

    def f(a: Values) -> Values:
        files = right("folder.write")(a)["files"]
        return {"files": {change(name) if name not in a["files"] else name: raw for name, raw in files.items()}}

    return f


def no_companions(a: Values) -> Values:
    return right("folder.write")(a | {"files": {}})


def companions_lost(a: Values) -> Values:
    return right("folder.read")(a) | {"files": {}}


def every_file(a: Values) -> Values:
    """Take every other file in the folder for a companion."""
    own = {name: raw for name, raw in a["files"].items() if not name.lower().startswith("model.sparse")}
    return right("folder.read")(a) | {"files": own}


def first_part_alone(a: Values) -> Values:
    """Return only the first tensor of a folder with several parts."""
    out = right("folder.read")(a)
    names = sorted(out["tensors"], key=str.encode)
    return out | {"tensors": {name: out["tensors"][name] for name in names[: 1 if INDEX in a["files"] else None]}}


def not_counted(a: Values) -> Values:
    """Read a folder although a companion is missing."""
    try:
        return right("folder.read")(a)
    except REFUSALS as error:
        if error.clause != "FMT-102" or "config" not in str(error):
            raise
        return {}


def always_an_index(a: Values) -> Values:
    """Write an index for a folder of one part as well."""
    files = dict(right("folder.write")(a)["files"])
    if INDEX not in files:
        files[INDEX] = _text(json.dumps({"metadata": {"manifests": [], "spec": "1.0"}, "weight_map": {}}))
    return {"files": files}


def sized(part_bytes: Callable[[int], int]) -> Operation:
    """Return a writer of folders with another part size than the given one."""
    return changed("folder.write", part_bytes=lambda a: part_bytes(a["part_bytes"]))


def with_index(change: Callable[[Values], Any]) -> Operation:
    """Return a writer of folders whose index has other metadata."""
    return indexed(lambda index: change(index["metadata"]))


_SHORT = named(lambda name: name.replace("model.sparse-0000", "model.sparse-"))
_STOCK = named(lambda name: "model.safetensors" if name == WHOLE else name)


def mask_of_bits(out: Values, a: Values) -> Values:
    """Expand a mask to 255 in place of 1."""
    bits = out["bits"]
    return {"bits": np.where(bits == 1, 255, bits).astype(np.uint8)} if bits.max(initial=0) == 1 else {}


MUTANTS: list[Mutant] = [
    reset("FMT-014", "folder.write", validate, "companions of 50 MiB", MAX_FILE_BYTES=50 * 2**20),
    reset("FMT-014", "folder.write", validate, "companions of fewer than 50 MB", MAX_FILE_BYTES=49_999_999),
    *mutants("folder.write",
        ("FMT-085", sized(lambda n: max(1, n - 1)), ">= for >"),
        ("FMT-085", sized(lambda n: n + 60), "pads not counted"),
        ("FMT-100", sized(lambda n: 10**12), "one part whatever its size"),
        ("FMT-100", _SHORT, "short numbers"),
        ("FMT-100", _STOCK, "a stock name"),
        ("FMT-100", always_an_index, "an index of one part"),
        ("FMT-101", with_index(lambda metadata: metadata.pop("spec")), "an index without a version"),
        ("FMT-101", with_index(lambda metadata: metadata.update(total_size=1)), "an index of stock loaders"),
        ("FMT-101", ends_with_a_line, "a line feed at the end of the index"),
        ("FMT-104", with_index(lambda metadata: metadata["manifests"].reverse()), "roots in another order"),
        ("FMT-094", no_companions, "no companions"),
        unchecked="FMT-013 FMT-014 FMT-084"),
    *mutants("folder.read",
        ("FMT-094", companions_lost, "companions lost"),
        ("FMT-103", every_file, "every file a companion"),
        ("FMT-101", first_part_alone, "the first tensors alone"),
        ("FMT-102", not_counted, "a missing companion is none"),
        unchecked="FMT-094 FMT-101 FMT-102 FMT-103 FMT-104"),
    *mutants("file.name",
        ("FMT-112", names(lambda name: name == "model.safetensors"), "one name alone"),
        ("FMT-112",
         names(lambda n: n.startswith(("model", "adapter_model", "pytorch_model")) and n.endswith(".safetensors")),
         "by how a name begins and ends"),
        unchecked="FMT-112"),
    *mutants("file.expand",
        ("FMT-098", {"limit": lambda a: 2 * (a.get("limit") or 2**35)}, "twice the limit"),
        ("FMT-098", mask_of_bits, "a mask of 255"),
        unchecked="FMT-098"),
]  # fmt: skip
