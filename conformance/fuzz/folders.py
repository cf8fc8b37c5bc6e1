"""Checkpoint folders that mutations can change before they are written: parts, index and companions (12.9)."""

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import pairwise
from random import Random
from typing import Any

from conformance.fuzz import grow, mutate
from conformance.fuzz.parts import CONTENT, NOTHING, SECTIONS, Parts
from conformance.fuzz.strings import a_string
from conformance.oracle import files
from conformance.oracle.files import Pieces

WHOLE, INDEX = "model.sparse.safetensors", "model.sparse.index.json"

Tree = dict[str, bytes | None]
"""The files of a folder: name -> bytes, or None for a subfolder in the place of a file."""


@dataclass
class Folder:
    """The pieces of a folder; any of them may be changed before `pack` puts them together."""

    parts: list[Parts]
    companions: dict[str, bytes] = field(default_factory=dict)
    of_index: list[Callable[[Any], Any]] = field(default_factory=list)
    """mutations of the index: each takes the index that fits the parts and returns another"""
    of_index_text: list[Callable[[bytes], bytes]] = field(default_factory=list)
    of_tree: list[Callable[[Tree], object]] = field(default_factory=list)
    """mutations of the files, applied last"""
    numbered: bool = True
    """whether `pack` writes the number of each part into its manifest (FMT-104)"""

    def pack(self) -> Tree:
        """Return the files: compute digests of companions and the index from the parts, then apply the mutations."""
        first = self.parts[0].manifest if self.parts else None
        if isinstance(first, dict) and isinstance(first.get("files"), dict):
            for name, raw in self.companions.items():
                first["files"][name] = {"bytes": len(raw), "sha256": sha256(raw).hexdigest()}
        alone = len(self.parts) == 1
        for number, part in enumerate(self.parts, start=1):
            if self.numbered and isinstance(part.manifest, dict):
                part.manifest["part"] = 0 if alone else number
        raws = [_packed(part) for part in self.parts]
        names = [part_name(i, len(raws)) for i in range(1, len(raws) + 1)]
        tree: Tree = dict(self.companions)
        tree |= {WHOLE: raws[0]} if alone else dict(zip(names, raws, strict=True))
        if not alone:
            index: Any = {
                "metadata": {"manifests": [root_of(raw) for raw in raws], "spec": _spec(first)},
                "weight_map": {t: name for name, part in zip(names, self.parts, strict=True) for t in part.entries},
            }
            for change in self.of_index:
                index = change(index)
            text = files.text(index).encode("utf-8", "surrogatepass")
            for respell in self.of_index_text:
                text = respell(text)
            tree[INDEX] = text
        for spoil in self.of_tree:
            spoil(tree)
        return tree


def part_name(number: int, count: int) -> str:
    """Return the file name of a part (FMT-100)."""
    return f"model.sparse-{number:05}-of-{count:05}.safetensors"


def _packed(part: Parts) -> bytes:
    try:
        return part.pack()
    except mutate.CANNOT:
        return b""


def _spec(manifest: Any) -> Any:
    return manifest.get("spec", "1.0") if isinstance(manifest, dict) else "1.0"


def root_of(raw: bytes) -> str:
    """Return the root digest of a file, or the digest of no bytes if the file is too broken (FMT-092)."""
    try:
        header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
        return sha256(header["__metadata__"]["seft.manifest"].encode()).hexdigest()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return sha256(b"").hexdigest()


def divided(chance: Random, pieces: Pieces) -> Folder:
    """Return a checkpoint as a folder of one to four parts (FMT-085)."""
    names = sorted(pieces.manifest["tensors"])
    most = min(len(names), chance.choice((1, 2, 2, 3, 4)))
    cuts = [0, *sorted(chance.sample(range(1, len(names)), most - 1)), len(names)] if most > 1 else [0, len(names)]
    parts = []
    for begin, end in pairwise(cuts):
        own = set(names[begin:end])
        manifest = deepcopy(pieces.manifest)
        manifest["tensors"] = {name: manifest["tensors"][name] for name in names[begin:end]}
        if begin:
            manifest |= {"attributes": {}, "files": {}, "scales": {}, "tied": {}}
            manifest.pop("delta", None)
        codecs = {"codec" in s for entry in manifest["tensors"].values() for s in entry["sections"].values()}
        manifest["requires"] = [f for f in manifest["requires"] if f != "zstd" or True in codecs]
        parts.append(Parts(manifest, [s for s in pieces.sections if s.name.rpartition("#")[0] in own]))
    companions = {n: chance.randbytes(chance.randrange(9)) for n in ("config.json", "a") if chance.random() < 0.3}
    return Folder(parts, companions)


# mutations ---------------------------------------------------------------------------------------


def in_part(chance: Random, folder: Folder) -> None:
    """Apply one mutation of single files to a part; `pack` makes index and digests fit."""
    part, second = chance.choice(folder.parts), chance.choice(folder.parts)
    part.seal = chance.choices((CONTENT, SECTIONS, NOTHING), (8, 1, 1))[0]
    mutate.once(chance, part, second if second is not part else deepcopy(part))


