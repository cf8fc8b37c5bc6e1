"""Files as the second reader reads them, compressed ones too, and every clause by which one may be refused."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from conformance.answers import files_packed
from conformance.answers.answer import ids
from conformance.answers.files_content import raw_array
from conformance.cases.profiles import requires_zstd
from conformance.oracle import second_folder, second_reader
from conformance.oracle.files import BITS
from conformance.oracle.second_reader import Content, Refused, spell

__all__ = ["read", "read_folder", "wire"]

ALSO = (
    ("FMT-009 the manifest delta (scales|tied) .*|FMT-016 the manifest delta scales .*", b"", "FMT-131"),
    ("FMT-009 the manifest delta tensors ", b"", "FMT-132"),
    ("FMT-01[06] .*", b"base_sha256", "FMT-131"),
    # one who has the bytes of a file alone finds no companion of those that it names
    ("FMT-01[34] .*|FMT-04[07] the manifest files .*", rb'files\\":\{\\"', "FMT-102"),
    ("FMT-017 .*", b"#values", "FMT-031"),
    ("FMT-022 .*", rb"\A\0{8}", "FMT-023"),
    ("FMT-024 the header", rb"}\0+", "FMT-023 FMT-028"),
    ("FMT-028 the header", rb"}\t", "FMT-023 FMT-024"),
    ("FMT-024 the manifest", rb":NaN", "FMT-026"),
    ("FMT-030 .* dtype", b"", "FMT-006"),
    ("FMT-034 .*", rb'"data_offsets":\[\d+,\d+,', "FMT-030"),
    ("FMT-040 the manifest", rb"delta", "FMT-130"),
    ("FMT-040 the manifest delta", b"", "FMT-131"),
    (r"FMT-040 .*#\w+", b"", "FMT-049"),
    ("FMT-040 (metadata of )?the index|FMT-028 the index", b"", "FMT-101"),
    ("FMT-04[01] .* pattern.*", b"", "FMT-051"),
    ("FMT-041 the manifest", b"", "FMT-040 FMT-024"),
    ("FMT-041 the manifest optional", b"", "FMT-044"),
    ("FMT-041 .* nnz", rb'nnz\\":-', "FMT-046"),
    ("FMT-043 .* codec", b"", "FMT-140"),
    ("FMT-049 .*#values", rb"\A(?!.*raw_bytes)", "FMT-033 FMT-063"),
    ("FMT-067 .*", b"", "FMT-069"),
    ("FMT-093 .*", rb'sha256":"[^"]*[A-F]', "FMT-047"),
)
"""Clause and place of a refusal, a pattern of the bytes of such a file, and the clauses that say the same of it.

A pattern that a sound part of the file has as well only lets a reader name one clause more.
"""


def read(raw: bytes) -> Content:
    """Return the content of a file, which may be compressed; `Refused` names every clause by which it is refused."""
    with _in_full(raw):
        return second_reader.read(files_packed.plain(raw)[0] if requires_zstd(raw) else raw)


def read_folder(tree: dict[str, bytes]) -> Content:
    """Return the content of a folder of files; see `read`."""
    with TemporaryDirectory() as folder, _in_full():
        for name, raw in tree.items():
            (Path(folder) / name).write_bytes(raw)
        return second_folder.read_folder(Path(folder))


@contextmanager
def _in_full(raw: bytes = b"") -> Iterator[None]:
    """Add to a refusal of the second reader the other clauses by which a file may be refused."""
    try:
        yield
    except Refused as refused:
        rule, names = f"{refused.clause} {refused.place}", [refused.clauses]
        names += [more for a, part, more in ALSO if re.fullmatch(a, rule, re.S) and re.search(part, raw, re.S)]
        if refused.clause in ("FMT-046", "FMT-057") and _miscounted(raw):
            names.append("FMT-049 FMT-033")
        raise Refused(" ".join(names), refused.place) from None


def _miscounted(raw: bytes) -> bool:
    """Return whether a file states a number of values that does not fit the size of the values."""
    entries = json.loads(second_reader.read_header(raw)[1])["tensors"].values()
    sparse = [e for e in entries if e["encoding"] != "dense" and e["dtype"] != "NONE"]
    return any(e["sections"]["values"]["bytes"] != -(-e["nnz"] * BITS[e["dtype"]] // 8) for e in sparse)


def wire(content: Content) -> dict[str, Any]:
    """Return what was read in the form of outputs of operations."""
    tensors = {
        name: {
            "dtype": t.dtype,
            "shape": ids(t.shape),
            "row_pointers": t.row_pointers,
            "columns": t.columns,
            "bits": raw_array(t.bits),
        }
        for name, t in content.tensors.items()
    }
    texts = {key: spell(getattr(content, key)) for key in ("attributes", "scales", "delta")}
    return {"kind": content.kind, "tensors": tensors, "tied": content.tied, "state": content.state_sha256} | texts
