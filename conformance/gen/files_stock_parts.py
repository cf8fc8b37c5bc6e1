"""Parts of the pack of bad files: the two tensors of most files, a frame, and the sentences that rules cite."""

import struct
from dataclasses import dataclass
from typing import Any

A = '"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'
B = '"b":{"dtype":"I32","shape":[1],"data_offsets":[8,12]}'
PLAIN = f"{{{A},{B}}}"
A_BYTES, B_BYTES = struct.pack("<2f", 1.5, -2.0), struct.pack("<i", 7)
DATA = A_BYTES + B_BYTES

COMMIT = "24b0b2857fef49be734b9ab72ce97c09bb25f5b9"
README = f"https://github.com/huggingface/safetensors/blob/{COMMIT}/README.md"
SCHEMA = f"https://github.com/huggingface/safetensors/blob/{COMMIT}/docs/safetensors.schema.json"
RFC = "https://www.rfc-editor.org/rfc/rfc8259"


def _said(text: str, place: str = README) -> tuple[str, str]:
    return text, place


SOURCES = {
    "length": _said("8 bytes: `N`, an unsigned little-endian 64-bit integer, containing the size of the header"),
    "header": _said("N bytes: a JSON UTF-8 string representing the header."),
    "brace": _said("The header data MUST begin with a `{` character (0x7B)."),
    "padding": _said("The header data MAY be trailing padded with whitespace (0x20)."),
    "dict": _said(
        'The header is a dict like `{"TENSOR_NAME": {"dtype": "F16", "shape": [1, 16, 256], '
        '"data_offsets": [BEGIN, END]}, "NEXT_TENSOR_NAME": {...}, ...}`',
    ),
    "offsets": _said(
        "`data_offsets` point to the tensor data relative to the beginning of the byte buffer (i.e. not an absolute "
        "position in the file), with `BEGIN` as the starting offset and `END` as the one-past offset (so total tensor "
        "byte size = `END - BEGIN`).",
    ),
    "metadata": _said(
        "A special key `__metadata__` is allowed to contain free form string-to-string map. Arbitrary JSON is not "
        "allowed, all values must be strings.",
    ),
    "duplicates": _said("Duplicate keys are disallowed. Not all parsers may respect this."),
    "obscure": _said(
        "In general the subset of JSON is implicitly decided by `serde_json` for this library. Anything obscure might "
        "be modified at a later time, that odd ways to represent integer, newlines and escapes in utf-8 strings.",
    ),
    "values": _said(
        "Tensor values are not checked against, in particular NaN and +/-Inf could be in the file",
    ),
    "empty": _said("Empty tensors (tensors with 1 dimension being 0) are allowed."),
    "scalar": _said("0-rank Tensors (tensors with shape `[]`) are allowed, they are merely a scalar."),
    "holes": _said("The byte buffer needs to be entirely indexed, and cannot contain holes."),
    "overlap": _said(
        "there's a guarantee that addresses in the file do not overlap in any way",
    ),
    "small": _said(
        "Some smaller than 1 byte dtypes appeared, which make alignment tricky. Non traditional APIs might be required "
        "for those.",
    ),
    "schema-dtype": _said('"dtype": {"type": "string", "pattern": "([UIF])(8|16|32|64|128|256)"}', SCHEMA),
    "schema-size": _said('"size_t": {"type": "integer", "minimum": 0, "maximum": 281474976710655}', SCHEMA),
    "schema-pair": _said('"data_offsets": {"type": "array", "prefixItems": [(size_t), (size_t)]}', SCHEMA),
    "schema-keys": _said('"additionalProperties": false, "required": ["data_offsets", "dtype", "shape"]', SCHEMA),
    "json": _said("An object is an unordered collection of zero or more name/value pairs", RFC),
    "json-space": _said(
        "Insignificant whitespace is allowed before or after any of the six structural characters.", RFC
    ),
    "json-mark": _said(
        "Implementations MUST NOT add a byte order mark (U+FEFF) to the beginning of a networked-transmitted JSON "
        "text.",
        RFC,
    ),
    "silent": _said("No sentence of the format speaks of it."),
}
"""Key -> a sentence of the format (the schema is shortened to one line) and the address of its text."""


@dataclass(frozen=True)
class File:
    """A file of the pack.

    verdict  accept: the file keeps every rule; refuse: it breaks one; open: the format does not say
    cites    keys of SOURCES
    twin     the name of a file to accept (or the path of an open one) that differs in the rule alone, if there is one
    clause   the clause of SPEC.md under which `formats` refuses the file; None if `formats` reads it
    tensors  index entries of the tensors that an accepting reader returns; None for files to refuse
    """

    name: str
    verdict: str
    rule: str
    cites: tuple[str, ...]
    raw: bytes
    twin: str | None = None
    clause: str | None = None
    tensors: tuple[dict[str, Any], ...] | None = None
    note: str = ""

    @property
    def path(self) -> str:
        """The path of the file in the pack."""
        return f"{self.verdict}/{self.name}.safetensors"


def framed(header: str | bytes, data: bytes = DATA, *, length: int | None = None, fill: bytes = b" ") -> bytes:
    """Return a file: a length, a header filled up to a multiple of 8 bytes, data.

    length  the number to write instead of the header's size
    fill    the byte behind the header; nothing stands there if it is empty
    """
    text = header.encode() if isinstance(header, str) else header
    while fill and len(text) % 8:
        text += fill
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(name: str, dtype: str, shape: list[int], raw: bytes) -> dict[str, Any]:
    """Return the entry of a tensor in the index."""
    return {"name": name, "dtype": dtype, "shape": shape, "bytes": raw.hex()}


TWO = (tensor("a", "F32", [2], A_BYTES), tensor("b", "I32", [1], B_BYTES))
