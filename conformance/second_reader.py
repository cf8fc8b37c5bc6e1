"""A second reader of checkpoint files and folders, verified (FMT-095), without the feature `zstd` (FMT-043).

It follows chapter 12 of the specification and nothing else, to be read beside it; a rule's line names its clause.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from conformance.second_tensor import (
    DIGEST,
    DTYPE,
    SIZED,
    Refused,
    Sections,
    Tensor,
    dense,
    form,
    implied,
    need,
    positions,
    read_tensor,
    sha256,
    spell,
)

__all__ = ["Content", "Refused", "Tensor", "dense", "read", "read_folder"]

# Forms: strings by clause and pattern, and the objects of 12.2, 12.3 and 12.9
NAME = ("FMT-009", r"[^#\x00-\x1f\x7f]{1,512}")
KIND, FEATURE = ("FMT-012", "[a-z][a-z0-9-]{0,63}"), ("FMT-044", "[a-z][a-z0-9-]{0,63}")
COMPANION = ("FMT-013", "[A-Za-z0-9_-][A-Za-z0-9._-]{0,254}")
ROLE = ("FMT-016", "[a-z][a-z0-9_]{0,63}")
SPEC = ("FMT-042", r"1\.(0|[1-9][0-9]{0,3})")
LINKS = {"scales": {NAME: {ROLE: NAME}}, "tied": {NAME: NAME}}
MANIFEST = {"attributes": dict, "files": {COMPANION: SIZED}, "kind": KIND, "optional": [FEATURE], "part": int}
MANIFEST |= {"requires": [FEATURE], "spec": SPEC, "tensors": {NAME: dict}} | LINKS
CHANGES = {NAME: {"base": object, "target": object}}
DELTA = {"base_sha256": DIGEST, "target_sha256": DIGEST, "tensors": CHANGES} | LINKS  # FMT-131
HEADER_ENTRY = {"data_offsets": [int], "dtype": DTYPE, "shape": [int]}  # FMT-030
INDEX = {"metadata": {"manifests": [DIGEST], "spec": SPEC}, "weight_map": {NAME: str}}  # FMT-101
WEIGHT_FILES = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx", ".index.json")  # FMT-013
DENSE_FILE = r"(model|adapter_model|pytorch_model)(-[0-9]+-of-[0-9]+)?\.safetensors"  # FMT-112
STORED_AS = ({"replace"}, {"remove"}, {"replace", "remove"}, {"add"}, {"whole"})  # FMT-132


@dataclass(frozen=True)
class Content:
    """A checkpoint (FMT-001) and its state digest (FMT-099)."""

    kind: str
    attributes: dict[str, Any]
    tied: dict[str, str]
    scales: dict[str, dict[str, str]]
    delta: dict[str, Any] | None
    files: dict[str, bytes]
    tensors: dict[str, Tensor]
    state_sha256: str


@dataclass(frozen=True)
class _File:
    manifest: dict[str, Any]
    root: str  # FMT-092
    tensors: dict[str, Tensor]


def _json(raw: bytes, what: str) -> Any:
    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        need(len(dict(items)) == len(items), "FMT-025", f"{what} has a key twice")
        return dict(items)

    def integer(number: str) -> int:
        small = re.fullmatch("-?[0-9]{1,16}", number) and abs(int(number)) < 2**53
        need(small, "FMT-026", f"{what} has the number {number[:20]}")
        return int(number)

    def depth(value: Any) -> int:
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return max((1 + depth(item) for item in inner), default=0)

    try:
        text = raw.decode()
        value = json.loads(
            text, object_pairs_hook=pairs, parse_int=integer, parse_float=integer, parse_constant=integer
        )
        need(depth(value) <= 16, "FMT-027", f"{what} is nested too deeply")
    except RecursionError:
        raise Refused("FMT-027", f"{what} is nested too deeply") from None
    except ValueError:
        raise Refused("FMT-024", f"{what} is no JSON text in UTF-8") from None
    # `spell` leaves the lone surrogate of an escape bare, and no UTF-8 decodes to that: compared, none is ever encoded
    need(spell(value) == text, "FMT-028", f"{what} is not spelled canonically")
    return value


def _manifest(raw: bytes) -> dict[str, Any]:
    m = _json(raw, "the manifest")
    form(m, dict, "the manifest")
    need({"spec", "requires"} <= m.keys(), "FMT-040", "spec or requires is missing")
    form(m["spec"], SPEC, "spec")  # FMT-042
    form(m["requires"], [FEATURE], "requires")
    missing = sorted(set(m["requires"]) - {"delta"})
    need(not missing, "FMT-043", f"this reader does not have {missing}")
    described = m.get("kind") == "delta" and m.get("part") in (0, 1)
    need(("delta" in m) == described, "FMT-130", "`delta` is missing or out of place")
    form(m, MANIFEST | ({"delta": DELTA} if described else {}), "the manifest")
    for features in (m["requires"], m["optional"]):
        need(features == sorted(set(features)), "FMT-044", "features are not sorted, or one stands twice")
    lower = [name.lower() for name in m["files"]]
    need(len(set(lower)) == len(lower), "FMT-013", "companion names differ in case alone")
    for name in lower:
        need(not name.startswith("model.sparse") and not name.endswith(WEIGHT_FILES), "FMT-013", name)
    need(all(file["bytes"] <= 50_000_000 for file in m["files"].values()), "FMT-014", "a companion is too large")
    if described:
        _check_links(m["delta"], None)
        for name, change in m["delta"]["tensors"].items():
            for digest in change.values():
                form(digest, object if digest is None else DIGEST, name)
            need(change["base"] != change["target"], "FMT-131", f"{name} does not change")
    need(m["requires"] == ["delta"] * (m["kind"] == "delta"), "FMT-050", "features required and used differ")
    return m


def _check_links(m: dict[str, Any], stored: set[str] | None) -> None:
    """FMT-010 and FMT-016; `stored` is None where the tensors, those of the target of a delta, are not at hand."""
    for name, target in m["tied"].items():
        need(target not in m["tied"], "FMT-010", f"{name} is tied to a tied name")
        need(
            stored is None or (target in stored and name not in stored), "FMT-010", f"{name} is stored, or {target} not"
        )
    for name, roles in m["scales"].items():
        names = {name, *roles.values()}
        need(roles and name not in roles.values(), "FMT-016", f"{name} has no scales, or is its own")
        need(not names & m["tied"].keys(), "FMT-016", f"{name} or one of its scales is tied")
        need(stored is None or names <= stored, "FMT-016", f"{name} or one of its scales is not stored")


def _header(raw: bytes, name: str) -> tuple[dict[str, Any], int]:
    """The header and the position at which the data begins."""
    need(len(raw) >= 8, "FMT-020", name)
    n = int.from_bytes(raw[:8], "little")
    need(n <= 25_000_000 and n <= len(raw) - 8, "FMT-021", f"{name} states a header of {n} bytes")
    need((8 + n) % 64 == 0, "FMT-022", f"{name} states a header of {n} bytes")
    text = raw[8 : 8 + n].rstrip(b" ")
    need(text[:1] == b"{" and n - len(text) < 64, "FMT-023", f"the header of {name}")
    header = _json(text, "the header")
    about = header.get("__metadata__")
    keys = {"format", "seft.manifest", "seft.manifest.sha256"}
    need(isinstance(about, dict) and about.keys() == keys, "FMT-029", "__metadata__")
    need(about["format"] == "pt" and all(isinstance(value, str) for value in about.values()), "FMT-029", "__metadata__")
    for key in header.keys() - {"__metadata__"}:
        need(isinstance(header[key], dict) and header[key].keys() == HEADER_ENTRY.keys(), "FMT-030", key)
        form(header[key], HEADER_ENTRY, key)
    return header, 8 + n


def _legal(tensors: dict[str, Any], sections: dict[str, Sections]) -> tuple[dict[str, Any], int]:
    """The only sections and pads that a header may have, and where the last of them ends (FMT-034)."""
    end, legal = 0, {}
    for name in sorted(sections):
        for role, (dtype, shape) in sections[name].items():
            begin, end = end, end + tensors[name]["sections"][role]["bytes"]
            legal[f"{name}#{role}"] = {"data_offsets": [begin, end], "dtype": dtype, "shape": shape}
            if end % 64:
                begin, end = end, end + -end % 64
                legal[f"{name}#{role}#pad"] = {"data_offsets": [begin, end], "dtype": "U8", "shape": [end - begin]}
    return legal, end


def _read_file(path: Path) -> _File:
    raw = path.read_bytes()
    header, start = _header(raw, path.name)
    about = header.pop("__metadata__")
    root = sha256(about["seft.manifest"].encode())
    need(root == about["seft.manifest.sha256"], "FMT-093", "the digest of the manifest")
    m = _manifest(about["seft.manifest"].encode())
    sections = {name: implied(name, e) for name, e in m["tensors"].items()}
    legal, end = _legal(m["tensors"], sections)
    for key in sorted(header.keys() | legal.keys()):
        need(key in legal, "FMT-032", key)
        need(key in header, "FMT-034" if key.endswith("#pad") else "FMT-031", f"{key} is missing")
        for part, clause in (("dtype", "FMT-033"), ("shape", "FMT-033"), ("data_offsets", "FMT-034")):
            need(header[key][part] == legal[key][part], clause, f"{key}: {part}")
    need(end == len(raw) - start, "FMT-035", path.name)
    data = np.frombuffer(raw, np.uint8)[start:]
    parts = {key: data[slice(*section["data_offsets"])] for key, section in legal.items()}
    for key in parts:
        need(not key.endswith("#pad") or not parts[key].any(), "FMT-036", key)
    tensors = {}
    for name, roles in sections.items():
        own = {role: parts[f"{name}#{role}"] for role in roles}
        tensors[name] = read_tensor(name, m["tensors"][name], roles, own)
    return _File(m, root, tensors)


def _content(m: dict[str, Any], tensors: dict[str, Tensor], files: dict[str, bytes]) -> Content:
    """The checkpoint of a manifest (that of part 1, if there are parts), after the rules across its tensors."""
    _check_links(m, set(tensors))
    if "delta" in m:
        _check_delta(m["delta"], tensors)
    digests = {name: tensor.content_sha256 for name, tensor in tensors.items()}
    state = sha256(spell({"scales": m["scales"], "tensors": digests, "tied": m["tied"]}).encode())  # FMT-099
    links = (m["tied"], m["scales"], m.get("delta"))
    return Content(m["kind"], m["attributes"], *links, files, tensors, state)


def _check_delta(delta: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    stored: dict[str, dict[str, Tensor]] = {name: {} for name in delta["tensors"]}
    for name, tensor in tensors.items():
        what, _, of = name.partition(":")
        need(what in {"replace", "add", "remove", "whole"} and of in stored, "FMT-132", name)
        stored[of][what] = tensor
    for name, change in delta["tensors"].items():
        have = stored[name]
        legal = [set()] if change["target"] is None else [{"whole"}] if change["base"] is None else STORED_AS
        need(have.keys() in legal, "FMT-132", f"{name} is stored as {sorted(have)}")
        need(len({tensor.shape for tensor in have.values()}) <= 1, "FMT-133", f"{name}: shapes")
        need("remove" not in have or have["remove"].dtype == "NONE", "FMT-133", f"{name}: `remove` is no mask")
        need(
            "add" not in have or have["add"].dtype in {"F16", "BF16", "F32", "F64"},
            "FMT-133",
            f"{name}: dtype of `add`",
        )
        if len(have) == 2:
            both = np.intersect1d(positions(have["replace"]), positions(have["remove"]), assume_unique=True)
            need(not both.size, "FMT-133", f"{name} is replaced and removed at one position")


def read(path: str | Path) -> Content:
    """The checkpoint of a single file (FMT-111)."""
    path = Path(path)
    need(not re.fullmatch(DENSE_FILE, path.name.lower()), "FMT-112", path.name)
    file = _read_file(path)
    need(file.manifest["part"] == 0, "FMT-048", "a part is no checkpoint without its folder")
    need(not file.manifest["files"], "FMT-013", "a single file has no companions")
    return _content(file.manifest, file.tensors, {})


def read_folder(path: str | Path) -> Content:
    """The checkpoint of a folder: its one file or its parts, and its companions."""
    folder = Path(path)
    names = {entry.name for entry in folder.iterdir()}
    whole, index = "model.sparse.safetensors", "model.sparse.index.json"
    if whole in names:
        file = _read_file(_present(folder, whole))
        need(file.manifest["part"] == 0, "FMT-048", "the whole checkpoint is a part")
        own, m, tensors = {whole}, file.manifest, file.tensors
    else:
        own, m, tensors = _read_parts(folder, index)
    for name in names - own:
        need(not name.lower().startswith("model.sparse"), "FMT-103", name)
    files = {}
    for name, stated in m["files"].items():  # FMT-094
        need(_present(folder, name).stat().st_size == stated["bytes"], "FMT-094", f"{name}: size")
        files[name] = (folder / name).read_bytes()
        need(sha256(files[name]) == stated["sha256"], "FMT-094", f"{name}: digest")
    return _content(m, tensors, files)


def _present(folder: Path, name: str) -> Path:
    need((folder / name).is_file(), "FMT-102", f"{name} is not in the folder")
    return folder / name


def _read_parts(folder: Path, index: str) -> tuple[set[str], dict[str, Any], dict[str, Tensor]]:
    need(_present(folder, index).stat().st_size <= 100_000_000, "FMT-101", "the index is too large")
    stated = _json((folder / index).read_bytes(), "the index")
    form(stated, INDEX, "the index")
    roots, count = stated["metadata"]["manifests"], len(stated["metadata"]["manifests"])
    need(2 <= count <= 99_999, "FMT-100", f"{count} parts")
    own, first = {index}, None
    tensors: dict[str, Tensor] = {}
    weight_map: dict[str, str] = {}
    for i, root in enumerate(roots, 1):
        name = f"model.sparse-{i:05}-of-{count:05}.safetensors"
        file = _read_file(_present(folder, name))
        m = file.manifest
        first = first or m
        need(m["part"] == i and file.root == root, "FMT-104", f"{name}: number or root digest")
        need(m["kind"] == first["kind"] and m["spec"] == first["spec"], "FMT-104", f"{name}: kind or spec")
        need(m["spec"] == stated["metadata"]["spec"], "FMT-101", f"{name}: spec")
        need(file.tensors and (not tensors or min(file.tensors) > max(tensors)), "FMT-104", f"{name}: names")
        alone = i == 1 or not any(m[key] for key in ("attributes", "files", "scales", "tied"))
        need(alone, "FMT-104", f"{name} has what belongs to part 1")
        own.add(name)
        tensors |= file.tensors
        weight_map |= dict.fromkeys(file.tensors, name)
    need(stated["weight_map"] == weight_map, "FMT-101", "weight_map does not say what the parts hold")
    assert first is not None
    return own, first, tensors
