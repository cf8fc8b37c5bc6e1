"""Mutants of readers and writers of files with one condition of a rule forgotten, or a limit off by one (FMT)."""

from typing import Any

from conformance.engine.parts import (
    change,
    compress,
    container,
    csr,
    delta,
    delta_rules,
    digest,
    encoding,
    gaps,
    header,
    layout,
    nm,
    validate,
)
from conformance.wrong.mutants.base import Mutant, edited, reset

_BAD_CHARACTERS = 'any(c < " " or c in "#\\x7f" for c in name)'
_PATTERN = "2 <= m <= MAX_M and 1 <= n < m and all(shape)"

_READ: tuple[tuple[str, Any, str, str, str], ...] = (
    ("FMT-009", validate.check_name, _BAD_CHARACTERS, 'any(c < " " or c == "#" for c in name)', "U+007F in a name"),
    ("FMT-009", validate.check_name, _BAD_CHARACTERS, 'any(c < " " or c == "\\x7f" for c in name)', "# in a tied name"),
    ("FMT-009", validate.check_name, _BAD_CHARACTERS, 'any(c in "#\\n\\t\\x7f" for c in name)', "U+001F in a name"),
    ("FMT-009", validate.check_name, _BAD_CHARACTERS, 'any(c <= " " or c in "#\\x7f" for c in name)', "no space"),
    ("FMT-009", validate.check_name, _BAD_CHARACTERS, "not name.replace('#', ' ').isprintable()", "no U+0080"),
    ("FMT-009", validate.check_name, "len(name.encode())", "len(name)", "names measured in characters"),
    ("FMT-009", validate.check_name, "1 <= size <=", "1 <= size <", "a name of 512 bytes refused"),
    ("FMT-009", validate.check_name, "1 <= size <=", "size <=", "an empty name"),
    ("FMT-009", validate.check_tied, "        check_name(alias)\n", "", "tied names of any form"),
    ("FMT-010", validate.check_tied, "target not in stored", "target not in {*stored, *tied}", "a chain of ties"),
    ("FMT-010", validate.check_tied, "alias in stored", "alias == target", "a tied name that is stored too"),
    (
        "FMT-016",
        validate.check_scales,
        "target not in stored or target == name",
        "target not in stored",
        "its own scale",
    ),
    ("FMT-016", validate.check_scales, "if not roles", "if False", "no role"),
    ("FMT-062", validate.check_mask, "mask[:, -1] >> tail", "mask[-1:, -1] >> tail", "bits of the last row alone"),
    ("FMT-063", validate.check_mask, "n_set != nnz", "n_set < nnz", "more bits than the manifest says"),
    ("FMT-063", validate.check_mask, "n_set != nnz", "n_set > nnz", "fewer bits than the manifest says"),
    ("FMT-036", validate.check_pad, "pad.any()", "pad[:1].any()", "the first byte of a pad alone"),
    ("FMT-036", validate.check_pad, "pad.any()", "pad[-1:].any()", "the last byte of a pad alone"),
    (
        "FMT-070",
        validate.check_bool,
        "np.max(values.view(np.uint8))) > 1:",
        "np.max(values.view(np.int8))) > 1:",
        "signed",
    ),
    ("FMT-072", nm._check_spare, "packed[:, -1] >> used", "packed[-1:, -1] >> used", "ranks of the last row alone"),
    ("FMT-051", validate.check_pattern, _PATTERN, "2 <= m <= MAX_M and 1 <= n < m", "a pattern without rows"),
    ("FMT-051", validate.check_pattern, _PATTERN, "2 <= m and 1 <= n < m and all(shape)", "m of 65"),
    ("FMT-051", validate.check_pattern, _PATTERN, "2 <= m <= MAX_M and 1 <= n <= m and all(shape)", "n of m"),
    ("FMT-051", validate.check_pattern, "shape[axis] % m or nnz", "nnz", "a rest behind the last group"),
    ("FMT-051", validate.check_pattern, "m <= MAX_M", "m < MAX_M", "m of 64 refused"),
    (
        "FMT-056",
        validate.most_gap_rows,
        "min(MAX_GAP_ROWS, GAP_ROWS_A_BYTE * (nbytes + 1))",
        "MAX_GAP_ROWS",
        "any rows",
    ),
    ("FMT-056", validate.most_gap_rows, "min(MAX_GAP_ROWS, ", "max(0, ", "no limit of 2^20 rows"),
    ("FMT-056", validate.most_gap_rows, "(nbytes + 1)", "nbytes", "no row without a byte"),
    ("FMT-056", validate.check_gap_rows, "rows > most", "rows >= most", "rows at the limit refused"),
    ("FMT-057", gaps.plan_gap8, "entry.nnz + prod(entry.shape) // SKIP", "2 * entry.nnz", "as many skips as slots"),
    ("FMT-057", gaps.plan_varint, "entry.nnz * LONGEST", "entry.nnz * 9", "nine bytes a gap"),
    ("FMT-057", gaps.plan_varint, "entry.nnz * LONGEST", "entry.nnz * 7", "seven bytes a gap"),
    (
        "FMT-059",
        gaps.positions_of,
        "numel if wraps else int(positions[-1])",
        "int(positions[-1])",
        "sums that come back",
    ),
    ("FMT-059", validate.check_last_position, "last >= numel", "last > numel", "a position behind the last"),
    ("FMT-055", gaps.decode_varint, "astype(np.int64) << (7 * k)", "astype(np.int32) << (7 * k)", "gaps of 32 bits"),
    ("FMT-054", gaps.decode_gap8, "skips * SKIP", "skips * 256", "256 positions a skip"),
    ("FMT-141", compress.check_size, "nbytes < raw_bytes", "nbytes <= raw_bytes", "a frame as large as its content"),
    (
        "FMT-141",
        compress.check_size,
        "not nbytes < raw_bytes <= RATIO * nbytes",
        "raw_bytes > RATIO * nbytes",
        "longer",
    ),
    ("FMT-141", compress.check_size, "<= RATIO * nbytes", "< 2 ** 63", "any ratio"),
    ("FMT-141", compress.check_size, "<= RATIO * nbytes", "< RATIO * nbytes", "1,024 times refused"),
    ("FMT-142", compress.unpack, " or head.has_checksum", "", "a checksum"),
    (
        "FMT-142",
        compress.unpack,
        "head.content_size != raw_bytes or",
        "head.content_size not in (raw_bytes, 2**64 - 1) or",
        "a frame that does not tell its size",
    ),
    ("FMT-140", compress.unpack, ".reshape(itemsize, -1).T", ".reshape(itemsize, -1)", "planes one after the other"),
    ("FMT-007", validate.check_shape, "prod(d for d in shape if d)", "prod(shape)", "a product that a 0 hides"),
    ("FMT-007", validate.check_shape, "> MAX_NUMEL", ">= MAX_NUMEL", "2^53 − 1 positions refused"),
    ("FMT-008", validate.check_sparse_shape, "> MAX_SPARSE_DIM", "> 2**31", "2^31 columns"),
    ("FMT-030", container._section, " or len(offsets) != 2", "", "three offsets"),
    ("FMT-030", container._naturals, " and not isinstance(x, bool)", "", "true for 1 in a section"),
    (
        "FMT-033",
        layout.compare,
        "(actual.dtype, actual.shape) != (section.dtype, section.shape)",
        "actual.shape != section.shape",
        "pads of any dtype",
    ),
    ("FMT-032", layout.compare, "if unowned:", "if False:", "sections of no tensor"),
    ("FMT-044", header.features, "sorted(set(value))", "sorted(value)", "a feature twice"),
    (
        "FMT-044",
        header.features,
        "value != sorted(set(value))",
        "len(set(value)) < len(value)",
        "features in any order",
    ),
    ("FMT-042", header.parse_manifest, "if unknown:", "if unknown and not set(value) - _MANIFEST_KEYS:", "keys first"),
    ("FMT-091 FMT-099", digest.support_code, "<= csr.size_of", "< csr.size_of", "csr of equals"),
    (
        "FMT-132",
        delta_rules.check_delta,
        "base is None and ops != {WHOLE}",
        "base is None and not ops",
        "new, added",
    ),
    (
        "FMT-132",
        delta_rules.check_delta,
        "target is None and ops",
        "target is None and WHOLE in ops",
        "gone, removed",
    ),
    (
        "FMT-131",
        delta_rules.check_delta,
        "base == target",
        "base is not None and base == target",
        "none before and after",
    ),
    ("FMT-009", delta_rules._check_target, "*delta.tied.values(), ", "", "names that ties of the target lead to"),
    (
        "FMT-016",
        delta_rules._check_target,
        "    validate.check_scales(delta.scales, named)",
        "    pass",
        "scales of the target",
    ),
)

