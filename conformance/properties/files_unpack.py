"""Properties of packed files (FMT-177)."""

from conformance.answers.files_content import raw_array
from conformance.oracle import files
from conformance.oracle.files import Tensor
from conformance.oracle.files_versions import MAGIC
from conformance.properties.draws import Draw
from conformance.properties.trial import Trial, property_of

__all__ = ["frame"]

_FAULTS = ("a byte behind", "a frame behind", "no size", "a dictionary", "packed twice", "a cut frame", "another size")


def frame(
    content: bytes, *, cut: int = 0, single: bool = True, dictionary: int = 0, stated: int | None = None
) -> bytes:
    """Return a zstd frame of raw blocks (RFC 8878, 3.1.1), which states a size of 8 bytes.

    Args:
        content: the bytes that it holds.
        cut: where the first block ends; 0 for one block, if it is no longer than a block may be.
        single: it is a single segment; otherwise it states a window of 1 MiB.
        dictionary: its id, stated if it is not 0.
        stated: the stated size, −1 for none; None for that of the content.
    """
    size = len(content) if stated is None else stated
    descriptor = (0xC0 if size >= 0 else 0) | 0x20 * single | (1 if dictionary else 0)
    head = bytes([descriptor]) + (b"" if single else b"\x50") + (bytes([dictionary]) if dictionary else b"")
    cuts = [*range(cut or 2**17, len(content), 2**17), len(content)]
    blocks = [content[a:b] for a, b in zip([0, *cuts], cuts, strict=False)]
    body = b"".join(
        ((i == len(blocks) - 1) | len(one) << 3).to_bytes(3, "little") + one for i, one in enumerate(blocks)
    )
    return MAGIC + head + (size.to_bytes(8, "little") if size >= 0 else b"") + body


@property_of("file.unpack", "FMT-177", "compression", "file.unpack", sees=("a plain file", "several blocks", "a fault"))
def _unpack(d: Draw, t: Trial) -> None:
    """A packed file has the bytes that its frame holds, or is refused."""
    shape = (d.integer(1, 9), d.integer(1, 9))
    at = d.subset(shape[0] * shape[1])
    values = bytes(d.integers(len(at), 0, 255))
    tensor = Tensor("U8", shape, values, tuple(divmod(i, shape[1]) for i in at))
    raw = files.pieces({"w": tensor, "é": Tensor("F32", (2,), bytes(8))}, attributes={"a": d.integer(0, 9)}).pack()
    if d.flag(5):
        t.saw("a plain file")
        t.case("file.unpack", {"raw": raw_array(raw)})
        return
    cut, single = d.integer(0, len(raw) - 1), d.flag()
    t.saw("several blocks", cut)
    packed = frame(raw, cut=cut, single=single)
    if d.flag(3):
        packed = _spoilt(d.choice(_FAULTS), raw, packed, d)
        t.saw("a fault")
    t.case("file.unpack", {"raw": raw_array(packed)})


def _spoilt(fault: str, raw: bytes, packed: bytes, d: Draw) -> bytes:
    """Return a packed file with a fault."""
    return {
        "a byte behind": packed + bytes([d.integer(0, 255)]),
        "a frame behind": packed + frame(raw[: d.integer(0, 9)]),
        "no size": frame(raw, single=False, stated=-1),
        "a dictionary": frame(raw, dictionary=d.integer(1, 255)),
        "packed twice": frame(packed),
        "a cut frame": packed[: d.integer(20, len(packed) - 1)],
        "another size": frame(raw, stated=len(raw) + d.integer(1, 9)),
    }[fault]
