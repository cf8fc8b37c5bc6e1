"""The manifest of a file: typed records, made into JSON text and parsed from it."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import TypeGuard

from formats import container, strict_json
from formats.errors import FormatError
from formats.records import DeltaOf, Pattern
from formats.strict_json import JSON
from formats.typed_json import as_digest, as_natural, as_object, as_string, as_strings, closed
from formats.validate import check_file_names, check_file_size, check_kind, check_name, check_shape

SPEC = "1.0"
MANIFEST_KEY = "seft.manifest"
DIGEST_KEY = "seft.manifest.sha256"
MAX_HEAD = 1 << 24
"""Most bytes of length and header together (FMT-021); model hubs read at least as much of a file."""
DELTA, ZSTD = "delta", "zstd"
FEATURES: frozenset[str] = frozenset({DELTA, ZSTD})
"""Features beyond the core of version 1 that this reader supports."""

_VERSION = re.compile(r"1\.(0|[1-9][0-9]{0,3})")
_FEATURE = re.compile(r"[a-z][a-z0-9-]{0,63}")
_MANIFEST_KEYS = {"attributes", "files", "kind", "optional", "part", "requires", "scales", "spec", "tensors", "tied"}
_ENTRY_KEYS = {"content_sha256", "dtype", "encoding", "nnz", "sections", "shape"}
_DELTA_KEYS = {"base_sha256", "scales", "target_sha256", "tensors", "tied"}


@dataclass(frozen=True, slots=True)
class Stored:
    """The manifest entry of one section (FMT-049)."""

    nbytes: int
    """Bytes in the file, its pad not counted."""
    sha256: str
    raw_bytes: int | None = None
    """Bytes before compression; None if the section is not compressed (FMT-140)."""

    @property
    def raw(self) -> int:
        """Bytes of the section once it is expanded."""
        return self.nbytes if self.raw_bytes is None else self.raw_bytes


@dataclass(frozen=True, slots=True)
class Entry:
    """The manifest entry of one tensor (FMT-045, FMT-046)."""

    dtype: str
    shape: tuple[int, ...]
    encoding: str
    nnz: int
    content_sha256: str
    sections: Mapping[str, Stored]
    """Role -> size and digest of its section."""
    pattern: Pattern | None = None
    """Set for encoding `nm` only."""


@dataclass(frozen=True, slots=True)
class Companion:
    """The manifest entry of one companion."""

    nbytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """The manifest of one file (FMT-040)."""

    kind: str
    tensors: Mapping[str, Entry]
    attributes: dict[str, JSON] = field(default_factory=dict)
    tied: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, Companion] = field(default_factory=dict)
    part: int = 0
    """0 for a whole checkpoint, otherwise the number of the part, from 1."""
    scales: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    delta: DeltaOf | None = None
    optional: tuple[str, ...] = ()
    spec: str = SPEC

    @property
    def requires(self) -> tuple[str, ...]:
        """The features that a reader must have: those that the file uses (FMT-043)."""
        compressed = any(s.raw_bytes is not None for entry in self.tensors.values() for s in entry.sections.values())
        return (DELTA,) * (self.kind == DELTA) + (ZSTD,) * compressed


# manifest -> text --------------------------------------------------------------------------------


def manifest_text(manifest: Manifest) -> str:
    """Return the canonical JSON text of a manifest (FMT-028, FMT-040)."""
    value: dict[str, JSON] = {
        "attributes": manifest.attributes,
        "files": {n: {"bytes": f.nbytes, "sha256": f.sha256} for n, f in manifest.files.items()},
        "kind": manifest.kind,
        "optional": list(manifest.optional),
        "part": manifest.part,
        "requires": list(manifest.requires),
        "scales": {n: dict(roles) for n, roles in manifest.scales.items()},
        "spec": manifest.spec,
        "tensors": {n: _entry_json(entry) for n, entry in manifest.tensors.items()},
        "tied": dict(manifest.tied),
    }
    if manifest.delta is not None:
        value["delta"] = _delta_json(manifest.delta)
    return strict_json.canonical(value)


def _entry_json(entry: Entry) -> JSON:
    value: dict[str, JSON] = {
        "content_sha256": entry.content_sha256,
        "dtype": entry.dtype,
        "encoding": entry.encoding,
        "nnz": entry.nnz,
        "sections": {role: _stored_json(stored) for role, stored in entry.sections.items()},
        "shape": list(entry.shape),
    }
    if entry.pattern is not None:
        value["pattern"] = {"axis": entry.pattern.axis, "m": entry.pattern.m, "n": entry.pattern.n}
    return value


def _stored_json(stored: Stored) -> JSON:
    value: dict[str, JSON] = {"bytes": stored.nbytes, "sha256": stored.sha256}
    if stored.raw_bytes is not None:
        value |= {"codec": ZSTD, "raw_bytes": stored.raw_bytes}
    return value


def _delta_json(delta: DeltaOf) -> JSON:
    return {
        "base_sha256": delta.base_sha256,
        "scales": {n: dict(roles) for n, roles in delta.scales.items()},
        "target_sha256": delta.target_sha256,
        "tensors": {n: {"base": base, "target": target} for n, (base, target) in delta.tensors.items()},
        "tied": dict(delta.tied),
    }


# text -> manifest --------------------------------------------------------------------------------


def parse_manifest(text: str, what: str) -> Manifest:
    """Return the manifest that a JSON text holds, after checking every rule that needs no section.

    Raises:
        FormatError: FMT-006, FMT-007, FMT-009, FMT-012 to FMT-014, FMT-024 to FMT-028, FMT-040 to FMT-044,
            FMT-046, FMT-047, FMT-050.
    """
    value = as_object(strict_json.parse(text.encode("utf-8", "surrogatepass"), what), what)
    # FMT-042.3: version and features come first, because a file of a later version must be refused as such
    _check_there(value, {"requires", "spec"}, what)
    spec = check_version(as_string(value["spec"], f"spec of {what}"), what)
    requires = features(value["requires"], "requires")
    unknown = [name for name in requires if name not in FEATURES]
    if unknown:
        raise FormatError(
            "FMT-043", f"{what} requires {', '.join(unknown)}, which this reader does not have; update it"
        )
    _check_there(value, {"kind", "optional", "part"}, what)
    optional = features(value["optional"], "optional")
    twice = sorted({*requires} & {*optional})
    if twice:
        raise FormatError("FMT-044", f"{what} names {twice[0]!r} as required and as optional")
    kind = as_string(value["kind"], "kind")
    # FMT-130: only the first part of a delta has the key `delta`
    has_delta = kind == DELTA and value["part"] in (0, 1)
    closed(value, _MANIFEST_KEYS | ({"delta"} if has_delta else set()), what)
    check_kind(kind)
    files = {name: _companion(name, entry) for name, entry in as_object(value["files"], "files").items()}
    check_file_names(files)
    tensors = {name: parse_entry(name, entry) for name, entry in as_object(value["tensors"], "tensors").items()}
    manifest = Manifest(
        kind,
        tensors,
        as_object(value["attributes"], "attributes"),
        as_strings(value["tied"], "tied"),
        files,
        as_natural(value["part"], "part"),
        _scales(value["scales"]),
        _delta(as_object(value["delta"], "delta")) if has_delta else None,
        optional,
        spec,
    )
    # FMT-050: the file must require exactly the features that it uses
    if requires != manifest.requires:
        raise FormatError("FMT-050", f"{what} requires {list(requires)} and uses {list(manifest.requires)}")
    return manifest


def _check_there(value: dict[str, JSON], keys: set[str], what: str) -> None:
    """Verify that a manifest has some of its keys (FMT-040)."""
    if missing := sorted(keys - set(value)):
        raise FormatError("FMT-040", f"{what} lacks {missing}")


def parse_entry(name: str, value: JSON) -> Entry:
    """Return the entry of one tensor in the manifest, parsed and checked.

    Raises:
        FormatError: FMT-006, FMT-007, FMT-009, FMT-040, FMT-041, FMT-043, FMT-046, FMT-047.
    """
    what = f"tensor {name!r}"
    check_name(name)
    entry = as_object(value, what)
    encoding = as_string(entry.get("encoding"), f"encoding of {what}")
    closed(entry, _ENTRY_KEYS | ({"pattern"} if encoding == "nm" else set()), what)
    dtype = as_string(entry["dtype"], f"dtype of {what}")
    if dtype not in container.BITS:
        raise FormatError("FMT-006", f"{what} has dtype {dtype!r}, expected one of {', '.join(container.BITS)}")
    dims = entry["shape"]
    if not isinstance(dims, list):
        raise FormatError("FMT-041", f"shape of {what} is not a list")
    shape = tuple(as_natural(d, f"shape of {what}") for d in dims)
    check_shape(shape, name)
    nnz = as_natural(entry["nnz"], f"nnz of {what}")
    if nnz > prod(shape):
        raise FormatError(
            "FMT-046", f"{what} has nnz {nnz}, more than the {prod(shape)} positions of shape {list(shape)}"
        )
    sections = as_object(entry["sections"], f"sections of {what}")
    return Entry(
        dtype,
        shape,
        encoding,
        nnz,
        as_digest(entry["content_sha256"], f"content_sha256 of {what}"),
        {role: _stored(stored, f"section {role!r} of {what}") for role, stored in sections.items()},
        _pattern(entry["pattern"], what) if encoding == "nm" else None,
    )


def _stored(value: JSON, what: str) -> Stored:
    """Return the manifest entry of one section (FMT-049)."""
    section = as_object(value, what)
    compressed = "codec" in section or "raw_bytes" in section
    closed(section, {"bytes", "sha256"} | ({"codec", "raw_bytes"} if compressed else set()), what)
    nbytes, sha256 = as_natural(section["bytes"], f"bytes of {what}"), as_digest(section["sha256"], f"sha256 of {what}")
    if not compressed:
        return Stored(nbytes, sha256)
    codec = as_string(section["codec"], f"codec of {what}")
    # FMT-043: an unknown codec is a feature that this reader does not have
    if codec != ZSTD:
        raise FormatError("FMT-043", f"{what} has the codec {codec[:40]!r}, which this reader does not have")
    return Stored(nbytes, sha256, as_natural(section["raw_bytes"], f"raw_bytes of {what}"))


def _pattern(value: JSON, what: str) -> Pattern:
    pattern = closed(as_object(value, f"pattern of {what}"), {"axis", "m", "n"}, f"pattern of {what}")
    return Pattern(*(as_natural(pattern[key], f"{key} of {what}") for key in ("n", "m", "axis")))


def _companion(name: str, value: JSON) -> Companion:
    entry = closed(as_object(value, f"file {name!r}"), {"bytes", "sha256"}, f"file {name!r}")
    size = as_natural(entry["bytes"], f"bytes of file {name!r}")
    check_file_size(name, size)
    return Companion(size, as_digest(entry["sha256"], f"sha256 of file {name!r}"))


def _scales(value: JSON) -> dict[str, dict[str, str]]:
    return {name: as_strings(roles, f"scales of {name!r:.80}") for name, roles in as_object(value, "scales").items()}


def _delta(value: dict[str, JSON]) -> DeltaOf:
    closed(value, _DELTA_KEYS, "delta")
    changes: dict[str, tuple[str | None, str | None]] = {}
    for name, change in as_object(value["tensors"], "tensors of delta").items():
        check_name(name)
        ends = closed(as_object(change, f"delta of {name!r}"), {"base", "target"}, f"delta of {name!r}")
        base, target = (None if ends[k] is None else as_digest(ends[k], f"{k} of {name!r}") for k in ("base", "target"))
        changes[name] = (base, target)
    return DeltaOf(
        as_digest(value["base_sha256"], "base_sha256 of delta"),
        as_digest(value["target_sha256"], "target_sha256 of delta"),
        changes,
        as_strings(value["tied"], "tied of delta"),
        _scales(value["scales"]),
    )


def check_version(spec: str, what: str) -> str:
    """Return spec, after verifying that it is a version 1.x (FMT-042); this reader reads all of them (FMT-160)."""
    if not _VERSION.fullmatch(spec):
        raise FormatError(
            "FMT-042",
            f"{what} says version {spec[:40]!r}, this reader knows 1.0 and later minor versions of 1; update it",
        )
    return spec


def features(value: JSON, key: str) -> tuple[str, ...]:
    """Return a feature list, after verifying that it has legal names, sorted, each once (FMT-044)."""
    if not isinstance(value, list) or not _each(value, lambda x: isinstance(x, str) and bool(_FEATURE.fullmatch(x))):
        raise FormatError("FMT-044", f"{key} must be a list of feature names")
    if value != sorted(set(value)):
        raise FormatError("FMT-044", f"{key} must be sorted and name each feature once")
    return tuple(value)


def _each(value: list[JSON], test: Callable[[JSON], bool]) -> TypeGuard[list[str]]:
    return all(test(x) for x in value)
