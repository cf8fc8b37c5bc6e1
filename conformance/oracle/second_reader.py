# SPDX-License-Identifier: Apache-2.0
"""A second reader of whole files by every rule of chapter 12, without `zstd` (FMT-043); folders: `second_folder`."""

import hashlib
import json
import re
from collections import namedtuple
from math import comb, prod
from pathlib import Path
from typing import Any

import numpy as np

SIZES = {0: "NONE", 4: "F4", 6: "F6_E2M3 F6_E3M2", 16: "I16 U16 F16 BF16", 32: "I32 U32 F32", 64: "C64 F64 I64 U64"}
SIZES[8] = "BOOL U8 I8 F8_E5M2 F8_E4M3 F8_E8M0 F8_E4M3FNUZ F8_E5M2FNUZ"
BITS = {name: bits for bits, names in SIZES.items() for name in names.split()}  # FMT-006, FMT-017

# Forms: a type, (clause, pattern of a string), [form of items], {key: form, ...} or {(clause, pattern of keys): form}
NAME, DTYPE = ("FMT-009", r"[^#\x00-\x1f\x7f]{1,512}"), ("FMT-006", "|".join(BITS))
KIND, FEATURE = ("FMT-012", "[a-z][a-z0-9-]{0,63}"), ("FMT-044", "[a-z][a-z0-9-]{0,63}")
ROLE, DIGEST = ("FMT-016", "[a-z][a-z0-9_]{0,63}"), ("FMT-047", "[0-9a-f]{64}")
WEIGHTS = r"\.(safetensors|bin|pt|pth|gguf|h5|msgpack|onnx|index\.json)"
COMPANION = ("FMT-013", rf"(?i)(?!model\.sparse)(?!.*{WEIGHTS}$)[A-Za-z0-9_-][A-Za-z0-9._-]{{0,254}}")
METADATA = {"format": ("FMT-029", "pt"), "seft.manifest": str, "seft.manifest.sha256": str}
STATED, SIZED = {"data_offsets": [int], "dtype": DTYPE, "shape": [int]}, {"bytes": int, "sha256": DIGEST}
COMPRESSED = SIZED | {"codec": ("FMT-043", "zstd"), "raw_bytes": int}
ENTRY = {"content_sha256": DIGEST, "dtype": DTYPE, "nnz": int, "sections": dict, "shape": [int]}
ENTRY |= {"encoding": ("FMT-045", "dense|bitmask|nm|csr|gap8|varint")}
PATTERN = {"pattern": {"axis": int, "m": int, "n": int}}
EARLY = {"requires": [FEATURE], "spec": ("FMT-042", r"1\.(0|[1-9][0-9]{0,3})")}
LINKS, CHANGES = {"scales": {NAME: {ROLE: NAME}}, "tied": {NAME: NAME}}, {NAME: {"base": object, "target": object}}
MANIFEST = {"attributes": dict, "files": {COMPANION: SIZED}, "kind": KIND, "optional": [FEATURE], "part": int}
MANIFEST |= {"tensors": {NAME: dict}} | EARLY | LINKS
DELTA = {"delta": {"base_sha256": DIGEST, "target_sha256": DIGEST, "tensors": CHANGES} | LINKS}
STORED_AS = ({"replace"}, {"remove"}, {"replace", "remove"}, {"add"}, {"whole"})  # FMT-132

# Row pointers and columns are None exactly if the support is every position; bits has `values`, empty for a mask.
Content = namedtuple("Content", "kind attributes tied scales delta files tensors state_sha256")
Tensor = namedtuple("Tensor", "dtype shape row_pointers columns bits")


class Refused(Exception):
    """A file breaks the rule `clause` (FMT-097), the first of `clauses`, by which a reader may refuse it too."""

    def __init__(self, clauses: str, place: str) -> None:
        super().__init__(f"{clauses} is broken by {ascii(place)[:200]}")
        self.clause, self.clauses, self.place = clauses[:7], clauses, place


def need(place: str, *rules: Any) -> None:
    """Refuse by the first rule that does not hold; rules are clauses, condition, clauses, condition, ..."""
    for clauses, holds in zip(rules[::2], rules[1::2], strict=True):
        if not holds:
            raise Refused(clauses, place)


