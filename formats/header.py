"""The manifest of a file: what JSON says, as typed records, both ways."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import TypeGuard

from formats import container, strict_json
from formats.errors import (
    BadDigest,
    BadFeatureList,
    UnknownDtype,
    UnknownFeature,
    UnknownKey,
    UnsupportedVersion,
    WrongCount,
    WrongType,
)
from formats.strict_json import JSON
from formats.validate import check_file_names, check_file_size, check_kind, check_name, check_shape

SPEC = "1.0"
FEATURES: frozenset[str] = frozenset()
"""Features beyond the core of version 1 that this reader has."""

_VERSION = re.compile(r"1\.(0|[1-9][0-9]{0,3})")
_FEATURE = re.compile(r"[a-z][a-z0-9-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MANIFEST_KEYS = {"attributes", "files", "kind", "optional", "part", "requires", "spec", "tensors", "tied"}
_ENTRY_KEYS = {"content_sha256", "dtype", "encoding", "nnz", "sections", "shape"}


@dataclass(frozen=True, slots=True)
class Entry:
    """What the manifest says of one tensor (FMT-045, FMT-046)."""

    dtype: str
    shape: tuple[int, ...]
    encoding: str
    nnz: int
    content_sha256: str
    sections: Mapping[str, str]
    """Role -> SHA-256 of the section."""


@dataclass(frozen=True, slots=True)
class Companion:
    """What the manifest says of one companion."""

    nbytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What one file says of itself (FMT-040)."""

    kind: str
    tensors: Mapping[str, Entry]
    attributes: dict[str, JSON] = field(default_factory=dict)
    tied: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, Companion] = field(default_factory=dict)
    part: int = 0
    """0 for a whole checkpoint, otherwise the number of the part, from 1."""
    requires: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    spec: str = SPEC


def manifest_text(manifest: Manifest) -> str:
    """Return the canonical JSON text of a manifest (FMT-028, FMT-040)."""
    tensors: dict[str, JSON] = {
        name: {
            "content_sha256": entry.content_sha256,
            "dtype": entry.dtype,
            "encoding": entry.encoding,
            "nnz": entry.nnz,
            "sections": dict(entry.sections),
            "shape": list(entry.shape),
        }
        for name, entry in manifest.tensors.items()
    }
    files: dict[str, JSON] = {n: {"bytes": f.nbytes, "sha256": f.sha256} for n, f in manifest.files.items()}
    return strict_json.canonical(
        {
            "attributes": manifest.attributes,
            "files": files,
            "kind": manifest.kind,
            "optional": list(manifest.optional),
            "part": manifest.part,
            "requires": list(manifest.requires),
            "spec": manifest.spec,
            "tensors": tensors,
            "tied": dict(manifest.tied),
        }
    )


def parse_manifest(text: str, what: str) -> Manifest:
    """Return the manifest that a text holds, with every rule that needs no section checked.

    Raises:
        FormatError: FMT-006, FMT-007, FMT-009, FMT-012 to FMT-014, FMT-024 to FMT-028, FMT-040 to FMT-047.
    """
    value = as_object(strict_json.parse(text.encode("utf-8", "surrogatepass"), what), what)
    # the version is judged first, so that a file of a later one is told as such
    spec = check_version(as_string(value.get("spec"), f"spec of {what}"), what)
    requires = features(value.get("requires"), "requires")
    optional = features(value.get("optional"), "optional")
    # FMT-043
    unknown = [name for name in requires if name not in FEATURES]
    if unknown:
        raise UnknownFeature(f"{what} requires {', '.join(unknown)}, which this reader does not have")
    closed(value, _MANIFEST_KEYS, what)
    kind = as_string(value["kind"], "kind")
    check_kind(kind)
    files = {name: _companion(name, entry) for name, entry in as_object(value["files"], "files").items()}
    check_file_names(files)
    tied = {a: as_string(t, f"tied {a!r}") for a, t in as_object(value["tied"], "tied").items()}
    tensors = {name: _entry(name, entry) for name, entry in as_object(value["tensors"], "tensors").items()}
    attributes = as_object(value["attributes"], "attributes")
    return Manifest(kind, tensors, attributes, tied, files, as_natural(value["part"], "part"), requires, optional, spec)