_WRITTEN: tuple[tuple[str, Any, str, str, str], ...] = (
    ("FMT-065", csr.encode, "np.uint16 if support.shape[-1] <= 2**16", "np.uint16 if support.shape[-1] < 2**16", "U32"),
    (
        "FMT-054",
        gaps.encode_gap8,
        "np.divmod(gaps_of(support), SKIP)",
        "np.divmod(gaps_of(support), 256)",
        "256 a skip",
    ),
    ("FMT-055", gaps.encode_varint, "(more * 0x80)", "((left > 0x3FFF) * 0x80)", "a group that none follows"),
    ("FMT-081", encoding.choose, "size < least)", "size <= least)", "of equals the last"),
    (
        "FMT-052",
        nm.width,
        "(comb(pattern.m, pattern.n) - 1).bit_length()",
        "comb(pattern.m, pattern.n).bit_length()",
        "wide",
    ),
    (
        "FMT-081",
        nm.size_of,
        "packed_rows * -(-per_row * width(pattern) // 8)",
        "-(-packed_rows * per_row * width(pattern) // 8)",
        "ranks measured in bits",
    ),
    ("FMT-009", validate.check_name, "1 <= size <=", "1 <= size <", "a name of 512 bytes refused"),
)

_APPLIED: tuple[tuple[str, Any, str, str, str], ...] = (
    ("FMT-133", change._check_fits, "change.shape != base.shape", "len(change.shape) != len(base.shape)", "any shape"),
    ("FMT-133", change._merged, "not _among(gone, at).all() or ", "", "a removed position that is not there"),
    ("FMT-133", change._merged, " or _among(gone, changes).any()", "", "a position removed and replaced"),
    (
        "FMT-133",
        change._check_fits,
        "isinstance(change, Mask) != (operation == REMOVE)",
        "operation != REMOVE and isinstance(change, Mask)",
        "values for a mask",
    ),
    (
        "FMT-133",
        change._check_fits,
        "change.dtype != base.dtype",
        "change.dtype.itemsize != base.dtype.itemsize",
        "any dtype as wide",
    ),
    ("FMT-133", change._check_fits, "not set(dtypes) <= set(SUMMED)", "dtypes[0] not in SUMMED", "sums of any base"),
    (
        "FMT-133",
        change._check_fits,
        "not set(dtypes) <= set(SUMMED)",
        "dtypes[1] not in SUMMED",
        "amounts of any dtype",
    ),
    (
        "FMT-135",
        change.sums_of,
        "            sums = sums.astype(np.float32)\n",
        "            pass\n",
        "sums rounded at once",
    ),
    ("FMT-135", change.sums_of, "dtype != np.float64", "True", "sums of F64 by way of F32"),
    ("FMT-135", change.sums_of, "not np.isfinite(sums).all()", "np.isnan(sums).any()", "infinite sums"),
    ("FMT-135", change.sums_of, "amounts.astype(np.float64)", "amounts.astype(np.float32)", "amounts in F32"),
    ("FMT-137", delta.apply, "reached != described.base_sha256", "i and reached != described.base_sha256", "any base"),
    (
        "FMT-139",
        delta.apply,
        "reached != described.base_sha256",
        "not i and reached != described.base_sha256",
        "any link",
    ),
    ("FMT-138", delta.apply, "reached != described.target_sha256", "False", "any target"),
    ("FMT-138", delta._applied, "tied=dict(described.tied)", "tied=base.tied", "ties of the base"),
    ("FMT-138", delta._applied, "scales=described.scales", "scales=base.scales", "scales of the base"),
)