def spell(value: Any) -> str:
    """Return the canonical text (FMT-028); Python sorts strings by scalar values, which is also their UTF-8 order."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def sha256(content: Any) -> str:
    """Return the digest of bytes, or of the canonical text of a value, as FMT-047 writes it."""
    return hashlib.sha256(content if isinstance(content, bytes) else spell(content).encode()).hexdigest()


def parse(raw: bytes, place: str) -> Any:
    """Return the value of a JSON text, after checking the JSON rules (FMT-024 to FMT-028)."""

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        need(place, "FMT-025", len(dict(items)) == len(items))
        return dict(items)

    def integer(number: str) -> int:
        need(place, "FMT-026", re.fullmatch("-?[0-9]{1,16}", number) and abs(int(number)) < 2**53)
        return int(number)

    def levels(value: Any) -> int:
        inner = value.values() if isinstance(value, dict) else value
        return 1 + max(map(levels, inner), default=0) if isinstance(value, dict | list) else 0

    try:
        text = raw.decode()
        # Python accepts NaN and infinities unless parse_constant fails, as `int` does; FMT-024 refuses them
        value = json.loads(text, object_pairs_hook=pairs, parse_int=integer, parse_float=integer, parse_constant=int)
        need(place, "FMT-027", levels(value) <= 16)
    except (RecursionError, ValueError) as error:
        raise Refused("FMT-027" if isinstance(error, RecursionError) else "FMT-024", place) from None
    # escaped lone surrogates fail here, because `spell` does not escape them, and decoded UTF-8 has none
    need(place, "FMT-028", spell(value) == text)
    return value


def form(value: Any, expected: Any, place: str, clause: str = "") -> None:
    """Refuse a value without the expected form (FMT-040, FMT-041). If `clause` is given, the error names it instead."""
    kind: Any = expected if isinstance(expected, type) else str if isinstance(expected, tuple) else type(expected)
    need(place, clause or "FMT-041", kind is object or (type(value) is kind and (kind is not int or value >= 0)))
    if isinstance(expected, tuple):
        need(place, clause or expected[0], re.fullmatch(expected[1].encode(), value.encode()))
    elif isinstance(expected, list):
        for item in value:
            form(item, expected[0], place, clause)
    elif isinstance(expected, dict):
        free = next((key for key in expected if isinstance(key, tuple)), None)
        need(place, clause or "FMT-040", free or value.keys() == expected.keys())
        for key, item in value.items():
            form(key, free or str, f"{place} {key}", clause)
            form(item, expected[free or key], f"{place} {key}", clause)


def read_header(raw: bytes) -> tuple[dict[str, Any], bytes, int]:
    """Return the sections that a file states, the text of its manifest, and where its data begins."""
    need("the file", "FMT-020", len(raw) >= 8)
    start = 8 + int.from_bytes(raw[:8], "little")
    need("the header", "FMT-021", start <= min(2**24, len(raw)), "FMT-022", start in [2**i for i in range(10, 25)])
    text = raw[8:start].rstrip(b" ")
    need("the header", "FMT-023", text[:1] == b"{" and (start == 1024 or 8 + len(text) > start // 2))
    header = parse(text, "the header")
    form(about := header.pop("__metadata__", None), METADATA, "__metadata__", "FMT-029")
    for name, stated in header.items():
        form(stated, STATED, name, "FMT-030")
    manifest = about["seft.manifest"].encode()
    need("the manifest", "FMT-093", sha256(manifest) == about["seft.manifest.sha256"])
    return header, manifest, start


def read_manifest(text: bytes, *, whole: bool = True) -> dict[str, Any]:
    """Return the manifest, after checking the rules of 12.3 for a file; `whole` if the file is no part of a folder."""
    form(m := parse(text, label := "the manifest"), dict, label)
    form({key: m[key] for key in EARLY if key in m}, EARLY, label)  # FMT-042: checked first
    need(f"the features {m['requires']}", "FMT-043", set(m["requires"]) <= {"delta"})
    form(m, MANIFEST | (DELTA if m.get("kind") == "delta" and m.get("part") in (0, 1) else {}), label)  # FMT-130
    for features in (m["requires"], m["optional"], sorted(m["requires"] + m["optional"])):
        need(label, "FMT-044", features == sorted(set(features)))
    need(label, "FMT-048", not whole or m["part"] == 0, "FMT-050", m["requires"] == ["delta"] * (m["kind"] == "delta"))
    need(label, "FMT-013", len({name.lower() for name in m["files"]}) == len(m["files"]))
    need(label, "FMT-014", all(file["bytes"] <= 50_000_000 for file in m["files"].values()))
    return m


def implied(name: str, e: dict[str, Any]) -> dict[str, Any]:
    """Return dtype and shape of a tensor's sections by role, in order (FMT-034), after checking its entry."""
    form(e, ENTRY | (PATTERN if e.get("encoding") == "nm" else {}), name)
    for role, section in e["sections"].items():
        compressed = isinstance(section, dict) and "codec" in section
        form(section, COMPRESSED if compressed else SIZED, f"{name}#{role}")
        need(f"{name}#{role}", "FMT-050", not compressed)  # files that require zstd are refused earlier
    encoding, shape, n, bits = e["encoding"], e["shape"], e["nnz"], BITS[e["dtype"]]
    need(name, "FMT-007", len(shape) <= 8 and prod(d or 1 for d in shape) < 2**53)
    rows, columns, whole = prod(shape[:-1]), shape[-1] if shape else 1, encoding == "dense"
    numel, sections = rows * columns, dict[str, Any]()
    need(name, "FMT-046", n == numel if whole else n <= numel, "FMT-017", bits or not whole)
    need(name, "FMT-008", whole or (shape and max(rows, columns) < 2**31), "FMT-064", columns or encoding != "bitmask")
    if encoding == "bitmask":  # FMT-061
        sections["mask"] = ("U8", [rows, -(-columns // 8)])
    elif encoding == "csr":  # FMT-065
        sections["col_idx"] = ("U16" if columns <= 65536 else "U32", [n])
        sections["row_ptr"] = ("U32" if n < 2**32 else "U64", [rows + 1])
    elif encoding == "nm":
        axis, m, k = (e["pattern"][key] for key in ("axis", "m", "n"))
        need(name, "FMT-051", axis < len(shape) and 2 <= m <= 64 and 1 <= k < m)
        need(name, "FMT-051", numel and shape[axis] % m == 0 and n * m == numel * k)
        groups = columns // m if axis == len(shape) - 1 else columns  # FMT-052: G, then Q and ⌈G·b/8⌉
        sections["ranks"] = ("U8", [numel // m // groups, -(-groups * (comb(m, k) - 1).bit_length() // 8)])
    elif not whole:
        size = e["sections"].get("gaps", {"bytes": n})["bytes"]
        most = n + numel // 255 if encoding == "gap8" else 8 * n
        need(name, "FMT-056", rows <= min(65536 * (size + 1), 2**20), "FMT-057", n <= size <= most)
        sections["gaps"] = ("U8", [size])
    if bits:  # FMT-071
        sections["values"] = ("U8", [-(-n * bits // 8)]) if bits < 8 else (e["dtype"], shape if whole else [n])
    need(name, "FMT-031", e["sections"].keys() == sections.keys())
    for role, (dtype, extent) in sections.items():
        need(f"{name}#{role}", "FMT-049", e["sections"][role]["bytes"] == BITS[dtype] * prod(extent) // 8)
    return sections


def locate(header: dict[str, Any], tensors: dict[str, Any], data: bytes) -> dict[str, Any]:
    """Return the arrays of sections by tensor and role, after checking that the header fits the sections."""
    begin, parts = 0, {name: dict[str, Any]() for name in tensors}
    for name in sorted(tensors):  # FMT-034
        for role, (dtype, shape) in tensors[name].items():
            key, end = f"{name}#{role}", begin + BITS[dtype] * prod(shape) // 8
            need(key, "FMT-031", stated := header.pop(key, None))
            need(key, "FMT-033", [stated["dtype"], stated["shape"]] == [dtype, shape])
            need(key, "FMT-034", stated["data_offsets"] == [begin, end], "FMT-035 FMT-034", end <= len(data))
            raw = np.frombuffer(data[begin:end], np.uint8)
            parts[name][role] = raw if role == "values" else raw.view(f"<u{BITS[dtype] // 8}").reshape(shape)
            begin = end + -end % 64
            if begin > end:
                pad = {"data_offsets": [end, begin], "dtype": "U8", "shape": [begin - end]}
                none = "FMT-034 FMT-031" + " FMT-032" * (begin == len(data))
                need(key, none, stated := header.pop(f"{key}#pad", None))
                need(key, "FMT-034 FMT-033", stated == pad, "FMT-036", not any(data[end:begin]))
    need(f"the sections {[*header]}", "FMT-032", not header)
    need("the file", "FMT-035 FMT-034", begin <= len(data), "FMT-035 FMT-032", begin == len(data))
    return parts


def check_links(m: dict[str, Any], delta: Any) -> None:
    """Check tied names, scales and a delta's tensors; a delta need not store those of its target (FMT-131)."""
    need("the manifest", "FMT-130", not delta or not (m["scales"] or m["tied"]))
    stored = m["tensors"].keys()
    for name, target in (delta or m)["tied"].items():
        need(name, "FMT-010", name != target and (delta or (target in stored and name not in stored)))
    for name, roles in (delta or m)["scales"].items():
        need(name, "FMT-016", roles and name not in roles.values() and (delta or {name, *roles.values()} <= stored))
    spare = set(stored) if delta else set()
    for name, change in delta["tensors"].items() if delta else ():
        for digest in change.values():
            form(digest, object if digest is None else DIGEST, name)
        ways = {way for way in ("replace", "remove", "add", "whole") if f"{way}:{name}" in stored}
        legal = [set()] if change["target"] is None else [{"whole"}] if change["base"] is None else STORED_AS
        need(name, "FMT-131", change["base"] != change["target"], "FMT-132", ways in legal)
        spare -= {f"{way}:{name}" for way in ways}
    need(f"the tensors {sorted(spare)}", "FMT-132", not spare)


def positions(name: str, e: dict[str, Any], parts: dict[str, Any]) -> Any:
    """Return the support as increasing flat positions (row-major), after checking the rules of the encoding."""
    shape, n, encoding = e["shape"], e["nnz"], e["encoding"]
    if encoding == "bitmask":  # FMT-061
        bits = np.unpackbits(parts["mask"], axis=1, bitorder="little")
        tail = bool(bits[:, shape[-1] :].any())
        need(name, "FMT-063" + " FMT-062" * tail, np.count_nonzero(bits) == n, "FMT-062", not tail)
        return np.flatnonzero(bits[:, : shape[-1]])
    if encoding == "csr":  # FMT-065
        rows, columns = parts["row_ptr"], parts["col_idx"]
        need(name, "FMT-066", rows[0] == 0 and rows[-1] == n, "FMT-067", (rows[1:] >= rows[:-1]).all())
        flat = np.repeat(np.arange(len(rows) - 1), np.diff(rows.astype(np.int64))) * shape[-1] + columns
        need(name, "FMT-068", (columns < shape[-1]).all(), "FMT-069", (flat[1:] > flat[:-1]).all())
        return flat
    if encoding == "nm":
        axis, m, k = (e["pattern"][key] for key in ("axis", "m", "n"))
        b, groups, after = (comb(m, k) - 1).bit_length(), prod(shape) // m, prod(shape[axis + 1 :])
        bits, used = np.unpackbits(parts["ranks"], axis=1, bitorder="little"), groups // len(parts["ranks"]) * b
        rank: Any = sum(bits[:, i:used:b].astype(np.uint64).ravel() << np.uint64(i) for i in range(b))
        need(name, "FMT-053", (rank < comb(m, k)).all(), "FMT-072", not bits[:, used:].any())
        # FMT-052: packed row after packed row, groups are in row-major order of the array [before, axis / m, after]
        first = np.arange(groups) // after * (m * after) + np.arange(groups) % after
        flat = np.empty((groups, k), np.int64)
        for i in range(k, 0, -1):  # offset i is the largest p with C(p, i) ≤ the remaining rank
            binomials = np.array([comb(p, i) for p in range(m)], np.uint64)
            offset = np.searchsorted(binomials, rank, side="right") - 1
            rank, flat[:, i - 1] = rank - binomials[offset], first + offset * after
        return np.sort(flat, axis=None)
    final = parts["gaps"] < (255 if encoding == "gap8" else 128)
    need(name, "FMT-058", np.count_nonzero(final) == n and final[-1:].all())
    last = np.flatnonzero(final)
    gap = np.diff(np.cumsum(parts["gaps"], dtype=np.int64)[last], prepend=0)  # FMT-054
    if encoding == "varint":  # FMT-055
        length, gap = np.diff(last, prepend=-1), np.zeros(n, np.int64)
        need(name, "FMT-073", (length <= 8).all() and not ((length > 1) & (parts["gaps"][last] == 0)).any())
        for i in range(8):  # bytes are taken from the last, the most significant, to the first
            gap = np.where(i < length, gap << 7 | parts["gaps"][np.maximum(last - i, 0)] & 127, gap)
    # FMT-059: numel is below 2^53 and a gap below 2^57, so a sum that could wrap at 2^63 has exceeded numel before
    flat = np.cumsum(gap + 1) - 1
    need(name, "FMT-059", (flat < prod(shape)).all())
    return flat


def read_tensor(name: str, e: dict[str, Any], parts: dict[str, Any]) -> Tensor:
    """Return a tensor, after checking its digests and the rules of its values."""
    for role, section in e["sections"].items():
        need(f"{name}#{role}", "FMT-090", sha256(parts[role].tobytes()) == section["sha256"])
    shape, n, bits = e["shape"], e["nnz"], parts.get("values", np.empty(0, np.uint8))
    rest = n * BITS[e["dtype"]] % 8
    need(name, "FMT-070", e["dtype"] != "BOOL" or (bits < 2).all(), "FMT-072", not rest or bits[-1] >> rest == 0)
    flat: Any = positions(name, e, parts) if e["encoding"] != "dense" else None
    pointers = columns = support = None
    if n < prod(shape):
        row, columns = np.divmod(flat, shape[-1])
        pointers = np.cumsum(np.bincount(row + 1, minlength=prod(shape[:-1]) + 1), dtype=np.int64)
        arrays = {"col_idx": columns.astype("<u2" if shape[-1] <= 65536 else "<u4")}  # FMT-065
        arrays["row_ptr"] = pointers.astype("<u4" if n < 2**32 else "<u8")
        if (len(pointers) - 1) * -(-shape[-1] // 8) <= sum(part.nbytes for part in arrays.values()):
            present = np.bincount(flat, minlength=prod(shape)).reshape(-1, shape[-1]) > 0
            arrays = {"mask": np.packbits(present, axis=1, bitorder="little")}
        support = {role: sha256(part.tobytes()) for role, part in arrays.items()}
    values = sha256(bits.tobytes()) if "values" in parts else None
    about = {"dtype": e["dtype"], "nnz": n, "shape": shape, "support": support, "values": values}
    need(name, "FMT-091", sha256(about) == e["content_sha256"])
    return Tensor(e["dtype"], tuple(shape), pointers, columns, bits.tobytes())


def read(file: str | Path | bytes) -> Content:
    """Return the checkpoint of a file, with companions in the same folder; bytes have none (FMT-102)."""
    raw, folder = (file, None) if isinstance(file, bytes) else (Path(file).read_bytes(), Path(file).parent)
    header, text, start = read_header(raw)
    m = read_manifest(text)
    parts = locate(header, {name: implied(name, e) for name, e in m["tensors"].items()}, raw[start:])
    check_links(m, m.get("delta"))
    tensors = {name: read_tensor(name, e, parts[name]) for name, e in m["tensors"].items()}
    for name, stated in m["files"].items():
        need(name, "FMT-102 FMT-013", folder and (folder / name).is_file())
        body = (folder / name).read_bytes()
        need(name, "FMT-094", len(body) == stated["bytes"] and sha256(body) == stated["sha256"])
    digests = {name: e["content_sha256"] for name, e in m["tensors"].items()}
    state = sha256({"scales": m["scales"], "tensors": digests, "tied": m["tied"]})  # FMT-099
    return Content(m["kind"], m["attributes"], m["tied"], m["scales"], m.get("delta"), [*m["files"]], tensors, state)
