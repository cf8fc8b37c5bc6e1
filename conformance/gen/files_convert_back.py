"""Cases of conversion: checkpoints that become Hugging Face folders (FMT-124 to FMT-126)."""

from collections.abc import Mapping
from typing import Any

from conformance.gen.files import WIDE, content, on, raw_array
from conformance.gen.numbers import Area
from conformance.oracle import files_convert, files_folders
from conformance.oracle.files import Tensor
from conformance.oracle.files_convert import dense
from conformance.oracle.train_around import rounded_bits

COMPANIONS = {"config.json": b'{"a": 1}\n', "empty": b""}


def folder_of(
    tensors: dict[str, Tensor],
    part_bytes: int = 10**9,
    cast: str | None = None,
    *,
    companions: Mapping[str, bytes] | None = None,
    cut: int = 10**9,
    **more: Any,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return inputs and outputs of `convert.to_hf`.

    part_bytes  the part size of the folder that is written
    cut         the part size of the checkpoint that is read

    Raises:
        RefusedError: a value does not fit the dtype of the cast.
    """
    beside = dict(companions or {})
    tree = files_folders.folder(tensors, part_bytes=cut, companions=beside, **more).pack()
    inputs: dict[str, Any] = {"files": {name: raw_array(raw) for name, raw in tree.items()}, "part_bytes": part_bytes}
    dense = {name: files_convert.expanded(t, cast) for name, t in tensors.items()}
    answer = {"tensors": content(dense)["tensors"], "files": {name: raw_array(raw) for name, raw in beside.items()}}
    inputs |= {} if cast is None else {"cast": cast}
    return inputs, {"files": answer | {"part_bytes": part_bytes}}


def _tensors() -> dict[str, Tensor]:
    """Return tensors of every kind that a Hugging Face folder can hold."""
    zeros = [1 << 15, 0, 0x7E01]
    return {
        "b": on("F16", (2, 3), [0, 3, 5], files_convert.packed("F16", zeros)),
        "wide": WIDE,
        "a": dense("I64", (2, 2), [1, 0, 2**63, 4]),
        "scalar": dense("F64", (), [5]),
        "flags": on("BOOL", (1, 9), [1, 7], b"\1\0"),
        "F4": on("F4", (3, 4), [0, 5, 6], files_convert.packed("F4", [8, 3, 15])),
        "F6": on("F6_E2M3", (2, 2, 2), [1, 7], files_convert.packed("F6_E2M3", [32, 63])),
        "F8": on("F8_E4M3FNUZ", (2, 5), [2, 9], b"\x80\x01"),
        "full": on("F32", (1, 2), [0, 1]),
        "nothing": on("BF16", (3, 3), []),
        "no-rows": dense("F32", (0, 3), []),
    }


def back() -> Area:
    """Return cases of checkpoints that become folders (FMT-124 to FMT-126)."""
    area = Area("convert-back", "values one by one by 12.11")

    def add(name: str, clauses: str, purpose: str, tensors: dict[str, Tensor], *arguments: Any, **more: Any) -> None:
        inputs, answer = folder_of(tensors, *arguments, **more)
        area.add(f"to-{name}", "convert.to_hf", clauses, purpose, inputs, answer)

    every = _tensors()
    more: dict[str, Any] = {"attributes": {"step": 7}, "tied": {"t": "b"}, "scales": {"a": {"scale": "scalar"}}}
    purpose = "tensors that are lost, doubled or changed on the way"
    add("one", "FMT-124 FMT-125", purpose, every, companions=COMPANIONS, **more)
    purpose = "shards that hold too much or nothing, or an index that says something else"
    few = {name: every[name] for name in ("b", "a", "scalar")}
    total = sum(len(files_convert.expanded(t, None).bits) for t in few.values())
    for name, part_bytes in (("all", total), ("two", total - 1), ("each", 1)):
        add(name, "FMT-124", purpose, few, part_bytes, companions=COMPANIONS, **more)
    add("alone", "FMT-124", "an index for one tensor", {"b": every["b"]}, 1)
    add("from-parts", "FMT-124 FMT-104", "a part that is not read", few, cut=64)
    add("no-tensors", "FMT-124", "an index of nothing", {}, companions=COMPANIONS)
    values = [65504.0, 1 + 2.0**-11, 1 + 3 * 2.0**-8 - 2.0**-40, 1e-30, -1e-30]
    wide = {}
    for dtype in ("F32", "F64"):
        patterns = [rounded_bits(x, dtype) for x in values]
        wide[dtype] = on(dtype, (2, 5), list(range(0, 10, 2)), files_convert.packed(dtype, patterns))
    for new in ("F16", "BF16"):
        purpose = "values rounded twice or cut, and dtypes that no cast is for"
        add(f"cast-{new}", "FMT-126 FMT-129", purpose, wide | {"F8": every["F8"]}, 10**9, new)
    _refused(area)
    return area


def _refused(area: Area) -> None:
    """Add checkpoints that a Hugging Face folder cannot hold, and folders that are no checkpoints."""
    good = {"w": on("F32", (2, 40), [3, 70])}

    def refuse(name: str, clauses: str, inputs: dict[str, Any]) -> None:
        purpose = "a checkpoint that is taken as it is"
        area.add(f"refuse-to-{name}", "convert.to_hf", clauses, purpose, inputs, refused=clauses)

    def read(tensors: dict[str, Tensor], **more: Any) -> dict[str, Any]:
        tree = files_folders.folder(tensors, **more).pack()
        return {"files": {name: raw_array(raw) for name, raw in tree.items()}, "part_bytes": 100}

    refuse("mask", "FMT-154", read(good | {"m": on("NONE", (2, 3), [1])}))
    refuse("kind", "FMT-154", read(good, kind="training-state"))
    refuse("odd-halves", "FMT-154", read({"w": on("F4", (1, 3), [1])}))
    refuse("no-bytes", "FMT-084", read(good) | {"part_bytes": 0})
    refuse("cast-name", "FMT-126 FMT-084", read(good) | {"cast": "F8_E5M2"})
    large = {"w": on("F32", (1, 9), [3], files_convert.packed("F32", [rounded_bits(65520.0, "F32")]))}
    refuse("overflow", "FMT-126", read(large) | {"cast": "F16"})
    damaged = read(good)
    damaged["files"][files_folders.WHOLE][-64] ^= 1
    refuse("damaged", "FMT-124 FMT-090 FMT-062 FMT-036 FMT-091 FMT-067", damaged)
    companion = read(good, companions=COMPANIONS)
    companion["files"]["config.json"][1] ^= 1
    refuse("companion", "FMT-094", companion)
    refuse("nothing", "FMT-102", {"files": {}, "part_bytes": 100})
