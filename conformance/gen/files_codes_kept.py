"""Cases of codes that are kept, expanded, and written for compressed-tensors and GPTQ (QNT-010, FMT-178, FMT-180)."""

import json
import struct
from dataclasses import replace
from typing import Any

from conformance.gen.files import content, raw_array
from conformance.gen.files_codes import AWQ, GPTQ, NORM, V2, Drawn, Folder, drawn, library, scheme, shuffled
from conformance.gen.numbers import Area, Numbers, ids, reals
from conformance.oracle import files_codes as oracle
from conformance.oracle.files import Tensor, digest, text
from conformance.oracle.files_codes import Codes, named
from conformance.oracle.files_convert import WHOLE, dense, sorted_out

PURPOSE = "codes, zero points or scales that change, or positions of codes that stand for 0"


def given(folder: Folder) -> dict[str, Any]:
    """Return the inputs of the operations on kept codes."""
    return {"files": {name: raw_array(raw) for name, raw in folder.tree().items()}}


def kept(folder: Folder) -> dict[str, Any]:
    """Return the outputs of `convert.keep_codes`."""
    tensors = dict(folder.others)
    scales: dict[str, dict[str, str]] = {}
    for module, m in on_grid(folder).items():
        name = f"{module}.weight"
        tensors |= oracle.kept(name, m)
        scales[name] = {part.rpartition(".")[2]: part for part in oracle.kept(name, m) if part != name}
    tree = {name: raw for name, raw in folder.tree().items() if name not in ("quantize_config.json",)}
    companions, _ = sorted_out({name: len(raw) for name, raw in tree.items()}, (WHOLE, "config.json"))
    return {
        "tensors": content(tensors)["tensors"],
        "attributes": text({"quantised": {"grid": grid_of(folder), "rounding": "unknown"}}),
        "scales": text(scales),
        "companions": {name: digest(tree[name]) for name in companions},
        "config": text(folder.config),
    }


def on_grid(folder: Folder) -> dict[str, Codes]:
    """Return the matrices with zero points if one of these is not 0, and without otherwise (QNT-010.5)."""
    if not any(zero for m in folder.matrices.values() for row in m.zeros or () for zero in row):
        return {module: replace(m, zeros=None) for module, m in folder.matrices.items()}
    return {
        module: replace(m, zeros=m.zeros or [[0] * len(row) for row in m.scales])
        for module, m in folder.matrices.items()
    }


def grid_of(folder: Folder) -> str:
    """Return the grid of a folder, which a matrix with several groups a row decides."""
    return oracle.grid(max(on_grid(folder).values(), key=lambda m: m.groups[-1]))


def expanded(folder: Folder) -> dict[str, Any]:
    """Return the outputs of `convert.expand_codes`."""
    made = {f"{module}.weight": oracle.expanded(m) for module, m in on_grid(folder).items()}
    return {"tensors": content(folder.others | made)["tensors"], "attributes": text({}), "scales": text({})}


def packed(folder: Folder) -> dict[str, Any]:
    """Return the outputs of `convert.pack_codes`."""
    parts: dict[str, Tensor] = {}
    for module, m in on_grid(folder).items():
        parts |= named(module, oracle.repacked(m))
    bits, *options = grid_of(folder).removeprefix("int").split(":")
    size = next((int(option[1:]) for option in options if option.startswith("g")), None)
    described: dict[str, Any] = {
        "num_bits": int(bits),
        "group_size": size,
        "symmetric": "asym" not in options,
        "type": "int",
    }
    described |= {"strategy": "group" if size else "channel", "quant_method": "compressed-tensors"}
    described |= {"format": "pack-quantized", "targets": ["Linear"]}
    tensors = content(folder.others | parts)["tensors"]
    return {"tensors": tensors, "scheme": text(described), "zeros": stored_zeros(folder)}


def for_gptq(folder: Folder) -> dict[str, Any]:
    """Return the outputs of `convert.gptq_codes`."""
    parts: dict[str, Tensor] = {}
    for module, m in on_grid(folder).items():
        parts |= named(module, oracle.for_gptq(m))
    bits, *options = grid_of(folder).removeprefix("int").split(":")
    described = {
        "quant_method": "gptq",
        "bits": int(bits),
        "group_size": next((int(option[1:]) for option in options if option.startswith("g")), -1),
        "sym": "asym" not in options,
        "desc_act": False,
        "checkpoint_format": "gptq_v2" if "asym" in options else "gptq",
        "lm_head": "lm_head" in folder.matrices,
    }
    return {
        "tensors": content(folder.others | parts)["tensors"],
        "scheme": text(described),
        "zeros": stored_zeros(folder),
        "rounded": sum(oracle.beyond_f16(m) for m in on_grid(folder).values()),
    }