def _rows(op: str, rows: tuple[tuple[str, Any, str, str, str], ...]) -> list[Mutant]:
    return [edited(clauses, op, function, old, new, f"edited, {flaw}") for clauses, function, old, new, flaw in rows]


_ROWS: tuple[tuple[str, str, Any, str, str, str], ...] = (
    (
        "file.read",
        "FMT-072",
        nm._unpack,
        "    _check_spare(packed, per_row * bits, name)\n",
        "",
        "no look along an axis",
    ),
    (
        "file.read",
        "FMT-057",
        gaps.plan_gap8,
        "prod(entry.shape) // SKIP",
        "(prod(entry.shape) >> 8)",
        "gaps of n + numel / 256 bytes at most",
    ),
    ("delta.apply", "FMT-135", change.values_at, "np.zeros(at.size", "np.full(at.size, -0.0", "−0 + −0"),
    (
        "delta.apply",
        "FMT-132",
        delta_rules.operation_of,
        'partition(":")',
        'rpartition(":")',
        "names parted at their last colon",
    ),
)

MUTANTS: list[Mutant] = [
    *(edited(clauses, op, f, old, new, f"edited, {flaw}") for op, clauses, f, old, new, flaw in _ROWS),
    *_rows("file.read", _READ),
    *_rows("file.write", _WRITTEN),
    *_rows("delta.apply", _APPLIED),
    *(
        reset("FMT-081", "file.write", nm, f"m of {', '.join(map(str, tried))}", AUTO_M=tried)
        for tried in ((2, 4, 8, 16), (2, 4, 8, 16, 32, 64), (2, 3, 4, 6, 8, 16, 32), (32, 16, 8, 4, 2))
    ),
    reset("FMT-141", "file.read", compress, "1,000 times at most", RATIO=1000),
    reset("FMT-141", "file.read", compress, "2,048 times at most", RATIO=2048),
    reset("FMT-056", "file.read", validate, "2^20 rows refused", MAX_GAP_ROWS=(1 << 20) - 1),
    reset("FMT-056", "file.read", validate, "2^20 + 1 rows", MAX_GAP_ROWS=(1 << 20) + 1),
    reset("FMT-056", "file.read", validate, "65,535 rows a byte", GAP_ROWS_A_BYTE=(1 << 16) - 1),
    reset("FMT-056", "file.read", validate, "65,537 rows a byte", GAP_ROWS_A_BYTE=(1 << 16) + 1),
]
