"""Checkpoint folders built from chapter 12: parts, index and companions (FMT-085, FMT-094, FMT-100 to FMT-104)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from conformance.oracle import files
from conformance.oracle.files import Pieces, Tensor

WHOLE, INDEX = "model.sparse.safetensors", "model.sparse.index.json"
MOST = 4096
"""The most tensors that a part may have (FMT-085)."""


@dataclass
class Folder:
    """The pieces of a folder; a case may corrupt one of them before it calls `pack`.

    Attributes:
        parts: the files of tensors, in order.
        companions: bytes of the companions by name.
    """

    parts: list[Pieces]
    companions: dict[str, bytes] = field(default_factory=dict)

    def pack(self) -> dict[str, bytes]:
        """Return the files by name, with digests computed from the pieces as they are now."""
        tree = dict(self.companions)
        if len(self.parts) == 1:
            return tree | {WHOLE: self.parts[0].pack()}
        names = part_names(len(self.parts))
        tree |= {name: part.pack() for name, part in zip(names, self.parts, strict=True)}
        return tree | {INDEX: files.text(self.index()).encode()}

    def index(self) -> dict[str, Any]:
        """Return the index (FMT-101)."""
        names = part_names(len(self.parts))
        roots = [files.digest(files.text(part.manifest).encode()) for part in self.parts]
        places = {t: name for name, part in zip(names, self.parts, strict=True) for t in part.manifest["tensors"]}
        spec = self.parts[0].manifest["spec"]
        return {"metadata": {"manifests": roots, "spec": spec}, "weight_map": places}


def part_names(count: int) -> list[str]:
    """Return the names of the parts (FMT-100)."""
    return [f"model.sparse-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]


def size_of(name: str, t: Tensor, encodings: Mapping[str, str] | None) -> int:
    """Return the bytes of the sections and pads of a tensor."""
    file = files.pieces({name: t}, dict(encodings) if encodings else None)
    return sum(-(-len(section.stored) // 64) * 64 for section in file.sections)


def divided(tensors: Mapping[str, Tensor], encodings: Mapping[str, str] | None, part_bytes: int) -> list[list[str]]:
    """Return the names of the tensors of each part, in order (FMT-085)."""
    parts: list[list[str]] = [[]]
    total = 0
    for name in sorted(tensors, key=str.encode):
        size = size_of(name, tensors[name], encodings)
        if parts[-1] and (total + size > part_bytes or len(parts[-1]) == MOST):
            parts.append([])
            total = 0
        parts[-1].append(name)
        total += size
    return parts


def folder(
    tensors: Mapping[str, Tensor],
    encodings: Mapping[str, str] | None = None,
    *,
    part_bytes: int = 5_000_000_000,
    companions: Mapping[str, bytes] | None = None,
    **more: Any,
) -> Folder:
    """Return the pieces of the folder of a checkpoint; more has kind, attributes, tied and scales."""
    groups, beside = divided(tensors, encodings, part_bytes), dict(companions or {})
    parts = []
    for i, names in enumerate(groups):
        # FMT-104: only the first part has attributes, files, scales and tied names
        own = more if i == 0 else {"kind": more.get("kind", "model")}
        chosen = {name: encodings[name] for name in names if name in encodings} if encodings else None
        part = files.pieces({name: tensors[name] for name in names}, chosen, **own)
        part.manifest["part"] = 0 if len(groups) == 1 else i + 1
        if i == 0:
            part.manifest["files"] = {n: {"bytes": len(raw), "sha256": files.digest(raw)} for n, raw in beside.items()}
        parts.append(part)
    return Folder(parts, beside)
