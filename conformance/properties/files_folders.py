"""Properties of folders: parts, index and companions (12.9)."""

from conformance.answers import answer
from conformance.answers.files_content import raw_array
from conformance.oracle import files_folders
from conformance.oracle.files import Tensor, on
from conformance.properties.draws import Draw
from conformance.properties.files import checkpoint
from conformance.properties.trial import Trial, property_of

_NAMES = (
    "a",
    "model.layers.0.q.weight",
    "model.layers.10.q.weight",
    "model.layers.9.q.weight",
    "é",
    "\uffee",
    "\U0001f600",
    "Z",
    "a!",
    "a.b",
    "lm_head.weight",
)

_COMPANIONS = ("config.json", "LICENSE", "tokenizer.json", "notes_2.txt")
_SPOILT = ("a companion of other bytes", "a missing part", "a stray entry", "an index that says otherwise")


@property_of(
    "folder.both-ways",
    "FMT-085 FMT-094 FMT-100 FMT-101 FMT-104",
    "folders",
    "folder.read folder.write",
    sees=("one part", "several parts", "a part that is full to the byte", "companions"),
    cost=2,
)
def _both_ways(d: Draw, t: Trial) -> None:
    """A checkpoint is written in the parts that chapter 12 prescribes, and is the same when it is read from them."""
    tensors: dict[str, Tensor] = {}
    for name in d.some(_NAMES, d.integer(0, 6)):
        rows, columns = d.shape(9)
        tensors[name] = on(d.choice(("U8", "F32", "F16", "NONE")), (rows, columns), d.subset(rows * columns))
    files = {n: raw_array(bytes(d.integers(d.integer(0, 40), 0, 255))) for n in d.some(_COMPANIONS, d.integer(0, 3))}
    sizes = [files_folders.size_of(name, tensors[name], None) for name in sorted(tensors, key=str.encode)]
    part_bytes = d.choice((sum(sizes[:2]), sum(sizes[:3]), 64, 10**6, sum(sizes[:2]) - 1, max(sizes, default=1)))
    part_bytes = max(1, part_bytes)
    inputs = checkpoint(tensors, {"step": 7} if d.flag() else {}) | {"part_bytes": part_bytes, "files": files}
    parts = len(files_folders.divided(tensors, None, part_bytes))
    t.saw("one part" if parts == 1 else "several parts")
    t.saw("a part that is full to the byte", parts > 1 and part_bytes in (sum(sizes[:2]), sum(sizes[:3])))
    t.saw("companions", files)
    t.case("folder.write", inputs)
    t.case("folder.read", {"files": answer("folder.write", inputs).outputs["files"]})


@property_of("folder.refused", "FMT-094 FMT-101 FMT-102 FMT-103", "folders", "folder.read", sees=_SPOILT, cost=2)
def _refused(d: Draw, t: Trial) -> None:
    """A folder with something missing, changed or added is refused."""
    tensors = {name: on("U8", (2, 40), d.subset(80)) for name in d.some(_NAMES, d.integer(2, 5))}
    files = {name: bytes(d.integers(d.integer(1, 40), 0, 255)) for name in d.some(_COMPANIONS, 2)}
    tree = files_folders.folder(tensors, part_bytes=64, companions=files).pack()
    spoil = d.choice(_SPOILT)
    t.saw(spoil)
    if spoil == _SPOILT[0]:
        name = d.choice(sorted(files))
        at = d.integer(0, len(tree[name]) - 1)
        tree[name] = tree[name][:at] + bytes([tree[name][at] ^ 1 << d.integer(0, 7)]) + tree[name][at + 1 :]
    elif spoil == _SPOILT[1]:
        del tree[d.choice(files_folders.part_names(len(tensors)))]
    elif spoil == _SPOILT[2]:
        tree[d.choice(("model.sparse", "MODEL.SPARSE.bak", "model.sparse-00001", "Model.sparse.index.json.1"))] = b""
    else:
        first, second = files_folders.part_names(len(tensors))[:2]
        tree[files_folders.INDEX] = tree[files_folders.INDEX].replace(second.encode(), first.encode(), 1)
    t.case("folder.read", {"files": {name: raw_array(raw) for name, raw in tree.items()}})


@property_of(
    "file.compress",
    "FMT-140 FMT-141 FMT-142 FMT-050",
    "compression",
    "file.compress",
    sees=("a section that must be compressed", "noise", "several tensors"),
)
def _compress(d: Draw, t: Trial) -> None:
    """A compressed file expands to the file that is written without compression."""
    tensors: dict[str, Tensor] = {}
    for name in d.some(_NAMES, d.integer(1, 3)):
        rows, columns, dtype = d.integer(1, 6), d.integer(1, 90), d.choice(("U8", "F32", "F16", "I64"))
        at = d.subset(rows * columns)
        size = len(at) * {"U8": 1, "F32": 4, "F16": 2, "I64": 8}[dtype]
        noisy = d.flag()
        bits = bytes(d.integers(size, 0, 255)) if noisy else bytes([d.integer(0, 255)]) * size
        t.saw("noise", noisy and size)
        tensors[name] = on(dtype, (rows, columns), at, bits)
        t.saw("a section that must be compressed", not noisy and size > 200)
    t.saw("several tensors", len(tensors) > 1)
    t.case("file.compress", checkpoint(tensors))
