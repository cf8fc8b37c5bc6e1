"""Properties of folders, adapters and codes whose tensors have more rows, columns and values than a tile or a block."""

from typing import Any

from conformance.oracle import files_codes as oracle
from conformance.oracle import files_convert, files_folders
from conformance.oracle.files import on
from conformance.oracle.files_codes import integers
from conformance.oracle.files_convert import WHOLE, dense, stock
from conformance.oracle.model import targets
from conformance.properties.draws import Draw, Many
from conformance.properties.files_codes_drawn import GPTQ, drawn
from conformance.properties.files_codes_drawn import files_of as codes_of
from conformance.properties.files_codes_kept import blocks, pruned
from conformance.properties.foreign import ADAPTER, LORA, NAME, SPIEL, adapter, changing, files_of
from conformance.properties.large import BEYOND, beyond
from conformance.properties.model_large import WIDE, wide_config, wide_tensors
from conformance.properties.trial import Trial, property_of

_BLOCK = "more than 128 rows and columns, and a rest"


def _bits(many: Many, n: int) -> list[int]:
    """Return n patterns of 16 bits, of which two in three are 0 and the others are numbers near 1."""
    picks, low = many.integers(n, 0, 2).tolist(), many.integers(n, 0, 1023).tolist()
    return [0x3C00 + x if pick == 2 else 0 for pick, x in zip(picks, low, strict=True)]


@property_of(
    "convert.large",
    "FMT-120 FMT-121 FMT-124 FMT-125 FMT-127",
    "convert",
    "convert.from_hf convert.to_hf",
    sees=(_BLOCK,),
    seeded=1,
)
def _both_ways(d: Draw, t: Trial) -> None:
    """A folder of a large matrix becomes a sparse checkpoint value by value, and the same folder again."""
    shape = (beyond(d, 128), beyond(d, 128))
    tensors = {"w": dense("F16", shape, _bits(Many(d), shape[0] * shape[1]))}
    t.saw(_BLOCK)
    t.case("convert.from_hf", files_of({WHOLE: stock(tensors)}, encoding="auto", zeros="positive"))
    sparse = files_convert.converted(tensors, "auto", "positive", None).tensors
    t.case("convert.to_hf", files_of(files_folders.folder(sparse).pack(), part_bytes=10**7))


@property_of(
    "convert.adapter-large",
    "FMT-151 FMT-152",
    "convert",
    "convert.adapter",
    sees=(BEYOND, "more than 64 ranks and 128 rows"),
    seeded=1,
)
def _adapter(d: Draw, t: Trial) -> None:
    """An adapter of many positions, or of many ranks, changes the base entry by entry."""
    many, shape = Many(d), (beyond(d, 256), beyond(d, 256))
    size = shape[0] * shape[1]
    places = many.subset(size, 65_537 if size > 65_600 else size)[::-1].tolist()
    t.saw(BEYOND, len(places) > 65_536)
    values = dense("F32", (len(places),), many.integers(len(places), 0x3F80_0000, 0x3F8F_FFFF).tolist())
    base = on("F32", shape, many.subset(size, 99).tolist(), bytes(4 * 99))
    own = {"sft_delta.indices": integers(places), "sft_delta.values": values}
    t.case(ADAPTER, changing("spiel", adapter(SPIEL, own), {NAME: base}))
    rank, shape = beyond(d, 64), (beyond(d, 128), beyond(d, 64))
    t.saw("more than 64 ranks and 128 rows")
    a, b = (dense("BF16", side, many.integers(side[0] * side[1], 0x3F00, 0x3FFF).tolist())
            for side in ((rank, shape[1]), (shape[0], rank)))  # fmt: skip
    base = on("F32", shape, many.subset(shape[0] * shape[1], shape[0] * 9).tolist(), bytes(4 * 9 * shape[0]))
    tree = adapter(LORA | {"r": rank, "lora_alpha": 3}, {"lora_A.weight": a, "lora_B.weight": b})
    t.case(ADAPTER, changing("lora", tree, {NAME: base}))


@property_of("convert.codes-large", "FMT-172 FMT-173 FMT-174", "codes", "convert.codes", sees=(_BLOCK,), seeded=1)
def _codes(d: Draw, t: Trial) -> None:
    """A folder of many codes becomes the weights of its codes."""
    t.saw(_BLOCK)
    t.case("convert.codes", _folder(d, 128) | {"expand_quantised": 1, "encoding": "csr"})


def _folder(d: Draw, rows: int) -> dict[str, Any]:
    """Return a GPTQ folder of a matrix with more than `rows` rows and 128 columns."""
    shape = (rows + 8 * d.integer(1, 3), 128 + 8 * d.integer(1, 3))
    m = drawn(d, shape, 4, 8, zeros=-7)
    return codes_of(GPTQ | {"group_size": 8}, oracle.gptq(m, less=1))


@property_of(
    "convert.kept-codes-large",
    "QNT-002 QNT-009 QNT-010 FMT-173 FMT-178 FMT-180",
    "kept-codes",
    "convert.keep_codes convert.expand_codes convert.pack_codes convert.gptq_codes convert.gguf_blocks",
    sees=(WIDE,),
    seeded=1,
)
def _kept(d: Draw, t: Trial) -> None:
    """Many codes stay as they are, expand to their weights, and are written as words."""
    t.saw(WIDE)
    made = _folder(d, 64)
    for op in ("keep", "expand", "pack", "gptq"):
        t.case(f"convert.{op}_codes", made)
    t.case("convert.gguf_blocks", blocks(d, "Q4_0", (beyond(d, 64), 32 * 5)))


@property_of("quantise.model-large", "QNT-009 QNT-003", "kept-codes", "quantise.model", sees=(_BLOCK,), seeded=1)
def _model(d: Draw, t: Trial) -> None:
    """A pruned model of wide matrices is rounded to nearest."""
    config = wide_config(d)
    weights, many = wide_tensors(d, config), Many(d)
    at = {name: many.subset(weights[name].size, weights[name].size // 3).tolist() for name in targets(config)}
    t.saw(_BLOCK, config["intermediate_size"] > 128)
    t.case("quantise.model", pruned(config, weights, at, "int8"))
