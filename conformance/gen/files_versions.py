"""Cases of version folders of slime, miles and SGLang, read as changes of a base (FMT-168)."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from conformance.gen.files import on
from conformance.gen.files_convert_adapters import answered, asked
from conformance.gen.numbers import Area, Numbers
from conformance.oracle import files
from conformance.oracle.files import BITS, Tensor
from conformance.oracle.files_convert import INDEX, dense, framed, stock
from conformance.oracle.files_versions import (
    adler32,
    dense_bytes,
    overwrite,
    overwriting,
    raw_frame,
    replaced,
    unsized_frame,
    windowed_frame,
    xor,
)

OP, KIND = "convert.adapter", "weight-sync"
FILE, OTHER = "model-00000-of-00002.safetensors", "model-00001-of-00002.safetensors"
TOLD = {"version": "000007", "base_version": "000006", "delta_encoding": "xor"}
TOLD |= {"compression_format": "zstd", "checksum_format": "adler32"}
SHAPES = {"U8": (13,), "I16": (3, 5), "F16": (3, 7), "BF16": (2, 2, 3), "F32": (5, 3), "I32": (1,), "F64": (2, 3)}
COMPRESSED = bytes.fromhex("28b52ffd20284d000018050c0001001e3004")
"""A frame whose block has a sequence: a zstd library's compression of 05 0c and 38 times 00."""


def vector(frame: bytes) -> Tensor:
    """Return the U8 tensor that stores a frame."""
    return Tensor("U8", (len(frame),), frame)


def version(
    frames: Mapping[str, Mapping[str, bytes]], sums: Mapping[str, str], metadata: Mapping[str, Any] = TOLD
) -> dict[str, bytes]:
    """Return the files of a version folder.

    frames    file -> name -> frame
    sums      name -> checksum
    metadata  metadata of the index
    """
    tree = {
        file: stock({name: vector(frame) for name, frame in own.items()}, {name: sums[name] for name in own})
        for file, own in frames.items()
    }
    weight_map = {name: file for file, own in frames.items() for name in own}
    return tree | {INDEX: json.dumps({"metadata": dict(metadata), "weight_map": weight_map}).encode()}


