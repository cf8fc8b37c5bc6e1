"""Cases of Hugging Face folders that every converter refuses (FMT-120, FMT-121, FMT-013, FMT-084, FMT-126)."""

import json
from collections.abc import Callable
from typing import Any

from conformance.gen.numbers import Area
from conformance.oracle import files_convert
from conformance.oracle.files import Tensor
from conformance.oracle.files_convert import INDEX, WHOLE, dense, framed, stock
from conformance.oracle.train_around import rounded_bits

Tree = dict[str, bytes]
Asked = Callable[..., dict[str, Any]]
GOOD = dense("F16", (1, 9), [0] * 8 + [1])
TINY = dense("U8", (1,), [7])
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def refused(area: Area, inputs_of: Asked) -> None:
    """Add a case for every folder that a converter refuses."""

    def refuse(name: str, clauses: str, tree: Tree, **more: Any) -> None:
        purpose = "a folder that is taken as it is"
        inputs = inputs_of(tree, **more)
        area.add(f"refuse-{name}", "convert.from_hf", clauses.split()[0], purpose, inputs, refused=clauses)

    for name, tree in folders().items():
        refuse(f"folder-{name}", "FMT-120", tree)
    for name, raw in files().items():
        refuse(f"file-{name}", "FMT-121", {WHOLE: raw})
    good = stock({"w": GOOD})
    flags = stock({"w": dense("BOOL", (3,), [0, 2, 1])})
    refuse("shard", "FMT-121", {FIRST: good[:-1], INDEX: files_convert.index({"w": FIRST})})
    refuse("flags", "FMT-070 FMT-121", {WHOLE: flags})
    for name, tensor_name in (("hash", "a#b"), ("control", "a\n"), ("none", ""), ("long", "a" * 513)):
        refuse(f"name-{name}", "FMT-009 FMT-121", {WHOLE: stock({tensor_name: TINY})})
    for name, entry in (
        ("space", "my notes.txt"),
        ("accent", "é.txt"),
        ("own", "Model.Sparse.txt"),
    ):
        refuse(f"companion-{name}", "FMT-013 FMT-123", {WHOLE: good, entry: b""})
    refuse("companion-case", "FMT-013 FMT-123", {WHOLE: good, "A.json": b"", "a.json": b""})
    for name, more in (
        ("zeros", {"zeros": "negative"}),
        ("encoding", {"encoding": "coo"}),
        ("pattern", {"encoding": "nm:2:4"}),
    ):
        refuse(f"option-{name}", "FMT-127 FMT-084" if name == "zeros" else "FMT-084 FMT-051", {WHOLE: good}, **more)
    for new in ("F8_E4M3", "f16", "C64"):
        refuse(f"cast-{new}", "FMT-126 FMT-084", {WHOLE: good}, cast=new)
    for name, old, value, new in (
        ("half", "F32", 65520.0, "F16"),
        ("half-of-brain", "BF16", -65536.0, "F16"),
        ("half-of-double", "F64", 65520.0, "F16"),
        ("brain", "F32", (2 - 2.0**-8) * 2.0**127, "BF16"),
        ("brain-of-double", "F64", 1e300, "BF16"),
        ("single", "F64", (2 - 2.0**-24) * 2.0**127, "F32"),
    ):
        pattern = rounded_bits(value, old)
        sparse = stock({"w": dense(old, (1, 9), [0] * 8 + [pattern])})
        flat = stock({"b": dense(old, (2,), [0, pattern])})
        refuse(f"overflow-{name}", "FMT-126", {WHOLE: sparse}, cast=new)
        if name == "half":
            refuse("overflow-flat", "FMT-126", {WHOLE: flat}, cast=new)


