"""Cases of folders of integer codes that are refused, for each rule of FMT-172, FMT-173 and FMT-175."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from conformance.gen.numbers import Area
from conformance.oracle import files_codes as oracle
from conformance.oracle.files import Tensor
from conformance.oracle.files_codes import Codes
from conformance.oracle.files_convert import WHOLE, dense, stock

Asked = Callable[..., dict[str, Any]]
OP = "convert.codes"
PURPOSE = "a matrix that is expanded as it is"
GPTQ: dict[str, Any] = {"quant_method": "gptq", "bits": 4, "group_size": 8, "desc_act": False}
V2 = GPTQ | {"checkpoint_format": "gptq_v2"}
AWQ: dict[str, Any] = {"quant_method": "awq", "bits": 4, "group_size": 8}
WEIGHTS: dict[str, Any] = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 8, "symmetric": False}
M = Codes(
    4,
    [[(5 * r + 3 * c) % 16 - 8 for c in range(16)] for r in range(8)],
    "F16",
    [[0x3C00 + r, 0x3800 - r] for r in range(8)],
    [[r - 4, 3 - r] for r in range(8)],
    [c // 8 for c in range(16)],
)


def described(form: str = "pack-quantized", *, more: Mapping[str, Any] | None = None, **weights: Any) -> dict[str, Any]:
    """Return a description of compressed-tensors; an option of None is left out."""
    options = {key: value for key, value in (WEIGHTS | weights).items() if value is not None}
    groups = {"group_0": {"targets": ["Linear"], "weights": options}}
    return {"quant_method": "compressed-tensors", "format": form, "config_groups": groups} | dict(more or {})


@dataclass
class Refusals:
    """Collects refused folders as cases."""

    area: Area
    asked: Asked

    def add(
        self,
        name: str,
        clause: str,
        parts: Mapping[str, Tensor],
        description: dict[str, Any] | None,
        beside: Mapping[str, bytes] | None = None,
        **more: Any,
    ) -> None:
        """Add a folder of one matrix q. A part whose name has a dot is a further tensor of that name."""
        tensors = {part if "." in part else f"q.{part}": t for part, t in parts.items()}
        config = {} if description is None else {"quantization_config": description}
        tree = {WHOLE: stock(tensors), "config.json": json.dumps(config).encode()} | dict(beside or {})
        refused = more.pop("refused", clause)
        self.area.add(f"refuse-{name}", OP, clause, PURPOSE, self.asked(tree, **more), refused=refused)


def refused(area: Area, inputs_of: Asked) -> None:
    """Add the cases of folders that are refused."""
    cases = Refusals(area, inputs_of)
    _unasked(cases)
    _descriptions(cases)
    _descriptions_of_library(cases)
    _parts(cases)
    _parts_of_gptq(cases)
    _parts_of_library(cases)
    _numbers(cases)


def _unasked(cases: Refusals) -> None:
    """Add folders that nobody asked to expand, and folders without anything to expand."""
    v2, plain = oracle.gptq(M, less=0), oracle.int_quantized(M)
    every = {
        "gptq": (v2, V2),
        "awq": (oracle.awq(M), AWQ),
        "packed": (oracle.pack_quantized(M), described()),
        "plain": (plain, described("int-quantized")),
        "undescribed": (v2, None),
    }
    for name, (parts, description) in every.items():
        cases.add(f"unasked-{name}", "FMT-175", parts, description, expand=False)
    beside = {"quantize_config.json": json.dumps(GPTQ).encode()}
    cases.add("unasked-older", "FMT-175", v2, None, beside, expand=False)
    norm = {"q.bias": dense("F16", (2,), [1, 2])}
    either = "FMT-175 FMT-084"
    cases.add("nothing", "FMT-175", norm, V2, refused=either)
    cases.add("nothing-described", "FMT-175", norm, None, refused=either)
    cases.add("undescribed", "FMT-175 FMT-172", v2, None)
    two = {"text_config": {"quantization_config": V2 | {"desc_act": True}}, "quantization_config": V2}
    config = {"config.json": json.dumps(two).encode()}
    cases.add("differing", "FMT-175 FMT-172", v2, None, config)


def _descriptions(cases: Refusals) -> None:
    """Add descriptions of GPTQ and AWQ that a reader refuses."""
    v2, awq = oracle.gptq(M, less=0), oracle.awq(M)
    for name, description in (
        ("method", V2 | {"quant_method": "bitsandbytes"}),
        ("layout", V2 | {"checkpoint_format": "marlin"}),
        ("kernel", V2 | {"is_marlin_format": True}),
        ("gptq-bits", V2 | {"bits": 5}),
        ("gptq-bits-text", V2 | {"bits": "4"}),
        ("gptq-no-bits", {k: v for k, v in V2.items() if k != "bits"}),
        ("gptq-size", V2 | {"group_size": 0}),
        ("gptq-no-size", {k: v for k, v in V2.items() if k != "group_size"}),
        ("gptq-other-size", V2 | {"group_size": 4}),
        ("gptq-other-bits", V2 | {"bits": 8}),
    ):
        cases.add(name, "FMT-172", v2, description)
    for name, description in (
        ("awq-layout", AWQ | {"version": "gemv"}),
        ("awq-bits", AWQ | {"bits": 8}),
        ("awq-size", AWQ | {"group_size": 5}),
        ("awq-other-size", AWQ | {"group_size": 4}),
        ("awq-as-gptq", V2),
    ):
        cases.add(name, "FMT-172", awq, description)
    assert M.zeros is not None
    one = replace(M, scales=[row[:1] for row in M.scales], zeros=[row[:1] for row in M.zeros], groups=[0] * 16)
    cases.add("awq-long-group", "FMT-172", oracle.awq(one), AWQ | {"group_size": 32})


def _descriptions_of_library(cases: Refusals) -> None:
    """Add descriptions of compressed-tensors that a reader refuses."""
    packed = oracle.pack_quantized(M)
    other = {"targets": ["Linear"], "weights": WEIGHTS | {"num_bits": 4, "actorder": None, "symmetric": True}}
    same = {"targets": ["re:.*q"], "weights": WEIGHTS | {"strategy": "group", "group_size": 8, "num_bits": 3}}
    for name, description in (
        ("transform", described(more={"transform_config": {"a": 1}})),
        ("cache", described(more={"kv_cache_scheme": {"num_bits": 8}})),
        ("format", described("nvfp4-pack-quantized")),
        ("float", described("pack-quantized", type="float")),
        ("bits", described(num_bits=9)),
        ("no-bits-of-zero", described(num_bits=0)),
        ("strategy", described(strategy="block")),
        ("group-of-none", described(group_size=None)),
        ("group-of-row", described(group_size=-1)),
        ("symmetric-number", described(symmetric=1)),
        ("symmetric-packed-zeros", described(symmetric=True)),
        ("no-weights", described(more={"config_groups": {"a": {"targets": ["Linear"], "weights": None}}})),
        ("no-targets", described(more={"config_groups": {"a": {"weights": WEIGHTS}}})),
        ("no-scheme-fits", described(more={"config_groups": {"a": other, "b": same}})),
    ):
        cases.add(name, "FMT-172", packed, description)
    # four columns take one word at 4 bits and at 8, so that only a name could identify the scheme
    m = Codes(4, [row[:4] for row in M.codes], "F16", [[0x3C00]] * 8, None, [0] * 4)
    schemes = {b: {"targets": ["Linear"], "weights": {"num_bits": b, "strategy": "channel"}} for b in (4, 8)}
    groups = {f"group_{b}": one for b, one in schemes.items()}
    cases.add("two-schemes-fit", "FMT-172", oracle.pack_quantized(m), described(more={"config_groups": groups}))


def _without(parts: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    return {part: t for part, t in parts.items() if part != name}


def _beside(parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a second matrix that lacks nothing, so that the folder always has something to expand."""
    return {f"k.{part}": t for part, t in parts.items()}