def stored_zeros(folder: Folder) -> int:
    """Return how many stored weights are 0."""
    return sum(m.codes[r][c] == m.zero(r, m.groups[c]) for m in on_grid(folder).values() for r, c in oracle.stored(m))


def folders() -> dict[str, Folder]:
    """Return a folder of each source, and one with matrices that fit two grids."""
    older = {"bits": 4, "group_size": 8, "desc_act": False}
    files = {"quantize_config.json": json.dumps(older).encode(), "vocab.json": b"{}"}
    dropped = {"q.input_scale": dense("F16", (1,), [0x3C00])}
    n = Numbers(181, 2)
    channel, groups = drawn(n, (3, 8), 8), drawn(n, (4, 8), 4, 4, "BF16", zeros=-8)
    gptq, awq = drawn(n, (8, 16), 4, 8, zeros=-7), drawn(n, (8, 8), 4, 8, zeros=-8)
    both = drawn(n, (3, 8), 4, 4, "F32"), drawn(n, (2, 4), 4, 4, "F32")
    # one scale of a row is 0, and all scales of another row
    holes = replace(groups, scales=[[0x8000, groups.scales[0][1]], [0, 0], *groups.scales[2:]])
    second = drawn(n, (8, 16), 4, 8, zeros=-8)
    mask = Codes(8, [[5, 0, -3, 0], [0, 7, 0, 0]], "F16", [[0x3800], [0x3400]], None, [0] * 4, ((0, 0), (0, 1), (1, 1)))
    bitmap = {"shape": oracle.integers([2, 4]), "bitmask": Tensor("U8", (2, 1), bytes([3, 2]))}
    bitmap |= {"compressed": Tensor("I8", (3,), oracle.int8([[5, 0, 7]]).bits), "row_offsets": oracle.integers([0, 2])}
    asymmetric = library(scheme(4, "group", 4, symmetric=False))
    of_rows = library(scheme(8, "channel"), form="int-quantized")
    pair = named("a", oracle.pack_quantized(both[0])) | named("b", oracle.pack_quantized(both[1]))
    others = {"norm.weight": NORM}
    plain, packs = "int-quantized", "pack-quantized"
    scale = {"weight_scale": oracle.scale_tensor(mask)}
    return {
        "plain": Folder(of_rows, {"q": channel}, named("q", oracle.int_quantized(channel)), plain, others),
        "packed": Folder(asymmetric, {"q": groups}, named("q", oracle.pack_quantized(groups)), packs, others),
        "scales-of-0": Folder(asymmetric, {"q": holes}, named("q", oracle.pack_quantized(holes)), packs),
        "gptq": Folder(None, {"q": gptq}, named("q", oracle.gptq(gptq, less=1)), "gptq", beside=files),
        "gptq-v2": Folder(V2, {"q": second}, named("q", oracle.gptq(second, less=0)), "gptq_v2", dropped=dropped),
        "awq": Folder(AWQ, {"q": awq}, named("q", oracle.awq(awq)), "awq"),
        "two-grids": Folder(library(scheme(4, "group", 4)), {"a": both[0], "b": both[1]}, pair, packs),
        "mask": Folder(of_rows | {"sparsity_config": {"format": "sparse-bitmask"}}, {"q": mask},
                       named("q", bitmap | scale), plain),
    }  # fmt: skip


def zero_points() -> dict[str, Folder]:
    """Return folders of which all zero points are 0, or those of one matrix only (QNT-010.5)."""
    n = Numbers(185, 6)
    zeros = drawn(n, (8, 8), 4, 4)
    zeros = replace(zeros, zeros=[[0, 0]] * 8)
    mixed = drawn(n, (3, 8), 8, 4), drawn(n, (2, 8), 8, 4, zeros=-8)
    two = library(scheme(8, "group", 4) | {"targets": ["a"]},
                  scheme(8, "group", 4, symmetric=False) | {"targets": ["b"]})  # fmt: skip
    parts = named("a", oracle.pack_quantized(mixed[0])) | named("b", oracle.pack_quantized(mixed[1]))
    packs = "pack-quantized"
    return {
        "gptq-symmetric": Folder(GPTQ | {"group_size": 4}, {"q": zeros},
                                 named("q", oracle.gptq(zeros, less=1)), "gptq"),
        "symmetric-and-not": Folder(two, {"a": mixed[0], "b": mixed[1]}, parts, packs),
    }  # fmt: skip