def across(chance: Random, folder: Folder) -> None:
    """Make parts contradict each other (FMT-104)."""
    kind, at = chance.randrange(10), chance.randrange(len(folder.parts))
    part, other = folder.parts[at], chance.choice(folder.parts)
    m = part.manifest
    if kind == 0:
        folder.numbered = False
        m["part"] = chance.choice((0, 1, 2, 3, 99999, m["part"] + 1))
    elif kind == 1:
        m["kind"] = chance.choice(grow.KINDS)
    elif kind == 2:
        m["spec"] = chance.choice(("1.1", "1.0", "1.9"))
    elif kind == 3:
        name = chance.choice([*part.entries, "nothing"])
        links = {"attributes": {"a": 1}, "tied": {"tied": name}, "scales": {name: {"scale": "w"}}}
        key = chance.choice(sorted(links))
        m[key] = links[key]
    elif kind == 4:
        m["files"] = {"other": {"bytes": 0, "sha256": sha256(b"").hexdigest()}}
    elif kind in (5, 6) and part is not other:
        # kind 5 moves a tensor to another part, kind 6 copies it there
        name = chance.choice(sorted(part.entries))
        other.manifest["tensors"][name] = part.entries[name]
        own = [s for s in part.sections if s.name.rpartition("#")[0] == name]
        other.sections = sorted([*other.sections, *own], key=lambda s: s.name.rpartition("#")[::2])
        if kind == 5:
            del m["tensors"][name]
            part.sections = [s for s in part.sections if s not in own]
    elif kind == 7:
        folder.parts.insert(chance.randint(0, len(folder.parts)), folder.parts.pop(at))
    elif kind == 8 and len(folder.parts) > 1:
        folder.parts.pop(at)
    else:
        folder.parts.insert(chance.randint(0, len(folder.parts)), deepcopy(part))


def index(chance: Random, folder: Folder) -> None:
    """Change the content of the index, or the bytes around its text (FMT-101)."""
    if chance.random() < 0.1:
        form = chance.choice((b"%s\n", b" %s", b"\xef\xbb\xbf%s", b"[%s]", b"%.20s", b"%s%%", b"%.0s"))
        folder.of_index_text.append(lambda text: form % text)
        return
    change = chance.choice((_roots, _weight_map, _anything))

    def kept(value: Any) -> Any:
        try:
            return change(chance, value)
        except mutate.CANNOT:
            return value

    folder.of_index.append(kept)


def _roots(chance: Random, value: Any) -> Any:
    """Change the root digests or the version in the index."""
    kind, roots = chance.randrange(4), value["metadata"]["manifests"]
    if kind == 0:
        roots.pop(chance.randrange(len(roots)))
    elif kind == 1:
        chance.shuffle(roots)
    elif kind == 2:
        roots[chance.randrange(len(roots))] = chance.choice(("0" * 64, "A" * 64, "", 0, roots[0].upper()))
    else:
        value["metadata"]["spec"] = chance.choice(("1.1", "2.0", "", 1, None))
    return value


def _weight_map(chance: Random, value: Any) -> Any:
    """Change the part that the index names for a tensor."""
    kind, weights = chance.randrange(3), value["weight_map"]
    if kind == 0:
        weights[chance.choice(sorted(weights))] = chance.choice((*weights.values(), WHOLE, "", "../x", 1))
    elif kind == 1:
        weights.pop(chance.choice(sorted(weights)))
    else:
        weights[a_string(chance, "w")] = chance.choice(sorted(weights.values()))
    return value


def _anything(chance: Random, value: Any) -> Any:
    """Change one random value of the index."""
    path, old = chance.choice(mutate.walk(value))
    if not path:
        return mutate.other(chance, old)
    owner = value
    for key in path[:-1]:
        owner = owner[key]
    owner[path[-1]] = mutate.other(chance, old)
    return value


def tree(chance: Random, folder: Folder) -> None:
    """Remove, add, rename or corrupt files (FMT-094, FMT-102, FMT-103)."""
    kind = chance.randrange(9)

    def change(files: Tree) -> None:
        if not files:
            return
        name = chance.choice(sorted(files))
        raw = files[name] or b""
        if kind == 0:
            files.pop(name)
        elif kind == 1:
            files[chance.choice((name.upper(), f"{name}~", name.replace("0000", "000", 1)))] = files.pop(name)
        elif kind == 2:
            files[chance.choice(("model.sparse", "MODEL.sparse.x", "model.sparse-00001-of-00009.safetensors"))] = raw
        elif kind == 3:
            files[chance.choice(("model.safetensors", "notes.txt", ".hidden", "model.spars"))] = raw
        elif kind == 4:
            files[name] = raw[: chance.randint(0, len(raw))]
        elif kind == 5:
            files[name] = raw + chance.choice((b"\0", b" ", b"\n", bytes(64)))
        elif kind == 6:
            files[name] = None
        elif kind == 7:
            files[chance.choice(sorted(files))] = raw
        else:
            at = chance.randint(0, len(raw))
            files[name] = raw[:at] + chance.randbytes(1) + raw[at + 1 :]

    folder.of_tree.append(change)


def companion(chance: Random, folder: Folder) -> None:
    """Add a companion, and in half of the cases let its bytes differ from the manifest (FMT-013, FMT-094)."""
    name = chance.choice(("config.json", "a", "b.bin", "A", "x.txt"))
    raw = chance.randbytes(3)
    folder.companions[name] = raw
    if chance.random() < 0.5:
        other = chance.choice((raw + b"\0", b"", b"abc", None))
        folder.of_tree.append(lambda files: files.__setitem__(name, other))


WITHIN: tuple[tuple[Callable[[Random, Folder], None], int], ...] = (
    (in_part, 30),
    (across, 22),
    (index, 22),
    (tree, 18),
    (companion, 8),
)


def spoil(chance: Random, folder: Folder) -> None:
    """Apply one to three mutations to a folder; a mutation that does not apply is skipped."""
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        chosen = chance.choices([m for m, _ in WITHIN], [weight for _, weight in WITHIN])[0]
        try:
            chosen(chance, folder)
        except mutate.CANNOT:
            continue