def _parts(cases: Refusals) -> None:
    """Add matrices that lack a part, or have one too many."""
    sources = {
        "gptq": (oracle.gptq(M, less=0), V2, ("qweight", "qzeros", "scales")),
        "awq": (oracle.awq(M), AWQ, ("qweight", "qzeros", "scales")),
        "packed": (oracle.pack_quantized(M), described(), ("weight_packed", "weight_shape", "weight_scale",
                                                           "weight_zero_point")),
        "plain": (oracle.int_quantized(M), described("int-quantized"), ("weight", "weight_scale", "weight_zero_point")),
    }  # fmt: skip
    for name, (parts, description, needed) in sources.items():
        for part in needed:
            cases.add(f"{name}-no-{part}", "FMT-172", _without(parts, part) | _beside(parts), description)
        if name != "plain":
            beside_codes = parts | {"weight": dense("F16", (8, 16), [0] * 128)}
            cases.add(f"{name}-weight", "FMT-172", beside_codes, description)
    packed = oracle.pack_quantized(M)
    cases.add("packed-more", "FMT-172", packed | {"weight_global_scale": dense("F32", (1,), [1])}, described())
    cases.add("packed-qzeros", "FMT-172", packed | {"qzeros": packed["weight_packed"]}, described())


def _parts_of_gptq(cases: Refusals) -> None:
    """Add parts of GPTQ and AWQ with wrong dtypes and shapes."""
    v2, awq = oracle.gptq(M, less=0), oracle.awq(M)

    def vector(values: list[int]) -> Tensor:
        return oracle.integers(values, "I32")

    for name, change in (
        ("qweight-dtype", {"qweight": Tensor("U32", (2, 8), v2["qweight"].bits)} | _beside(v2)),
        ("qweight-flat", {"qweight": vector([1] * 16)}),
        ("qzeros-rows", {"qzeros": oracle.int32([[1]] * 3)}),
        ("qzeros-words", {"qzeros": oracle.int32([[1, 1]] * 2)}),
        ("scales-rows", {"scales": dense("F16", (3, 8), [0x3C00] * 24)}),
        ("scales-columns", {"scales": dense("F16", (2, 7), [0x3C00] * 14)}),
        ("scales-dtype", {"scales": dense("F64", (2, 8), [0x3FF << 52] * 16)}),
        ("g-idx-length", {"g_idx": vector([0] * 15)}),
        ("g-idx-dtype", {"g_idx": dense("F32", (16,), [0] * 16)}),
    ):
        cases.add(f"gptq-{name}", "FMT-172", v2 | change, V2)
    cases.add("gptq-no-g-idx", "FMT-172", oracle.gptq(M, less=0, index=""), V2 | {"desc_act": True})
    narrow = Codes(4, M.codes[:4], "F16", M.scales[:4], (M.zeros or [])[:4], M.groups)
    cases.add("gptq-unfilled", "FMT-172", oracle.gptq(narrow, less=0), V2)
    for name, change in (
        ("qweight", {"qweight": oracle.int32([[1, 1]] * 16)}),
        ("qzeros", {"qzeros": oracle.int32([[1]] * 3)}),
        ("scales", {"scales": dense("F16", (8, 2), [0x3C00] * 16)}),
    ):
        cases.add(f"awq-{name}-shape", "FMT-172", awq | change, AWQ)


