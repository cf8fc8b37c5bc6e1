"""Properties of sizes beyond every boundary of an index type: layers."""

import numpy as np

from conformance.answers.answer import ids
from conformance.properties.draws import Draw, Many
from conformance.properties.large import BEYOND, beyond
from conformance.properties.trial import Trial, property_of


@property_of(
    "layer.large",
    "LYR-001 LYR-002 LYR-003 LYR-010 LYR-011",
    "layers",
    "layer.embedding layer.linear layer.rmsnorm layer.swiglu layer.cross_entropy",
    sees=(BEYOND, "a token above 65,536"),
    seeded=1,
)
def _layers(d: Draw, t: Trial) -> None:
    """Layers of large vocabularies and widths follow the written formulas."""
    many, n = Many(d), 65_600 + d.integer(0, 99)
    t.saw(BEYOND, n > 65_536)
    tokens = np.concatenate([many.subset(n - 1, 300), [n - 1, 0, n - 1]])
    t.saw("a token above 65,536", int(tokens.max()) > 65_536)
    weight, dy = many.lattice((n, 2), 8), many.lattice((len(tokens), 2), 8)
    t.case("layer.embedding", {"weight": weight, "dy": dy, "tokens": tokens})
    w, x, dy = many.lattice((257, 259), 4), many.lattice((3, 259), 4), many.lattice((3, 257), 4)
    t.case("layer.linear", {"x": x, "weight": w, "dy": dy})
    x, weight, dy = many.lattice((2, n), 99) / 32, many.lattice((n,), 9) / 8, many.lattice((2, n), 9) / 8
    t.case("layer.rmsnorm", {"x": x, "weight": weight, "eps": 2.0**-10, "dy": dy})
    gate, up, dy = many.lattice((n,), 99) / 32, many.lattice((n,), 9) / 8, many.lattice((n,), 9) / 8
    t.case("layer.swiglu", {"gate": gate, "up": up, "dy": dy})
    logits, targets = many.lattice((2, n), 99) / 32, ids([n - 1, d.integer(0, n - 1)])
    t.case("layer.cross_entropy", {"logits": logits, "targets": targets, "count": 2, "dloss": 1.0})


_ROWS, _WIDE, _LONG = "two rows of 16 tokens with masks", "heads of more than 128 numbers", "more than 512 queries"


@property_of(
    "layer.attention-large",
    "LYR-007 LYR-008 LYR-009",
    "layers",
    "layer.attention",
    sees=(BEYOND, _ROWS, _WIDE, "more than 128 queries", _LONG),
    seeded=1,
)
def _attention(d: Draw, t: Trial) -> None:
    """Attention over more tokens than a program takes at once is the written softmax, row by row."""
    many = Many(d)
    for what, rows, length, heads, kv, width, window in (
        (_ROWS, 2, beyond(d, 16), 4, 2, 4, None),
        (_WIDE, 2, beyond(d, 64), 4, 2, beyond(d, 128) + 1, d.integer(20, 60)),
        ("more than 128 queries", 2, beyond(d, 128), 2, 1, 2, None),
        (_LONG, 1, beyond(d, 512), 1, 1, 2, d.integer(130, 200)),
    ):
        q, dy = (many.lattice((rows, length, heads, width), 8) / 8 for _ in range(2))
        k, v = (many.lattice((rows, length, kv, width), 8) / 8 for _ in range(2))
        # one token in five is padding, each row has other ones, and the first queries of a row see no key
        mask = many.integers(rows * length, 0, 4).reshape(rows, length) > 0
        mask[-1, :2] = False
        t.saw(what)
        t.saw(BEYOND, q.size > 65_536)
        t.case("layer.attention", {"q": q, "k": k, "v": v, "mask": mask, "window": window, "dy": dy})


@property_of(
    "layer.rope-large", "LYR-004 LYR-005", "layers", "layer.rope", sees=(BEYOND, "more than 512 tokens"), seeded=1
)
def _rope(d: Draw, t: Trial) -> None:
    """Every pair of many heads and tokens rotates by position times frequency."""
    size = (1, beyond(d, 512), 3, 2 * beyond(d, 32))
    many, settings = Many(d), {"type": "default", "base": 10000.0, "max_position_embeddings": 2048}
    x, dy = (many.lattice(size, 8) / 8 for _ in range(2))
    t.saw(BEYOND, x.size > 65_536)
    t.saw("more than 512 tokens", size[1] > 512)
    t.case("layer.rope", {"x": x, "rope": settings, "dy": dy})
