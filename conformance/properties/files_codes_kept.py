"""Properties of models of codes: kept, expanded, written for others, and made by rounding (QNT-009, QNT-010)."""

from dataclasses import replace

from conformance.gen.files_codes import AWQ, GPTQ, Folder, drawn, library, scheme, shuffled
from conformance.gen.files_codes_kept import blocks, expanded, for_gptq, given, kept, of_blocks, packed
from conformance.gen.files_quantised import answer, pruned
from conformance.gen.files_quantised import given as model_of
from conformance.oracle import files_codes as oracle
from conformance.oracle.files_codes import Codes, named
from conformance.oracle.model import targets
from conformance.properties.draws import Draw
from conformance.properties.models import drawn_config, drawn_tensors
from conformance.properties.trial import Trial, property_of

_SEES = ("gptq", "awq", "pack-quantized", "int-quantized", "one group a row", "a scale of 0")


def _folder(d: Draw, t: Trial) -> Folder:
    """Return a folder of one matrix that is on a grid."""
    source = d.choice(("gptq", "awq", "pack-quantized", "int-quantized"))
    t.saw(source)
    size, asymmetric = d.choice((0, 4, 8)), d.flag()
    t.saw("one group a row", not size)
    if source in ("gptq", "awq"):
        m = drawn(d, (8, 8 * d.integer(1, 2)), 4, size, zeros=-7)
        m = _with_holes(d, t, m)
        parts = oracle.gptq(m, less=1) if source == "gptq" else oracle.awq(m)
        description = (GPTQ if source == "gptq" else AWQ) | {"group_size": size or -1}
        return Folder(description, {"q": m}, named("q", parts), source)
    bits = 8 if source == "int-quantized" else d.choice((4, 8))
    dtype = d.choice(("F16", "BF16", "F32"))
    m = drawn(d, (d.integer(1, 4), 8), bits, size, dtype, zeros=-8 if asymmetric else None)
    m = _with_holes(d, t, m)
    described = scheme(bits, "group" if size else "channel", size or None, symmetric=not asymmetric)
    parts = oracle.pack_quantized(m) if source == "pack-quantized" else oracle.int_quantized(m)
    return Folder(library(described, form=source), {"q": m}, named("q", parts), source)


def _with_holes(d: Draw, t: Trial, m: Codes) -> Codes:
    """Return a matrix, of which one scale may be 0."""
    if d.flag(3):
        return m
    t.saw("a scale of 0")
    return replace(m, scales=[[0, *m.scales[0][1:]], *m.scales[1:]])


@property_of("convert.kept_codes", "QNT-009 QNT-010 FMT-174", "kept-codes", "convert.keep_codes", sees=_SEES, cost=2)
def _kept(d: Draw, t: Trial) -> None:
    """The codes of a folder stay as they are, or are refused where no grid has them."""
    folder = _folder(d, t)
    (m,) = folder.matrices.values()
    if m.groups[-1] and folder.source == "pack-quantized" and d.flag(2):
        m = shuffled(d, m)
        if m.groups != sorted(m.groups):
            described = library(scheme(m.bits, "group", 4, symmetric=m.zeros is None, actorder="group"))
            parts = named("q", oracle.pack_quantized(m, index="I32"))
            t.case("convert.keep_codes", given(Folder(described, {"q": m}, parts, "")), refused=["QNT-010"])
            return
    t.case("convert.keep_codes", given(folder), kept(folder))


@property_of("convert.expanded_codes", "QNT-009 QNT-002", "kept-codes", "convert.expand_codes", sees=_SEES, cost=2)
def _expanded(d: Draw, t: Trial) -> None:
    """Kept codes expand to their weights on the stored positions."""
    folder = _folder(d, t)
    t.case("convert.expand_codes", given(folder), expanded(folder))


@property_of("convert.packed_codes", "FMT-178 FMT-173", "kept-codes", "convert.pack_codes", sees=_SEES, cost=2)
def _packed(d: Draw, t: Trial) -> None:
    """Kept codes are written as words, with the zero point at every position that is not stored."""
    folder = _folder(d, t)
    t.case("convert.pack_codes", given(folder), packed(folder))


@property_of("convert.gptq_codes", "FMT-180 FMT-173", "kept-codes", "convert.gptq_codes", sees=_SEES, cost=2)
def _gptq(d: Draw, t: Trial) -> None:
    """Kept codes are written for GPTQ, or refused where they fill no whole words along both sides."""
    folder = _folder(d, t)
    (m,) = folder.matrices.values()
    if any(side % (32 // m.bits) for side in m.shape):
        t.case("convert.gptq_codes", given(folder), refused=["FMT-180"])
    else:
        t.case("convert.gptq_codes", given(folder), for_gptq(folder))


@property_of("convert.gguf_blocks", "QNT-010", "kept-codes", "convert.gguf_blocks", sees=("Q4_0", "Q8_0"))
def _gguf(d: Draw, t: Trial) -> None:
    """Blocks of a GGUF file become codes, scales and zero points byte by byte."""
    kind, shape = d.choice(("Q4_0", "Q8_0")), (d.integer(1, 4), 32 * d.integer(1, 3))
    t.saw(kind)
    inputs, answer = of_blocks(kind, shape, blocks(d, kind, shape))
    t.case("convert.gguf_blocks", inputs, answer)


@property_of(
    "quantise.model", "QNT-009 QNT-003", "kept-codes", "quantise.model", sees=("zero points", "groups"), cost=3
)
def _model(d: Draw, t: Trial) -> None:
    """A pruned model is rounded to nearest, and keeps everything but its targets."""
    config = drawn_config(d, "llama")
    weights = drawn_tensors(d, config)
    tensors = pruned(weights, {name: d.mask(weights[name].shape)[0] for name in targets(config)})
    grid = d.choice(("int8", "int4")) + d.choice(("", ":g2")) + d.choice(("", ":asym"))
    t.saw("zero points", grid.endswith(":asym"))
    if ":g2" in grid and config["intermediate_size"] % 2:
        t.case("quantise.model", model_of(config, tensors, grid), refused=["QNT-001"])
        return
    t.saw("groups", ":g2" in grid)
    t.case("quantise.model", model_of(config, tensors, grid), answer(config, tensors, grid))