def _parts_of_library(cases: Refusals) -> None:
    """Add parts of compressed-tensors with wrong dtypes and shapes."""
    packed, plain = oracle.pack_quantized(M), oracle.int_quantized(M)
    for name, change in (
        ("shape-other", {"weight_shape": oracle.integers([8, 17])}),
        ("shape-turned", {"weight_shape": oracle.integers([16, 8])}),
        ("shape-zero", {"weight_shape": oracle.integers([8, 0])}),
        ("shape-negative", {"weight_shape": oracle.integers([-8, 16])}),
        ("shape-huge", {"weight_shape": oracle.integers([8, 1 << 31])}),
        ("shape-far", {"weight_shape": oracle.integers([8, (1 << 62) + 16])}),
        ("shape-three", {"weight_shape": oracle.integers([1, 8, 16])}),
        ("shape-dtype", {"weight_shape": dense("F32", (2,), [0x4100_0000, 0x4180_0000])}),
        ("codes-dtype", {"weight_packed": Tensor("I64", (8, 1), packed["weight_packed"].bits)} | _beside(packed)),
        ("scales-shape", {"weight_scale": dense("F16", (8, 1), [0x3C00] * 8)}),
        ("scales-flat", {"weight_scale": dense("F16", (16,), [0x3C00] * 16)}),
        ("zeros-dtype", {"weight_zero_point": oracle.int8(M.zeros or [])}),
        ("zeros-shape", {"weight_zero_point": oracle.int32([[1, 1]] * 2)}),
        ("g-idx-length", {"weight_g_idx": oracle.integers([0] * 17)}),
    ):
        cases.add(f"packed-{name}", "FMT-172", packed | change, described())
    odd = Codes(4, [row[:12] for row in M.codes], "F16", M.scales, M.zeros, M.groups[:12])
    cases.add("packed-uneven", "FMT-172", oracle.pack_quantized(odd), described())
    cases.add("plain-uneven", "FMT-172", oracle.int_quantized(odd), described("int-quantized"))
    three = Codes(3, [[0] * 20] * 2, "F16", [[0x3C00]] * 2, None, [0] * 20)
    description = described(num_bits=3, strategy="channel", group_size=None, symmetric=True)
    cases.add("packed-either-way", "FMT-172", oracle.pack_quantized(three), description)
    cases.add("packed-two-ways", "FMT-172", *_two_ways())
    for name, change in (
        ("codes-dtype", {"weight": Tensor("U8", (8, 16), plain["weight"].bits)} | _beside(plain)),
        ("zeros-shape", {"weight_zero_point": oracle.int8([[1]] * 8)}),
        ("zeros-dtype", {"weight_zero_point": packed["weight_zero_point"]}),
        ("scales-dtype", {"weight_scale": dense("F64", (8, 2), [0x3FF << 52] * 16)}),
    ):
        cases.add(f"plain-{name}", "FMT-172", plain | change, described("int-quantized"))
    description = described("int-quantized", symmetric=True)
    cases.add("plain-symmetric-zeros", "FMT-172", plain, description)
    other = {"k.weight": oracle.int8(M.codes)}
    cases.add("plain-codes-alone", "FMT-172", plain | other, described("int-quantized"))


