"""Properties of sizes beyond every boundary of an index type: kernels."""

from conformance.answers.answer import ids
from conformance.properties.draws import Array, Draw, Many, Shape
from conformance.properties.large import BEYOND, beyond, lengths, most_of, sees_beyond, shapes, sides
from conformance.properties.trial import Trial, property_of


@property_of(
    "kernel.large",
    "KRN-001 KRN-002 KRN-003 KRN-007 KRN-012",
    "core",
    "kernel.sparse kernel.store",
    sees=(BEYOND, "more than 65,536 rows", "more than 65,536 columns"),
    reduced=True,
    seeded=1,
)
def _kernel(d: Draw, t: Trial) -> None:
    """Products over many stored positions, or of wide and high matrices, are exact on integers."""
    for shape in shapes(d):
        many, tokens = Many(d), d.integer(1, 2)
        at = ids(most_of(many, shape))
        sees_beyond(t, shape, at)
        values, x, dy = (many.lattice(size, 4) for size in ((len(at),), (tokens, shape[1]), (tokens, shape[0])))
        inputs = sides(shape) | {"positions": at, "values": values, "x": x}
        t.case("kernel.sparse", inputs | {"dy": dy})
        slots = many.subset(len(at), len(at) // 3)[::-1].copy()
        t.case("kernel.store", inputs | {"slots": slots, "new": many.lattice((len(slots),), 4)})


_TILES = {
    "one token, more than 64 columns": (1, 64, 64),
    "more than 128 tokens and a rest": (128, 64, 128),
    "more than 256 rows and columns and a rest": (1, 256, 256),
    "300 tokens at 700 by 700": (300, 700, 700),
}
"""What a run must have seen -> least numbers of tokens, rows and columns."""


def _factors(d: Draw, t: Trial, what: str) -> tuple[Shape, Many, Array, Array]:
    """Return the shape of a matrix, the source of its integers, x and dy."""
    least_tokens, least_out, least_in = _TILES[what]
    tokens = beyond(d, least_tokens) if least_tokens > 1 else 1
    shape, many = (beyond(d, least_out), beyond(d, least_in)), Many(d)
    t.saw(what)
    return shape, many, many.lattice((tokens, shape[1]), 4), many.lattice((tokens, shape[0]), 4)


@property_of(
    "kernel.tiles",
    "KRN-001 KRN-002 KRN-003 KRN-007",
    "core",
    "kernel.sparse",
    sees=tuple(_TILES),
    reduced=True,
    seeded=1,
)
def _tiles(d: Draw, t: Trial) -> None:
    """Products of more rows, columns and tokens than a tile has, and a rest, are exact on integers."""
    for what in _TILES:
        shape, many, x, dy = _factors(d, t, what)
        at = many.subset(shape[0] * shape[1], shape[0] * shape[1] // 3)
        values = many.lattice((len(at),), 4)
        t.case("kernel.sparse", sides(shape) | {"positions": at, "values": values, "x": x, "dy": dy})


@property_of(
    "kernel.dense-tiles",
    "KRN-001 KRN-002 KRN-007",
    "kernels",
    "kernel.dense",
    sees=tuple(_TILES),
    reduced=True,
    seeded=1,
)
def _dense_tiles(d: Draw, t: Trial) -> None:
    """Products of a dense matrix with more rows, columns and tokens than a tile has are exact on integers."""
    for what in _TILES:
        shape, many, x, dy = _factors(d, t, what)
        t.case("kernel.dense", {"weight": many.lattice(shape, 4), "x": x, "dy": dy})


@property_of(
    "kernel.dense-large",
    "KRN-001 KRN-002 KRN-007 KRN-012 KRN-014",
    "kernels",
    "kernel.dense kernel.store_dense kernel.exceeding",
    sees=(BEYOND,),
    reduced=True,
    seeded=1,
)
def _dense(d: Draw, t: Trial) -> None:
    """Products with a large dense matrix and stores into it are exact; entries above a number are found."""
    for shape in shapes(d):
        many, tokens = Many(d), d.integer(1, 2)
        weight, x, dy = many.lattice(shape, 4), many.lattice((tokens, shape[1]), 4), many.lattice((tokens, shape[0]), 4)
        t.saw(BEYOND, weight.size > 65_536)
        t.case("kernel.dense", {"weight": weight, "x": x, "dy": dy})
        at = many.subset(weight.size, weight.size // 2)
        slots = many.subset(len(at), len(at) // 3)[::-1].copy()
        inputs = sides(shape) | {"weight": weight, "positions": at, "slots": slots, "x": x}
        t.case("kernel.store_dense", inputs | {"new": many.lattice((len(slots),), 4)})
    for n in lengths(d):
        t.case("kernel.exceeding", {"values": Many(d).lattice((n,), 8), "least": 6.0})