def _entry(name: str, value: JSON) -> Entry:
    what = f"tensor {name!r}"
    check_name(name)
    entry = closed(as_object(value, what), _ENTRY_KEYS, what)
    dtype = as_string(entry["dtype"], f"dtype of {what}")
    # FMT-006
    if dtype not in container.DTYPES:
        raise UnknownDtype(f"{what} has dtype {dtype!r}, expected one of {', '.join(container.DTYPES)}")
    dims = entry["shape"]
    if not isinstance(dims, list):
        raise WrongType(f"shape of {what} is not a list")
    shape = tuple(as_natural(d, f"shape of {what}") for d in dims)
    check_shape(shape, name)
    nnz = as_natural(entry["nnz"], f"nnz of {what}")
    # FMT-046
    if nnz > prod(shape):
        raise WrongCount(f"{what} has nnz {nnz}, more than the {prod(shape)} positions of shape {list(shape)}")
    digests = as_object(entry["sections"], f"sections of {what}")
    return Entry(
        dtype,
        shape,
        as_string(entry["encoding"], f"encoding of {what}"),
        nnz,
        as_digest(entry["content_sha256"], f"content_sha256 of {what}"),
        {role: as_digest(d, f"section {role!r} of {what}") for role, d in digests.items()},
    )


def _companion(name: str, value: JSON) -> Companion:
    entry = closed(as_object(value, f"file {name!r}"), {"bytes", "sha256"}, f"file {name!r}")
    size = as_natural(entry["bytes"], f"bytes of file {name!r}")
    check_file_size(name, size)
    return Companion(size, as_digest(entry["sha256"], f"sha256 of file {name!r}"))


def closed(value: dict[str, JSON], keys: set[str], what: str) -> dict[str, JSON]:
    """Return value if it has exactly the keys.

    Raises:
        UnknownKey: FMT-040.
    """
    if set(value) != keys:
        many, few = sorted(set(value) - keys), sorted(keys - set(value))
        raise UnknownKey(f"{what} has the unknown keys {many} and lacks {few}")
    return value


def check_version(spec: str, what: str) -> str:
    """Verify FMT-042 and return spec."""
    if not _VERSION.fullmatch(spec):
        raise UnsupportedVersion(
            f"{what} says version {spec[:40]!r}, this reader knows 1.0 and later minor versions of 1"
        )
    return spec


def features(value: JSON, key: str) -> tuple[str, ...]:
    """Return a feature list: names, sorted, each once (FMT-044)."""
    if not isinstance(value, list) or not _each(value, lambda x: isinstance(x, str) and bool(_FEATURE.fullmatch(x))):
        raise BadFeatureList(f"{key} must be a list of feature names")
    if value != sorted(set(value)):
        raise BadFeatureList(f"{key} must be sorted and name each feature once")
    return tuple(value)


def _each(value: list[JSON], test: Callable[[JSON], bool]) -> TypeGuard[list[str]]:
    return all(test(x) for x in value)


def as_object(value: JSON, what: str) -> dict[str, JSON]:
    """Return value if it is an object (FMT-041)."""
    if not isinstance(value, dict):
        raise WrongType(f"{what} is not an object")
    return value


def as_string(value: JSON, what: str) -> str:
    """Return value if it is a string (FMT-041)."""
    if not isinstance(value, str):
        raise WrongType(f"{what} is {value!r:.40}, expected a string")
    return value


def as_natural(value: JSON, what: str) -> int:
    """Return value if it is an integer from 0 (FMT-041)."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise WrongType(f"{what} is {value!r:.40}, expected an integer from 0")
    return value


def as_digest(value: JSON, what: str) -> str:
    """Return value if it is a SHA-256 in hexadecimal (FMT-047)."""
    text = as_string(value, what)
    if not _SHA256.fullmatch(text):
        raise BadDigest(f"{what} is {text[:80]!r}, expected 64 lower-case hexadecimal digits")
    return text