def of_whole_words() -> dict[str, Folder]:
    """Return folders whose codes fill whole words along both sides, as GPTQ stores them (FMT-180)."""
    n = Numbers(183, 4)
    asymmetric, rows = drawn(n, (8, 16), 4, 8, zeros=-7), drawn(n, (4, 8), 8, dtype="F32")
    groups, head = drawn(n, (8, 16), 4, 4, "BF16"), drawn(n, (16, 8), 4, 4, "BF16")
    both = named("q", oracle.pack_quantized(groups)) | named("lm_head", oracle.pack_quantized(head))
    mask = Codes(
        8, [[5, 0, -3, 0]] + [[0, 7, 0, 1]] * 3, "F16", [[0x3800]] * 4, None, [0] * 4, ((0, 0), (0, 1), (2, 1), (3, 3))
    )
    bitmap = {"shape": oracle.integers([4, 4]), "bitmask": Tensor("U8", (4, 1), bytes([3, 0, 2, 8]))}
    offsets = oracle.integers([0, 2, 2, 3])
    bitmap |= {"compressed": Tensor("I8", (4,), oracle.int8([[5, 0, 7, 1]]).bits), "row_offsets": offsets}
    bitmap |= {"weight_scale": oracle.scale_tensor(mask)}
    masked = library(scheme(8, "channel"), form="int-quantized") | {"sparsity_config": {"format": "sparse-bitmask"}}
    return {
        "zero-points": Folder(GPTQ, {"q": asymmetric}, named("q", oracle.gptq(asymmetric, less=1)), "gptq"),
        "rows": Folder(library(scheme(8, "channel"), form="int-quantized"), {"q": rows},
                       named("q", oracle.int_quantized(rows)), "int-quantized", {"norm.weight": NORM}),
        "head": Folder(library(scheme(4, "group", 4)), {"q": groups, "lm_head": head}, both, "pack-quantized"),
        "mask": Folder(masked, {"q": mask}, named("q", bitmap), "int-quantized"),
    }  # fmt: skip


def no_whole_words() -> dict[str, Folder]:
    """Return folders that GPTQ has no form for (FMT-180.3)."""
    n = Numbers(184, 5)
    few, narrow = drawn(n, (6, 8), 8, 4), drawn(n, (8, 12), 4, 4)
    groups = library(scheme(8, "group", 4), form="int-quantized")
    return {
        "few-rows": Folder(groups, {"q": few}, named("q", oracle.int_quantized(few)), ""),
        "few-columns": Folder(
            library(scheme(4, "group", 4)), {"q": narrow}, named("q", oracle.pack_quantized(narrow)), ""
        ),
    }


def refused() -> dict[str, Folder]:
    """Return folders whose matrices are on no grid, or on several (QNT-010.2)."""
    n = Numbers(182, 3)
    three, order = drawn(n, (3, 32), 3, 8, zeros=-4), shuffled(n, drawn(n, (8, 16), 4, 8, zeros=-8))
    negative = replace(m := drawn(n, (3, 8), 8), scales=[[0xB800], *m.scales[1:]])
    a, b = drawn(n, (2, 8), 8, 4), drawn(n, (2, 8), 8, 2)
    pair = named("a", oracle.pack_quantized(a)) | named("b", oracle.pack_quantized(b))
    two = library(scheme(8, "group", 4) | {"targets": ["a"]}, scheme(8, "group", 2) | {"targets": ["b"]})
    by_row = library(scheme(8, "channel"), form="int-quantized")
    short, wide = drawn(n, (8, 24), 4, 16, zeros=-7), drawn(n, (2, 8), 8, dtype="F32")
    wide = replace(wide, scales=[[0x7F00_0000], *wide.scales[1:]])
    mask = Codes(8, [[5, 0], [0, 7]], "F16", [[0x3800], [0]], None, [0, 0], ((0, 0), (1, 1)))
    bitmap = {"shape": oracle.integers([2, 2]), "bitmask": Tensor("U8", (2, 1), bytes([1, 2]))}
    bitmap |= {"compressed": Tensor("I8", (2,), oracle.int8([[5, 7]]).bits), "row_offsets": oracle.integers([0, 1])}
    bitmap |= {"weight_scale": oracle.scale_tensor(mask)}
    masked = by_row | {"sparsity_config": {"format": "sparse-bitmask"}}
    taken = {"q.weight.scale": NORM}
    return {
        "bits": Folder(library(scheme(3, "group", 8, symmetric=False)), {"q": three},
                       named("q", oracle.pack_quantized(three)), ""),
        "order": Folder(V2 | {"desc_act": True}, {"q": order}, named("q", oracle.gptq(order, less=0)), ""),
        "negative": Folder(by_row, {"q": negative}, named("q", oracle.int_quantized(negative)), ""),
        "short-group": Folder(GPTQ | {"group_size": 16}, {"q": short},
                              named("q", oracle.gptq(short, less=1, index="")), ""),
        "mask-scale": Folder(masked, {"q": mask}, named("q", bitmap), ""),
        "beyond-float32": Folder(by_row, {"q": wide}, named("q", oracle.int_quantized(wide)), ""),
        "several": Folder(two, {"a": a, "b": b}, pair, ""),
        "taken": Folder(by_row, {"q": m}, named("q", oracle.int_quantized(m)), "", taken),
    }  # fmt: skip


