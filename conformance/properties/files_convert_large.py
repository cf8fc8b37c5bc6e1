"""Properties of folders, adapters and codes whose tensors have more rows, columns and values than a tile or a block."""

from conformance.gen.files import on
from conformance.gen.files_codes import GPTQ, OP, Folder, drawn
from conformance.gen.files_codes import answered as codes_answered
from conformance.gen.files_codes import asked as codes_asked
from conformance.gen.files_codes_kept import blocks, expanded, for_gptq, given, kept, of_blocks, packed
from conformance.gen.files_convert import answered, asked
from conformance.gen.files_convert_adapters import LORA, NAME, SPIEL, folder, whole_numbers
from conformance.gen.files_convert_adapters import answered as adapter_answered
from conformance.gen.files_convert_adapters import asked as adapter_asked
from conformance.gen.files_convert_back import folder_of
from conformance.gen.files_quantised import answer as quantised_answer
from conformance.gen.files_quantised import given as quantised_given
from conformance.gen.files_quantised import pruned
from conformance.oracle import files_codes as oracle
from conformance.oracle import files_convert
from conformance.oracle.files_codes import named
from conformance.oracle.files_convert import WHOLE, dense, stock
from conformance.oracle.files_convert_adapters import changed, lora, product
from conformance.oracle.model import targets
from conformance.properties.draws import Draw, Many
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
    inputs = asked({WHOLE: stock(tensors)}, "auto", "positive")
    t.case("convert.from_hf", inputs, answered(tensors, inputs, (WHOLE,), quantised=False))
    sparse = files_convert.converted(tensors, "auto", "positive", None).tensors
    inputs, answer = folder_of(sparse, 10**7, None, companions={})
    t.case("convert.to_hf", inputs, answer)


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
    own = {"sft_delta.indices": whole_numbers(places), "sft_delta.values": values}
    answer = adapter_answered("add", {NAME: changed(shape, places, values)})
    t.case("convert.adapter", adapter_asked("spiel", folder(SPIEL, own), {NAME: base}), answer)
    rank, shape = beyond(d, 64), (beyond(d, 128), beyond(d, 64))
    t.saw("more than 64 ranks and 128 rows")
    a, b = (dense("BF16", side, many.integers(side[0] * side[1], 0x3F00, 0x3FFF).tolist())
            for side in ((rank, shape[1]), (shape[0], rank)))  # fmt: skip
    base = on("F32", shape, many.subset(shape[0] * shape[1], shape[0] * 9).tolist(), bytes(4 * 9 * shape[0]))
    change, left_out = lora(base, product(a, b, 3.0, root=False, turned=False))
    tree = folder(LORA | {"r": rank, "lora_alpha": 3}, {"lora_A.weight": a, "lora_B.weight": b})
    t.case(
        "convert.adapter",
        adapter_asked("lora", tree, {NAME: base}),
        adapter_answered("add", {NAME: change}, {NAME: left_out}),
    )


@property_of("convert.codes-large", "FMT-172 FMT-173 FMT-174", "codes", OP, sees=(_BLOCK,), seeded=1)
def _codes(d: Draw, t: Trial) -> None:
    """A folder of many codes becomes the weights of its codes."""
    t.saw(_BLOCK)
    made = _folder(d, 128)
    t.case(OP, codes_asked(made.tree(), encoding="csr"), codes_answered(made, "csr"))


def _folder(d: Draw, rows: int) -> Folder:
    """Return a GPTQ folder of a matrix with more than `rows` rows and 128 columns."""
    shape = (rows + 8 * d.integer(1, 3), 128 + 8 * d.integer(1, 3))
    m = drawn(d, shape, 4, 8, zeros=-7)
    return Folder(GPTQ | {"group_size": 8}, {"q": m}, named("q", oracle.gptq(m, less=1)), "gptq")


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
    for op, answers in (("keep", kept), ("expand", expanded), ("pack", packed), ("gptq", for_gptq)):
        t.case(f"convert.{op}_codes", given(made), answers(made))
    shape = (beyond(d, 64), 32 * 5)
    inputs, answer = of_blocks("Q4_0", shape, blocks(d, "Q4_0", shape))
    t.case("convert.gguf_blocks", inputs, answer)


@property_of("quantise.model-large", "QNT-009 QNT-003", "kept-codes", "quantise.model", sees=(_BLOCK,), seeded=1)
def _model(d: Draw, t: Trial) -> None:
    """A pruned model of wide matrices is rounded to nearest."""
    config = wide_config(d)
    weights, many = wide_tensors(d, config), Many(d)
    at = {name: many.subset(weights[name].size, weights[name].size // 3).tolist() for name in targets(config)}
    tensors = pruned(weights, at)
    t.saw(_BLOCK, config["intermediate_size"] > 128)
    t.case("quantise.model", quantised_given(config, tensors, "int8"), quantised_answer(config, tensors, "int8"))