def _two_ways() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return a matrix of 3 bits whose codes straddle words and whose zero points do not."""
    m = Codes(3, [[0] * 64] * 32, "F16", [[0x3C00]] * 32, [[1]] * 32, [0] * 64)
    one, other = (oracle.pack_quantized(m, straddling=way) for way in (True, False))
    parts = one | {"weight_zero_point": other["weight_zero_point"]}
    return parts, described(num_bits=3, strategy="channel", group_size=None)


def _numbers(cases: Refusals) -> None:
    """Add scales, groups, codes and zero points that give no finite weight or no weight at all."""
    v2, plain = oracle.gptq(M, less=0), oracle.int_quantized(M)
    for name, dtype, pattern in (
        ("infinite", "F16", 0x7C00),
        ("nan", "F16", 0x7E00),
        ("infinite-bf16", "BF16", 0xFF80),
        ("nan-f32", "F32", 0x7FC0_0000),
        ("overflow", "F16", 0x7BFF),
        ("overflow-bf16", "BF16", 0x7F7F),
        ("overflow-f32", "F32", 0x7F7F_FFFF),
    ):
        scales = dense(dtype, (8, 2), [pattern] + [0x1000] * 15)
        cases.add(f"scale-{name}", "FMT-173", plain | {"weight_scale": scales}, described("int-quantized"))
    pruned = oracle.int8([[-4] * 8 + M.codes[0][8:], *M.codes[1:]])
    infinite = {"weight": pruned, "weight_scale": dense("F16", (8, 2), [0x7C00] + [0x1000] * 15)}
    cases.add("scale-of-pruned", "FMT-173", plain | infinite, described("int-quantized"))
    for name, index, dtype in (
        ("outside", [0] * 15 + [2], "I32"),
        ("negative", [0] * 15 + [-1], "I32"),
        ("wraps", [0] * 15 + [1 << 32], "I64"),
        ("wraps-below", [0] * 15 + [-(1 << 32)], "I64"),
    ):
        cases.add(f"g-idx-{name}", "FMT-173", v2 | {"g_idx": oracle.integers(index, dtype)}, V2)
    # the last stored zero point is 15, which becomes 16, because a reader of GPTQ adds 1
    stored = oracle.int32([oracle.words([7] * 8, 4, straddling=True), oracle.words([7] * 7 + [15], 4, straddling=True)])
    cases.add("gptq-zero-wraps", "FMT-173", v2 | {"qzeros": stored}, GPTQ)
    for name, code in (("above", 8), ("below", -9)):
        rows = [[code, *M.codes[0][1:]], *M.codes[1:]]
        cases.add(f"code-{name}", "FMT-173", plain | {"weight": oracle.int8(rows)}, described("int-quantized"))
        zero = [[code, 0], *(M.zeros or [])[1:]]
        beyond = plain | {"weight_zero_point": oracle.int8(zero)}
        cases.add(f"zero-{name}", "FMT-173", beyond, described("int-quantized"))
