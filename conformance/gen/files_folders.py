"""Cases of folders with parts, index and companions: read, written and refused (12.9)."""

import copy
from collections.abc import Callable
from typing import Any

from conformance.gen.files import F16, FLAGS, WIDE, content, on, raw_array, state
from conformance.gen.numbers import Area
from conformance.oracle import files, files_folders
from conformance.oracle.files import Tensor
from conformance.oracle.files_folders import INDEX, WHOLE, Folder

TENSORS = {"a": F16, "b": FLAGS, "c": WIDE, "d": on("U8", (2, 80), list(range(0, 160, 2)))}
MORE: dict[str, Any] = {"attributes": {"step": 7}, "tied": {"t": "d"}, "scales": {"a": {"scale": "c"}}}
COMPANIONS = {"config.json": b'{"a": 1}\n', "empty": b"", "Notes-2.txt": bytes(range(200))}
Tree = dict[str, bytes]


def raws(tree: Tree) -> dict[str, Any]:
    """Return the files of a folder as uint8 arrays, the form in which cases store them."""
    return {name: raw_array(raw) for name, raw in tree.items()}


def read_from(tree: Tree, tensors: dict[str, Tensor], companions: Tree, **more: Any) -> tuple[Any, Any]:
    """Return inputs and outputs of `folder.read`."""
    answer = content(tensors, **more) | {"state": state(tensors, **more), "files": raws(companions)}
    return {"files": raws(tree)}, answer


def written_to(tensors: dict[str, Tensor], part_bytes: int, companions: Tree, **more: Any) -> tuple[Any, Any]:
    """Return inputs and outputs of `folder.write`, in the encoding `auto`."""
    folder = files_folders.folder(tensors, part_bytes=part_bytes, companions=companions, **more)
    inputs = content(tensors, **more) | {"encoding": "auto", "part_bytes": part_bytes, "files": raws(companions)}
    return inputs, {"files": raws(folder.pack())}


def whole() -> Area:
    """Return cases of folders that are read, written and refused (FMT-085, FMT-094, FMT-100 to FMT-104)."""
    area = Area("folder", "bytes by chapter 12")
    sizes = [files_folders.size_of(name, t, None) for name, t in TENSORS.items()]
    big = sum(sizes)
    for name, clauses, part_bytes, tensors, companions, purpose in (
        ("one", "FMT-100", big, TENSORS, {}, "an index, or a part 1, where there is one part"),
        ("companions", "FMT-013 FMT-094", big, TENSORS, COMPANIONS, "companions lost, or beside the manifest"),
        (
            "two",
            "FMT-100 FMT-101 FMT-104",
            big - 1,
            TENSORS,
            COMPANIONS,
            "a part too full, or its description in each",
        ),
        ("each", "FMT-085 FMT-101", 1, TENSORS, {}, "a tensor that is split, or an empty part in front of it"),
        (
            "exact",
            "FMT-085",
            sizes[0] + sizes[1],
            TENSORS,
            {},
            "pads not counted, or a part that may not be full",
        ),
        ("pads", "FMT-085", sizes[0] + sizes[1] - 1, TENSORS, {}, "pads not counted"),
        ("nothing", "FMT-100", 64, {}, COMPANIONS, "parts of a checkpoint without tensors"),
        (
            "names",
            "FMT-085 FMT-009",
            64,
            {"é": FLAGS, "B": FLAGS, "\U0001f600": FLAGS, "\uffee": FLAGS},
            {},
            "parts not in order of bytes",
        ),
    ):
        more = MORE if tensors is TENSORS else {}
        folder = files_folders.folder(tensors, part_bytes=part_bytes, companions=companions, **more)
        inputs, answer = read_from(folder.pack(), tensors, companions, **more)
        area.add(f"read-{name}", "folder.read", f"{clauses} FMT-092 FMT-099", purpose, inputs, answer)
        inputs, answer = written_to(tensors, part_bytes, companions, **more)
        area.add(f"write-{name}", "folder.write", f"{clauses} FMT-080 FMT-092", purpose, inputs, answer)
    # there is one tensor more than a part may hold, because no smaller case fills a part by count; none has bytes
    many = {f"{i:04x}": Tensor("U8", (0,), b"") for i in range(files_folders.MOST + 1)}
    inputs, answer = written_to(many, big, {})
    area.add("write-count", "folder.write", "FMT-085", "a part of a tensor more, or less, than 4,096", inputs, answer)
    folder = files_folders.folder(TENSORS, part_bytes=big - 1, companions=COMPANIONS, **MORE)
    others = {"model.safetensors": b"x", "README.md": b"y", ".model.sparse": b"z", "my-model.sparse": b""}
    inputs, answer = read_from(folder.pack() | others, TENSORS, COMPANIONS, **MORE)
    area.add("read-others", "folder.read", "FMT-103", "other files taken for the checkpoint's", inputs, answer)
    _refused(area, folder)
    for name, change, clause in (
        ("part-size", {"part_bytes": 0}, "FMT-084"),
        ("weights", {"files": raws({"x.safetensors": b""})}, "FMT-013"),
        ("weights-upper", {"files": raws({"x.SafeTensors": b""})}, "FMT-013"),
        ("own-name", {"files": raws({"Model.Sparse.json": b""})}, "FMT-013"),
        ("hidden", {"files": raws({".git": b""})}, "FMT-013"),
        ("case", {"files": raws({"A": b"", "a": b""})}, "FMT-013"),
    ):
        inputs = written_to({"w": F16}, 64, {})[0] | change
        area.add(f"refuse-write-{name}", "folder.write", clause, "it is written all the same", inputs, refused=clause)
    return area


