"""Properties of models of codes: kept, expanded, written for others, and made by rounding (QNT-009, QNT-010)."""

import json
import struct
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from conformance.answers.files_content import raw_array
from conformance.oracle import files_codes as oracle
from conformance.oracle import files_folders
from conformance.oracle.files import Tensor
from conformance.oracle.files_codes import Codes
from conformance.oracle.model import Config, targets
from conformance.properties import foreign
from conformance.properties.draws import Draw
from conformance.properties.files_codes_drawn import AWQ, GPTQ, drawn, files_of, library, scheme, shuffled
from conformance.properties.models import Tensors, drawn_config, drawn_tensors
from conformance.properties.trial import Trial, property_of

__all__ = ["blocks", "pruned"]

_SEES = ("gptq", "awq", "pack-quantized", "int-quantized", "one group a row", "a scale of 0")


def _folder(d: Draw, t: Trial, *, ordered: bool = True) -> dict[str, Any]:
    """Return the inputs with a folder of one matrix, which is on a grid if it is ordered."""
    source = d.choice(("gptq", "awq", "pack-quantized", "int-quantized"))
    t.saw(source)
    size, asymmetric = d.choice((0, 4, 8)), d.flag()
    t.saw("one group a row", not size)
    if source in ("gptq", "awq"):
        m = _with_holes(d, t, drawn(d, (8, 8 * d.integer(1, 2)), 4, size, zeros=-7))
        described = (GPTQ if source == "gptq" else AWQ) | {"group_size": size or -1}
        return files_of(described, oracle.gptq(m, less=1) if source == "gptq" else oracle.awq(m))
    bits = 8 if source == "int-quantized" else d.choice((4, 8))
    dtype = d.choice(("F16", "BF16", "F32"))
    m = _with_holes(d, t, drawn(d, (d.integer(1, 4), 8), bits, size, dtype, zeros=-8 if asymmetric else None))
    described = scheme(bits, "group" if size else "channel", size or None, symmetric=not asymmetric)
    if source == "int-quantized":
        return files_of(library(described, source), oracle.int_quantized(m))
    if not ordered and m.groups[-1] and d.flag(2):
        return files_of(library(described, source), oracle.pack_quantized(shuffled(d, m), index="I32"))
    return files_of(library(described, source), oracle.pack_quantized(m))


def _with_holes(d: Draw, t: Trial, m: Codes) -> Codes:
    """Return a matrix, of which one scale may be 0."""
    if d.flag(3):
        return m
    t.saw("a scale of 0")
    return replace(m, scales=[[0, *m.scales[0][1:]], *m.scales[1:]])


@property_of("convert.kept_codes", "QNT-009 QNT-010 FMT-174", "kept-codes", "convert.keep_codes", sees=_SEES, cost=2)
def _kept(d: Draw, t: Trial) -> None:
    """The codes of a folder stay as they are, or are refused where no grid has them."""
    t.case("convert.keep_codes", _folder(d, t, ordered=False))


@property_of("convert.expanded_codes", "QNT-009 QNT-002", "kept-codes", "convert.expand_codes", sees=_SEES, cost=2)
def _expanded(d: Draw, t: Trial) -> None:
    """Kept codes expand to their weights on the stored positions."""
    t.case("convert.expand_codes", _folder(d, t))


@property_of("convert.packed_codes", "FMT-178 FMT-173", "kept-codes", "convert.pack_codes", sees=_SEES, cost=2)
def _packed(d: Draw, t: Trial) -> None:
    """Kept codes are written as words, with the zero point at every position that is not stored."""
    t.case("convert.pack_codes", _folder(d, t))


@property_of("convert.gptq_codes", "FMT-180 FMT-173", "kept-codes", "convert.gptq_codes", sees=_SEES, cost=2)
def _gptq(d: Draw, t: Trial) -> None:
    """Kept codes are written for GPTQ, or refused where they fill no whole words along both sides."""
    t.case("convert.gptq_codes", _folder(d, t))


def blocks(d: Draw, kind: str, shape: tuple[int, int]) -> dict[str, Any]:
    """Return the inputs of `convert.gguf_blocks`, with every kind of scale; those of Q8_0 are not negative."""
    made = b""
    for i in range(shape[0] * shape[1] // 32):
        scale = (0.5, -0.25, 0.0, -0.0, 1.5, -(2.0**-20))[i % 6]
        made += struct.pack("<e", scale if kind == "Q4_0" else abs(scale))
        made += bytes(d.integers(16 if kind == "Q4_0" else 32, 0, 255))
    return {"type": kind, "out": shape[0], "in": shape[1], "raw": raw_array(made)}


@property_of("convert.gguf_blocks", "QNT-010", "kept-codes", "convert.gguf_blocks", sees=("Q4_0", "Q8_0"))
def _gguf(d: Draw, t: Trial) -> None:
    """Blocks of a GGUF file become codes, scales and zero points byte by byte."""
    kind = d.choice(("Q4_0", "Q8_0"))
    t.saw(kind)
    t.case("convert.gguf_blocks", blocks(d, kind, (d.integer(1, 4), 32 * d.integer(1, 3))))


def pruned(config: Config, weights: Tensors, stored: Mapping[str, list[int]], grid: str) -> dict[str, Any]:
    """Return the inputs of `quantise.model`; weights with stored positions are sparse."""
    tensors = {}
    for name, w in weights.items():
        at = stored.get(name, list(range(w.size)))
        support = tuple(divmod(p, w.shape[-1]) for p in at) if name in stored else None
        tensors[name] = Tensor("F32", w.shape, w.reshape(-1)[at].astype("<f4").tobytes(), support)
    tree = files_folders.folder(tensors, companions={"config.json": json.dumps(config).encode()}).pack()
    return foreign.files_of(tree, grid=grid)


@property_of(
    "quantise.model", "QNT-009 QNT-003", "kept-codes", "quantise.model", sees=("zero points", "groups"), cost=3
)
def _model(d: Draw, t: Trial) -> None:
    """A pruned model is rounded to nearest, and keeps everything but its targets."""
    config = drawn_config(d, "llama")
    weights = drawn_tensors(d, config)
    stored = {name: d.mask(weights[name].shape)[0] for name in targets(config)}
    grid = d.choice(("int8", "int4")) + d.choice(("", ":g2")) + d.choice(("", ":asym"))
    t.saw("zero points", grid.endswith(":asym"))
    t.saw("groups", ":g2" in grid and config["intermediate_size"] % 2 == 0)
    t.case("quantise.model", pruned(config, weights, stored, grid))