def drawn(*words: int) -> tuple[dict[str, Tensor], dict[str, bytes]]:
    """Return tensors of several widths, and their bytes one version later: few bytes of each change."""
    n, base, after = Numbers(*words), {}, {}
    for dtype, shape in SHAPES.items():
        width, size = BITS[dtype] // 8, BITS[dtype] // 8
        for length in shape:
            size *= length
        old = bytes(n.integers(size, 0, 255).tolist())
        new = bytearray(old)
        # change the first and the last byte, the last byte of the first value, and a byte in the middle
        for at in {0, size - 1, min(width, size - 1) - 1, size // 2}:
            new[at] ^= n.integer(1, 255)
        base[f"w.{dtype}"], after[f"w.{dtype}"] = Tensor(dtype, shape, old), bytes(new)
    return base, after


class Versions:
    """Collects version folders as cases."""

    def __init__(self) -> None:
        self.area = Area("convert-version", "bytes one by one by 12.11")

    def add(
        self,
        name: str,
        purpose: str,
        base: dict[str, Tensor],
        after: Mapping[str, bytes],
        frames: Mapping[str, Mapping[str, bytes]],
        metadata: Mapping[str, Any] = TOLD,
    ) -> None:
        """Add a folder whose frames turn a base into the bytes `after`."""
        tree = version(frames, {n: adler32(raw) for n, raw in after.items()}, metadata)
        answer = answered("replace", {n: replaced(base[n], raw) for n, raw in after.items()})
        self.area.add(name, OP, "FMT-168", purpose, asked(KIND, tree, base), answer)


def versions() -> Area:
    """Return cases of version folders (FMT-168)."""
    cases = Versions()
    _encodings(cases)
    _frames(cases)
    _bits(cases)
    _refused_index(cases.area)
    _refused_files(cases.area)
    _refused_frames(cases.area)
    return cases.area


def _encodings(cases: Versions) -> None:
    base, after = drawn(168, 1)
    for encoding, payload in (("xor", xor), ("overwrite", overwriting)):
        frames = {n: raw_frame(payload(base[n].bits, raw)) for n, raw in after.items()}
        names = sorted(frames)
        split = {FILE: {n: frames[n] for n in names[::2]}, OTHER: {n: frames[n] for n in names[1::2]}}
        purpose = "one encoding taken for the other, a file that is not read, or bytes of another order"
        metadata = TOLD | {"delta_encoding": encoding}
        cases.add(encoding, purpose, base, after, split, metadata)
        few = {n: frames[n] for n in names[:2]}
        purpose = "tensors that the folder does not name changed or answered"
        cases.add(f"{encoding}-some", purpose, base, {n: after[n] for n in few}, {FILE: few}, metadata)


def _frames(cases: Versions) -> None:
    """Add forms of a frame: raw blocks, a run, a window, a size of one byte, and a compressed block."""
    base = {n: on("F32", (2, 5), [0, 3, 9]) for n in ("blocks", "compressed", "empty", "run", "window")}
    base["empty"] = Tensor("F16", (0, 4), b"")
    old = dense_bytes(base["blocks"])
    twelve = xor(old, bytes(40))
    compressed = xor(old, bytes([5, 12]) + bytes(38))
    frames = {
        "blocks": raw_frame(twelve, blocks=3),
        "compressed": COMPRESSED,
        "empty": raw_frame(b""),
        "run": files.rle_frame(40, 0x81),
        "window": windowed_frame(twelve),
    }
    after = {"blocks": bytes(40), "compressed": compressed, "empty": b"", "window": bytes(40)}
    after["run"] = xor(old, b"\x81" * 40)
    cases.add("frames", "a legal form of a zstd frame that is not read", base, after, {FILE: frames})


def _bits(cases: Versions) -> None:
    """Add values that compare equal but differ in bits, frames that change nothing, and a base with a support."""
    zeros = dense("F32", (2, 2), [0, 1 << 31, 0x7FC0_0000, 0x3F80_0000])
    new = dense("F32", (2, 2), [1 << 31, 0, 0x7FC0_0001, 0x3F80_0000]).bits
    still = dense("F16", (1, 3), [1, 2, 3])
    base, after = {"w": zeros, "still": still}, {"w": new, "still": still.bits}
    for encoding, frames in (
        ("xor", {"w": xor(zeros.bits, new), "still": bytes(6)}),
        ("overwrite", {"w": overwriting(zeros.bits, new), "still": overwrite([0, 5], b"\1\0")}),
    ):
        purpose = "values compared as numbers, or bytes that stay taken for a change"
        own = {FILE: {n: raw_frame(raw) for n, raw in frames.items()}}
        cases.add(f"bits-{encoding}", purpose, base, after, own, TOLD | {"delta_encoding": encoding})
    none = raw_frame(overwrite([], b""))
    metadata = TOLD | {"delta_encoding": "overwrite", "version": "1000000", "base_version": "999999"}
    purpose = "a number of 0 refused, or a version of seven digits"
    cases.add("nothing-changes", purpose, {"still": still}, {"still": still.bits}, {FILE: {"still": none}}, metadata)
    sparse = on("F16", (3, 4), [0, 2, 11])
    old = dense_bytes(sparse)
    # one change is on the support, one off it, and one makes a stored value +0.0
    new = old[:2] + b"\7\0" + b"\0\0" + old[6:22] + b"\x88" + old[23:]
    purpose = "offsets that count stored values only, or a support that is taken for all positions"
    for encoding, payload in (("xor", xor), ("overwrite", overwriting)):
        frames = {"w": raw_frame(payload(old, new))}
        metadata = TOLD | {"delta_encoding": encoding}
        cases.add(f"sparse-base-{encoding}", purpose, {"w": sparse}, {"w": new}, {FILE: frames}, metadata)
    _far(cases)


def _far(cases: Versions) -> None:
    """Add offsets of more than two bytes, and more changes than one byte can count."""
    wide = on("F32", (2, 17_000), [5])
    old = dense_bytes(wide)
    offsets = [*range(3, 1203, 4), 65_535, 65_536, 135_999]
    new = bytearray(old)
    for at in offsets:
        new[at] = 0x40 + at % 7
    frames = {"w": raw_frame(overwrite(offsets, bytes(new[at] for at in offsets)))}
    metadata = TOLD | {"delta_encoding": "overwrite"}
    purpose = "numbers or offsets of two bytes"
    cases.add("far", purpose, {"w": wide}, {"w": bytes(new)}, {FILE: frames}, metadata)


# refusals ----------------------------------------------------------------------------------------

W = dense("F16", (2, 3), [1, 2, 3, 4, 5, 6])
NEW = dense("F16", (2, 3), [1, 9, 3, 4, 5, 7]).bits
GOOD = raw_frame(xor(W.bits, NEW))


def _refuse(area: Area, name: str, tree: dict[str, bytes], base: dict[str, Tensor] | None = None) -> None:
    inputs = asked(KIND, tree, {"w": W} if base is None else base)
    area.add(f"refuse-{name}", OP, "FMT-168", "a step that is taken as it is", inputs, refused="FMT-168")


def _refused_index(area: Area) -> None:
    sums = {"w": adler32(NEW)}
    good = version({FILE: {"w": GOOD}}, sums)

    def of(value: Any) -> dict[str, bytes]:
        return good | {INDEX: json.dumps(value).encode()}

    index = json.loads(good[INDEX])
    _refuse(area, "no-index", {FILE: good[FILE]})
    _refuse(area, "index-no-json", good | {INDEX: b"{"})
    _refuse(area, "index-list", of([index]))
    _refuse(area, "no-metadata", of({"weight_map": index["weight_map"]}))
    _refuse(area, "no-weight-map", of({"metadata": TOLD}))
    for name, changes in _wrong_metadata():
        _refuse(area, name, of(index | {"metadata": {k: v for k, v in (TOLD | changes).items() if v is not None}}))
    _refuse(area, "map-other-file", of(index | {"weight_map": {"w": OTHER}}))
    _refuse(area, "map-outside", of(index | {"weight_map": {"w": f"../{FILE}"}}))
    _refuse(area, "map-more", of(index | {"weight_map": {"w": FILE, "x": FILE}}))
    _refuse(area, "map-less", of(index | {"weight_map": {"x": FILE}}))
    _refuse(area, "map-number", of(index | {"weight_map": {"w": 1}}))


def _wrong_metadata() -> Iterable[tuple[str, dict[str, Any]]]:
    yield "version-short", {"version": "00007"}
    yield "version-number", {"version": 7}
    yield "version-word", {"version": "latest"}
    yield "no-version", {"version": None}
    yield "base-version-short", {"base_version": "6"}
    yield "no-base-version", {"base_version": None}
    yield "encoding", {"delta_encoding": "add"}
    yield "no-encoding", {"delta_encoding": None}
    yield "compression", {"compression_format": "lz4"}
    yield "no-compression", {"compression_format": None}
    yield "checksum-format", {"checksum_format": "crc32"}
    yield "no-checksum-format", {"checksum_format": None}


def _refused_files(area: Area) -> None:
    sums = {"w": adler32(NEW)}
    good = version({FILE: {"w": GOOD}}, sums)

    def holding(tensor: Tensor, metadata: Mapping[str, str] | None) -> dict[str, bytes]:
        return good | {FILE: stock({"w": tensor}, metadata)}

    _refuse(area, "two-dimensions", holding(Tensor("U8", (1, len(GOOD)), GOOD), sums))
    _refuse(area, "signed-bytes", holding(Tensor("I8", (len(GOOD),), GOOD), sums))
    _refuse(area, "no-checksums", holding(vector(GOOD), None))
    _refuse(area, "no-checksum", holding(vector(GOOD), {"x": sums["w"]}))
    _refuse(area, "checksum-differs", version({FILE: {"w": GOOD}}, {"w": adler32(NEW[:-1])}))
    _refuse(area, "checksum-of-difference", version({FILE: {"w": GOOD}}, {"w": adler32(xor(W.bits, NEW))}))
    _refuse(area, "checksum-capitals", version({FILE: {"w": GOOD}}, {"w": sums["w"].upper()}))
    _refuse(area, "checksum-short", version({FILE: {"w": GOOD}}, {"w": sums["w"].lstrip("0")}))
    _refuse(
        area,
        "file-more",
        good | {FILE: stock({"w": vector(GOOD), "x": vector(GOOD)}, sums | {"x": sums["w"]})},
        {"w": W, "x": W},
    )
    _refuse(area, "other-base", good, {"w": dense("F16", (2, 3), [1, 2, 3, 4, 5, 7])})
    _refuse(area, "no-base", good, {"v": W})
    _refuse(area, "mask", good, {"w": on("NONE", (2, 3), [1])})
    _refuse(area, "longer-base", good, {"w": dense("F16", (2, 4), [1, 2, 3, 4, 5, 6, 0, 0])})
    inputs = {"files": asked(KIND, good, {})["files"], "encoding": "auto", "zeros": "any"}
    purpose = "differences that become a model"
    area.add("refuse-as-model", "convert.from_hf", "FMT-168", purpose, inputs, refused="FMT-168")
    flag, other = Tensor("BOOL", (2,), b"\0\1"), b"\2\1"
    tree = version({FILE: {"w": raw_frame(xor(flag.bits, other))}}, {"w": adler32(other)})
    inputs = asked(KIND, tree, {"w": flag})
    area.add("refuse-bool", OP, "FMT-070 FMT-168", "a BOOL that is neither", inputs, refused="FMT-070")
    header = json.dumps({"__metadata__": sums, "w": {"dtype": "U8", "shape": [9], "data_offsets": [0, 9]}}).encode()
    tree = good | {FILE: framed(header, GOOD[:8])}
    area.add("refuse-file-cut", OP, "FMT-121", "a file that is read", asked(KIND, tree, {"w": W}), refused="FMT-121")


def _refused_frames(area: Area) -> None:
    sums = {"w": adler32(NEW)}
    difference = xor(W.bits, NEW)
    for name, frame in (
        ("no-frame", difference),
        ("no-bytes", b""),
        ("frame-unsized", unsized_frame(difference)),
        ("frame-cut", GOOD[:-1]),
        ("frame-cut-header", GOOD[:7]),
        ("frame-follows", GOOD + b"\0"),
        ("frame-twice", GOOD + GOOD),
        ("frame-states-less", raw_frame(difference, stated=11)),
        ("frame-states-more", raw_frame(difference, stated=13)),
        ("frame-of-less", raw_frame(difference[:-1])),
        ("frame-of-more", raw_frame(difference + b"\0")),
    ):
        _refuse(area, name, version({FILE: {"w": frame}}, sums))
    metadata = TOLD | {"delta_encoding": "overwrite"}
    offsets = [at for at in range(12) if W.bits[at] != NEW[at]]
    assert offsets == [2, 10]
    bits = bytes(NEW[at] for at in offsets)
    for name, payload in (
        ("number-larger", overwrite(offsets, bits, count=3)),
        ("number-smaller", overwrite(offsets, bits, count=1)),
        ("number-huge", overwrite(offsets, bits, count=0xFFFF_FFFF)),
        ("number-missing", b"\0\0\0"),
        ("nothing", b""),
        ("offset-outside", overwrite([2, 10, 12], bits + b"\0")),
        ("offset-below", overwrite([0xFFFF_FFF6, 10], bits)),
        ("offset-far", overwrite([2, 10, 0x8000_0000], bits + b"\0")),
        ("offsets-fall", overwrite([10, 2], bits[::-1])),
        ("offset-twice", overwrite([2, 2, 10], bits[:1] + bits)),
        ("overwrite-of-less", overwrite(offsets, bits[:-1])),
        ("overwrite-of-more", overwrite(offsets, bits + b"\0")),
    ):
        _refuse(area, name, version({FILE: {"w": raw_frame(payload)}}, sums, metadata))
    swapped = version({FILE: {"w": raw_frame(overwriting(W.bits, NEW))}}, sums)
    _refuse(area, "encoding-swapped", swapped)
    metadata = TOLD | {"delta_encoding": "bytes"}
    _refuse(area, "encoding-of-bytes", version({FILE: {"w": raw_frame(overwriting(W.bits, NEW))}}, sums, metadata))


AREAS = (versions,)