def blocks(n: Drawn, kind: str, shape: tuple[int, int]) -> bytes:
    """Return blocks of a GGUF file with every kind of scale; those of Q8_0 are not negative."""
    made = b""
    for i in range(shape[0] * shape[1] // 32):
        scale = (0.5, -0.25, 0.0, -0.0, 1.5, -(2.0**-20))[i % 6]
        made += struct.pack("<e", scale if kind == "Q4_0" else abs(scale))
        made += bytes(n.integer(0, 255) for _ in range(16 if kind == "Q4_0" else 32))
    return made


def of_blocks(kind: str, shape: tuple[int, int], raw: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the inputs and outputs of `convert.gguf_blocks`."""
    made = oracle.gguf_blocks(kind, raw, shape)
    answer = {name: reals(made[name]) if name == "scales" else ids(made[name]) for name in made}
    return {"type": kind, "out": shape[0], "in": shape[1], "raw": raw_array(raw)}, answer


def codes_kept() -> Area:
    """Return cases of codes that stay codes, and of what is made of them."""
    area = Area("kept-codes", "exact fractions by chapter 19")
    for name, folder in zero_points().items():
        purpose = "zero points that are not needed, or of another matrix"
        area.add(f"{name}", "convert.keep_codes", "QNT-010", purpose, given(folder), kept(folder))
    for name, folder in folders().items():
        area.add(f"{name}", "convert.keep_codes", "QNT-009 QNT-010 FMT-174", PURPOSE, given(folder), kept(folder))
        purpose = "weights at pruned positions, or weights rounded twice"
        area.add(f"expand-{name}", "convert.expand_codes", "QNT-009 QNT-002", purpose, given(folder), expanded(folder))
        purpose = "codes of pruned positions that are not the zero point, scales of another dtype, another grid"
        area.add(f"pack-{name}", "convert.pack_codes", "FMT-178 FMT-173", purpose, given(folder), packed(folder))
    for name, folder in of_whole_words().items():
        purpose = "parts of the other layout, zero points without their 1, words along the wrong side"
        area.add(f"gptq-{name}", "convert.gptq_codes", "FMT-180 FMT-173", purpose, given(folder), for_gptq(folder))
    for name, folder in no_whole_words().items():
        purpose = "codes that fill no whole words, which no reader of GPTQ takes"
        area.add(f"refuse-{name}", "convert.gptq_codes", "FMT-180", purpose, given(folder), refused="FMT-180")
    for kind in ("Q8_0", "Q4_0"):
        purpose = "halves of bytes in another order, signs or zero points of other blocks, or −0.0 taken for negative"
        shape = (3, 64)
        inputs, answer = of_blocks(kind, shape, blocks(Numbers(61, int(kind[1])), kind, shape))
        area.add(f"gguf-{kind}", "convert.gguf_blocks", "QNT-010", purpose, inputs, answer)
    for name, folder in refused().items():
        purpose = "codes that are kept although no grid has them"
        area.add(f"refuse-{name}", "convert.keep_codes", "QNT-010", purpose, given(folder), refused="QNT-010")
    return area


AREAS = (codes_kept,)
