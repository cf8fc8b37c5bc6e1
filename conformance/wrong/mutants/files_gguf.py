"""Mutants of the reader of GGUF files (FMT-155)."""

from conformance.engine.extras import gguf_file
from conformance.wrong.mutants.base import Mutant, Rows, changed, edited, mutant, mutants

OP = "convert.gguf"
_INFO, _PAIRS, _PLACES, _OPEN = gguf_file._info, gguf_file._alignment, gguf_file._check_places, gguf_file.open_gguf
_PARSE, _VALUES = gguf_file._parse, gguf_file.Tensors.__getitem__

_ROWS: Rows = tuple(
    (OP, "FMT-155", function, old, new, flaw)
    for function, old, new, flaw in (
        (_PARSE, "if version not in (2, 3):", "if version < 2:", "versions of any later number"),
        (_PARSE, "if version not in (2, 3):", "if version != 3:", "version 2 refused"),
        (_PARSE, 'b"GGUF"', "magic", "any first four bytes"),
        (_PARSE, "cursor.skip(pad if n_tensors else min(pad, cursor.left)", "cursor.skip(min(pad, 0)",
         "data without the pad before them"),
        (_PAIRS, "if key in keys:", "if False:", "a key that stands twice"),
        (_PAIRS, 'if key == "split.count" and value not in (0, 1):', "if False:", "one of several parts"),
        (_PAIRS, "alignment & (alignment - 1)", "alignment % 8", "an alignment that is no power of two"),
        (_PAIRS, "value if kind == _U32 else None", "value or 32", "an alignment in another dtype"),
        (_PAIRS, 'if key == "general.alignment":', "if False:", "an alignment of 32 whatever is stated"),
        (_INFO, "tuple(reversed([", "tuple(([", "dimensions in the order of the file"),
        (_INFO, "validate.check_name(name)", "pass", "a name that no checkpoint may have"),
        (_PLACES, "if info.begin != at:", "if False:", "tensors at any place"),
        (_PLACES, "if at != size:", "if at > size:", "bytes behind the last tensor"),
        (_PLACES, "at += min(-at % alignment, size - at)", "at += -at % alignment", "a last pad that is asked for"),
        (_OPEN, "if quantised and not expand_quantised:", "if False:", "codes expanded though nobody asked"),
        (_OPEN, 'if names else {}', 'if expand_quantised else {}', "an expansion recorded that was none"),
        (_OPEN, 'if names else {}', 'if False else {}', "an expansion that is not recorded"),
        (_VALUES, "quants.dequantize(raw.reshape(rows), info.type)",
         "quants.dequantize(raw.reshape(rows)[..., ::1], info.type)[..., ::-1]", "codes from the last column"),
    )
)  # fmt: skip

MUTANTS: list[Mutant] = [
    *(edited(clauses, op, function, old, new, flaw) for op, clauses, function, old, new, flaw in _ROWS),
    mutant("FMT-155", OP, changed(OP, expand_quantised=lambda _: 1), "codes always expanded"),
    *mutants(OP, unchecked="FMT-155"),
]
