"""Properties of tensors that are made dense (FMT-098)."""

from conformance.answers.files_content import raw_array
from conformance.oracle import files
from conformance.oracle.files import BITS, on
from conformance.properties.draws import Draw
from conformance.properties.trial import Trial, property_of


@property_of(
    "checkpoint.expanded",
    "FMT-098 FMT-002",
    "checkpoints",
    "file.expand",
    sees=("a limit that is met", "beyond the limit", "a mask"),
)
def _expanded(d: Draw, t: Trial) -> None:
    """A tensor becomes an array with zeros at absent positions, unless the array exceeds a limit in bytes."""
    dtype, (rows, columns) = d.choice(("F16", "F32", "U8", "NONE", "F4", "F6_E3M2", "I64")), d.shape(9)
    at = d.subset(rows * columns)
    width = BITS[dtype]
    bits = bytearray(d.integers((len(at) * width + 7) // 8, 0, 255))
    if bits and len(at) * width % 8:
        bits[-1] &= (1 << len(at) * width % 8) - 1
    tensor = on(dtype, (rows, columns), at, bytes(bits))
    if len(at) == rows * columns and dtype != "NONE":
        return
    raw = files.pieces({"w": tensor}).pack()
    size = rows * columns * max(1, width // 8)
    limit = d.choice((size, None, size + 5, size - 1))
    t.saw("a mask", dtype == "NONE")
    t.saw("a limit that is met", limit == size)
    t.saw("beyond the limit", limit == size - 1)
    inputs = {"raw": raw_array(raw), "name": "w"} | ({} if limit is None else {"limit": limit})
    t.case("file.expand", inputs)
