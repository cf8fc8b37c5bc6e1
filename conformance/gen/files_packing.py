"""Cases of compression: the sections that are compressed, and the content of the file (12.6)."""

from typing import Any

from conformance.gen.files import content, on, raw_array
from conformance.gen.numbers import Area, Numbers
from conformance.oracle import files
from conformance.oracle.files import Tensor


def squeezed(tensors: dict[str, Tensor], encoding: str, packed: list[str], **more: Any) -> tuple[Any, Any]:
    """Return inputs and outputs of `file.compress`; `packed` lists the sections that every compressor makes smaller."""
    chosen = (
        None if encoding == "auto" else {n: encoding if t.support is not None else "dense" for n, t in tensors.items()}
    )
    raw = files.pieces(tensors, chosen, **more).pack()
    return content(tensors, **more) | {"encoding": encoding}, {"raw": {"raw": raw_array(raw), "packed": packed}}


def floats(n: Numbers, count: int) -> bytes:
    """Return F32 values with nearly equal exponents and random low bytes."""
    return b"".join(bytes([*n.integers(2, 0, 255).tolist(), n.integer(0, 127), 0x3F]) for _ in range(count))


def packing() -> Area:
    """Return cases of compression (FMT-140, FMT-141)."""
    area, n = Area("packing", "bytes by chapter 12"), Numbers(46, 1)
    every = list(range(0, 1200, 2))
    noise = bytes(n.integers(600, 0, 255).tolist())
    ones = b"\1" * 2400
    for name, tensors, encoding, packed, purpose in (
        (
            "runs",
            {"w": on("F32", (4, 300), every, ones)},
            "bitmask",
            ["w#values"],
            "a section left as it is",
        ),
        (
            "planes",
            {"w": on("F32", (4, 300), every, floats(n, 600))},
            "csr",
            [],
            "planes left out",
        ),
        ("noise", {"w": on("U8", (4, 300), every, noise)}, "bitmask", [], "a section that compression makes larger"),
        ("small", {"w": on("F16", (2, 3), [0, 2, 4])}, "bitmask", [], "a section of a few bytes"),
        ("dense", {"w": Tensor("I64", (300,), bytes(range(8)) * 300)}, "auto", ["w#values"], "planes of another width"),
        ("extreme", {"w": Tensor("U8", (2**17,), bytes(2**17))}, "auto", [], "more than 1,024 times smaller"),
        ("mask", {"w": on("NONE", (40, 400), list(range(0, 16000, 2)))}, "bitmask", ["w#mask"], "a mask left as it is"),
        (
            "bits",
            {"w": on("F4", (4, 400), list(range(0, 1600, 2)), b"\x12" * 400)},
            "bitmask",
            ["w#values"],
            "values of four bits in planes",
        ),
        ("none", {}, "auto", [], "a feature that nothing uses"),
    ):
        inputs, answer = squeezed(tensors, encoding, packed)
        area.add(name, "file.compress", "FMT-140 FMT-141 FMT-142 FMT-049 FMT-050 FMT-090", purpose, inputs, answer)
    return area


AREAS = (packing,)