def _refused(area: Area, good: Folder) -> None:
    """Add folders that every reader refuses."""
    tree = good.pack()
    first, second = files_folders.part_names(2)

    def refuse(name: str, clauses: str, files_: Tree) -> None:
        purpose = "a folder that is taken as it is"
        area.add(f"refuse-{name}", "folder.read", clauses.split()[0], purpose, {"files": raws(files_)}, refused=clauses)

    def without(*names: str) -> Tree:
        return {name: raw for name, raw in tree.items() if name not in names}

    refuse("companion-flipped", "FMT-094", tree | {"config.json": b'{"a": 2}\n'})
    refuse("companion-longer", "FMT-094", tree | {"empty": b" "})
    refuse("companion-missing", "FMT-102", without("config.json"))
    refuse("part-missing", "FMT-102", without(second))
    refuse("no-index", "FMT-102 FMT-103", without(INDEX))
    refuse("nothing", "FMT-102", {})
    refuse("both", "FMT-103 FMT-102", tree | {WHOLE: files.pieces({"w": F16}).pack()})
    refuse("stray", "FMT-103", tree | {"Model.SPARSE.bak": b""})
    refuse("another-part", "FMT-103", tree | {"model.sparse-00003-of-00003.safetensors": tree[second]})

    def spoilt(name: str, clauses: str, change: Callable[[Folder], None]) -> None:
        other = copy.deepcopy(good)
        change(other)
        refuse(name, clauses, other.pack())

    def manifest(i: int, **new: Any) -> Callable[[Folder], None]:
        return lambda folder: folder.parts[i].manifest.update(new)

    spoilt("part-number", "FMT-104", manifest(1, part=3))
    spoilt("part-kind", "FMT-104", manifest(1, kind="other"))
    spoilt("part-attributes", "FMT-104", manifest(1, attributes={"step": 7}))
    spoilt("part-tied", "FMT-104", manifest(1, tied={"u": "d"}))
    companion = (
        files_folders.folder({}, companions={"config.json": COMPANIONS["config.json"]}).parts[0].manifest["files"]
    )
    spoilt("part-files", "FMT-104", manifest(1, files=companion))
    spoilt("part-scales", "FMT-104", manifest(1, scales={"d": {"scale": "c"}}))
    spoilt("order", "FMT-104 FMT-101", lambda folder: folder.parts.reverse())

    def empty(folder: Folder) -> None:
        last = files.pieces({}, kind="model")
        last.manifest["part"] = 3
        folder.parts.append(last)

    spoilt("empty-part", "FMT-104", empty)

    def index(name: str, clauses: str, change: Callable[[dict[str, Any]], Any]) -> None:
        entries = good.index()
        change(entries)
        refuse(name, clauses, tree | {INDEX: files.text(entries).encode()})

    index("index-more", "FMT-101 FMT-040", lambda entries: entries.update(more=1))
    index("index-less", "FMT-101 FMT-040", lambda entries: entries["metadata"].pop("manifests"))
    index("index-place", "FMT-101", lambda entries: entries["weight_map"].update(a=second))
    index("index-name", "FMT-101", lambda entries: entries["weight_map"].update(z=second))
    index("index-root", "FMT-104 FMT-101", lambda entries: entries["metadata"]["manifests"].reverse())
    refuse("index-spelling", "FMT-101 FMT-028", tree | {INDEX: tree[INDEX] + b"\n"})
    refuse("part-alone", "FMT-048 FMT-102 FMT-103", {WHOLE: tree[first]})


AREAS = (whole,)