def folders() -> dict[str, Tree]:
    """Return folders whose index and files disagree (FMT-120)."""
    first, second = stock({"a": TINY, "c": TINY}), stock({"b": TINY})
    right = {"a": FIRST, "c": FIRST, "b": SECOND}

    def tree(change: dict[str, Any], *gone: str) -> Tree:
        places = {name: part for name, part in (right | change).items() if name not in gone}
        return {FIRST: first, SECOND: second, INDEX: files_convert.index(places)}

    whole = tree({})
    return {
        "empty": {},
        "no-weights": {"config.json": b"{}", "pytorch_model.bin": b""},
        "no-index": {FIRST: first, SECOND: second},
        "missing-shard": {FIRST: first, INDEX: whole[INDEX]},
        "another-tensor": tree({"d": FIRST}),
        "a-tensor-less": tree({}, "c"),
        "another-shard": tree({"c": SECOND}),
        "exchanged": tree({"a": SECOND, "b": FIRST}),
        "leads-out": tree({"b": f"../{SECOND}"}),
        "leads-to-itself": tree({"b": f"./{SECOND}"}),
        "leads-to-the-root": tree({"b": f"/{SECOND}"}),
        "hidden-shard": tree({"b": ".b.safetensors"}) | {".b.safetensors": second},
        "another-kind": tree({"b": "b.bin"}) | {"b.bin": second},
        "upper-case": tree({"b": "b.SAFETENSORS"}) | {"b.SAFETENSORS": second},
        "no-text": tree({"b": 1}),
        "twice": whole | {SECOND: stock({"b": TINY, "c": TINY})},
        "no-map": whole | {INDEX: b'{"metadata": {}}'},
        "a-list": whole | {INDEX: b"[]"},
        "map-a-list": whole | {INDEX: b'{"weight_map": []}'},
        "no-json": whole | {INDEX: whole[INDEX][:-1]},
        "no-utf-8": whole | {INDEX: whole[INDEX].replace(b'"total_size"', b'"\xff"')},
    }


def files() -> dict[str, bytes]:
    """Return files that are not valid safetensors, or exceed a bound (FMT-121)."""

    def foreign(header: Any, data: int) -> bytes:
        return framed(header if isinstance(header, bytes) else json.dumps(header).encode(), bytes(data))

    def entry(dtype: Any = "U8", shape: Any = (4,), begin: Any = 0, end: Any = 4, **more: Any) -> dict[str, Any]:
        return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]} | more

    less = {"dtype": "U8", "shape": [4]}
    raw = stock({"w": Tensor("U8", (4,), b"abcd")})
    return {
        "empty": b"",
        "seven-bytes": bytes(7),
        "short": foreign({"a": entry()}, 3),
        "long": foreign({"a": entry()}, 5),
        "hole": foreign({"a": entry(), "b": entry(begin=5, end=9)}, 9),
        "hole-in-front": foreign({"a": entry(begin=1, end=5)}, 5),
        "overlap": foreign({"a": entry(), "b": entry(begin=2, end=6)}, 6),
        "shared": foreign({"a": entry(), "b": entry()}, 4),
        "backwards": foreign({"a": entry(begin=4, end=0)}, 4),
        "other-size": foreign({"a": entry(shape=(5,))}, 4),
        "other-dtype": foreign({"a": entry("F32", (4,))}, 4),
        "wrapping-shape": foreign({"a": entry(shape=(2**32, 2**32, 4))}, 4),
        "hidden-by-zero": foreign({"a": entry(shape=(2**50, 0, 2**50), end=0)}, 0),
        "nine-dimensions": foreign({"a": entry(shape=(1,) * 8 + (4,))}, 4),
        "unknown-dtype": foreign({"a": entry("C128", (1,), 0, 16)}, 16),
        "small-dtype-case": foreign({"a": entry("u8")}, 4),
        "dtype-none": foreign({"a": entry("NONE", (4,), 0, 0)}, 0),
        "dtype-number": foreign({"a": entry(8)}, 4),
        "odd-halves": foreign({"a": entry("F4", (3,), 0, 2)}, 2),
        "odd-six-bits": foreign({"a": entry("F6_E3M2", (3,), 0, 3)}, 3),
        "negative-shape": foreign({"a": entry(shape=(-4,))}, 4),
        "fraction": foreign(b'{"a":{"dtype":"U8","shape":[4.0],"data_offsets":[0,4]}}', 4),
        "true-for-one": foreign({"a": entry(shape=(True,), end=1)}, 1),
        "three-offsets": foreign({"a": entry() | {"data_offsets": [0, 4, 4]}}, 4),
        "one-key-more": foreign({"a": entry(more=1)}, 4),
        "one-key-less": foreign({"a": less}, 4),
        "header-past-the-end": (10**6).to_bytes(8, "little") + raw[8:],
        "header-one-past": (len(raw) - 7).to_bytes(8, "little") + raw[8:],
        "header-negative": (2**64 - 1).to_bytes(8, "little") + raw[8:],
        "not-json": foreign(b"{]", 0),
        "not-a-number": foreign(b'{"a":{"dtype":"U8","shape":[NaN],"data_offsets":[0,4]}}', 4),
        "mark": foreign(b"\xef\xbb\xbf{}", 0),
        "not-utf-8": foreign(b'{"\xff":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}', 4),
        "list": foreign(b"[]", 0),
        "entry-a-list": foreign({"a": []}, 0),
        "two-of-a-name": foreign(b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},'
                                 b'"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}', 0),
    }  # fmt: skip
