"""Cases that expand folders of integer codes: GPTQ, AWQ, compressed-tensors (FMT-172 to FMT-175)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from conformance.gen.files import content, raw_array
from conformance.gen.files_codes_refused import refused
from conformance.gen.numbers import Area, Numbers
from conformance.oracle import files_codes as oracle
from conformance.oracle.files import Tensor, digest, text
from conformance.oracle.files_codes import Codes, named
from conformance.oracle.files_convert import WHOLE, converted, dense, sorted_out, stock

OP = "convert.codes"
CLAUSES = "FMT-172 FMT-173 FMT-175"
GPTQ: dict[str, Any] = {"quant_method": "gptq", "bits": 4, "group_size": 8, "desc_act": False, "sym": False}
V2 = GPTQ | {"checkpoint_format": "gptq_v2"}
AWQ: dict[str, Any] = {"quant_method": "awq", "bits": 4, "group_size": 8, "version": "gemm", "zero_point": True}
NORM = dense("F16", (5,), [0x8000, 0, 0x3C00, 0x7E01, 1])
_RANGE = {"F16": (0x0C00, 0x3BFF), "BF16": (0x3000, 0x3F7F), "F32": (0x3000_0000, 0x3F7F_FFFF)}
"""Dtype -> bit patterns of the smallest and the largest scale that is drawn. With them no weight overflows."""


class Drawn(Protocol):
    """A source of random integers: the generator of cases here, an example of hypothesis in a property."""

    def integer(self, low: int, high: int, /) -> int:
        """Return an integer from low to high, both included."""


@dataclass
class Folder:
    """A Hugging Face folder with matrices of codes.

    Attributes:
        description: value of `quantization_config`; None for none.
        matrices: name of a module -> codes.
        parts: name of a tensor -> tensor, the parts of all matrices.
        source: value of the attribute `source`.
        others: tensors that belong to no matrix.
        dropped: tensors that the conversion leaves out.
        config: keys of `config.json` beside the description.
        beside: further files.
    """

    description: dict[str, Any] | None
    matrices: dict[str, Codes]
    parts: dict[str, Tensor]
    source: str
    others: dict[str, Tensor] = field(default_factory=dict)
    dropped: dict[str, Tensor] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=lambda: {"a": 1})
    beside: dict[str, bytes] = field(default_factory=dict)
    whole_config: dict[str, Any] | None = None
    """The whole of `config.json`, if it is more than config and description."""

    def tree(self) -> dict[str, bytes]:
        """Return the files of the folder, name -> bytes."""
        described = {} if self.description is None else {"quantization_config": self.description}
        config = self.config | described if self.whole_config is None else self.whole_config
        tensors = self.parts | self.others | self.dropped
        return {WHOLE: stock(tensors), "config.json": json.dumps(config).encode()} | self.beside


def asked(tree: Mapping[str, bytes], *, expand: bool = True, encoding: str = "dense") -> dict[str, Any]:
    """Return the inputs of `convert.codes`."""
    files = {name: raw_array(raw) for name, raw in tree.items()}
    return {"files": files, "expand_quantised": int(expand), "encoding": encoding}


def answered(folder: Folder, encoding: str = "dense", gone: Sequence[str] = ()) -> dict[str, Any]:
    """Return the outputs of `convert.codes` for an expanded folder without the files `gone`."""
    made = {f"{name}.weight": oracle.weights(m) for name, m in folder.matrices.items()}
    masked = {name: t for name, t in made.items() if t.support is not None}
    checkpoint = converted({n: t for n, t in (made | folder.others).items() if n not in masked}, encoding, "any", None)
    tree = {name: raw for name, raw in folder.tree().items() if name not in gone}
    companions, _ = sorted_out({name: len(raw) for name, raw in tree.items()}, (WHOLE, "config.json"))
    attributes = checkpoint.attributes | {"source": folder.source, "expanded": sorted(made)}
    return {
        "tensors": content(checkpoint.tensors | masked)["tensors"],
        "attributes": text(attributes),
        "companions": {name: digest(tree[name]) for name in companions},
        "config": text(folder.config),
    }


def drawn(
    n: Drawn, shape: tuple[int, int], bits: int, size: int = 0, dtype: str = "F16", *, zeros: int | None = None
) -> Codes:
    """Return a matrix of random codes, a third of them equal to the zero point of their group.

    size  columns of a group, 0 for one group a row
    zeros  the least signed zero point; None for a symmetric matrix
    """
    out, columns = shape
    half = 1 << (bits - 1)
    groups = [c // size if size else 0 for c in range(columns)]
    count = groups[-1] + 1
    scales = [[n.integer(*_RANGE[dtype]) for _ in range(count)] for _ in range(out)]
    zero = None if zeros is None else [[n.integer(zeros, half - 1) for _ in range(count)] for _ in range(out)]
    matrix = Codes(bits, [], dtype, scales, zero, groups)
    rows = [
        [n.integer(-half, half - 1) if n.integer(0, 2) else matrix.zero(r, groups[c]) for c in range(columns)]
        for r in range(out)
    ]
    # the smallest and the largest code come at least once
    rows[0][0], rows[-1][-1] = -half, half - 1
    return replace(matrix, codes=rows)


def shuffled(n: Drawn, m: Codes) -> Codes:
    """Return a matrix whose groups have as many columns as before, in another order."""
    order = sorted(range(len(m.groups)), key=lambda _: n.integer(0, 2**40))
    return replace(m, groups=[m.groups[at] for at in order])


def scheme(bits: int, strategy: str, size: int | None = None, **more: Any) -> dict[str, Any]:
    """Return a group of `config_groups`."""
    weights = {"num_bits": bits, "type": "int", "strategy": strategy, "group_size": size, "symmetric": True}
    return {"targets": ["Linear"], "weights": weights | more}


def library(*groups: dict[str, Any], form: str = "pack-quantized", **more: Any) -> dict[str, Any]:
    """Return a description of compressed-tensors."""
    config_groups = {f"group_{i}": group for i, group in enumerate(groups)}
    return {"quant_method": "compressed-tensors", "format": form, "config_groups": config_groups} | more


class Cases:
    """Collects folders as cases."""

    def __init__(self) -> None:
        self.area = Area("codes", "exact fractions by 12.11")
        self.numbers = Numbers(173, 1)

    def add(
        self, name: str, purpose: str, folder: Folder, *, encoding: str = "dense", gone: Sequence[str] = ()
    ) -> None:
        """Add a folder that is expanded.

        The encoding is `dense` unless a case is about supports (FMT-174), because dense vectors are smaller.
        """
        inputs, answer = asked(folder.tree(), encoding=encoding), answered(folder, encoding, gone)
        self.area.add(name, OP, CLAUSES if encoding == "dense" else f"{CLAUSES} FMT-174", purpose, inputs, answer)


def codes() -> Area:
    """Return cases of folders of codes (FMT-172 to FMT-175)."""
    cases = Cases()
    _gptq(cases)
    _awq(cases)
    _packed(cases)
    _plain(cases)
    _scales(cases)
    _described(cases)
    refused(cases.area, asked)
    return cases.area


def _gptq(cases: Cases) -> None:
    n = cases.numbers
    for source, less, description in (("gptq", 1, GPTQ), ("gptq_v2", 0, V2)):
        purpose = "zero points that are one off, codes of another width, or words read in another direction"
        for bits, shape in ((2, (16, 16)), (3, (32, 32)), (4, (8, 16)), (8, (4, 8))):
            size = shape[1] // 2
            m = drawn(n, shape, bits, size, "BF16" if bits == 8 else "F16", zeros=less - (1 << bits - 1))
            parts = named("a.q", oracle.gptq(m, less=less, index="I32" if less else ""))
            full_description = description | {"bits": bits, "group_size": size}
            cases.add(
                f"{source}-{bits}",
                purpose,
                Folder(full_description, {"a.q": m}, parts, source),
                encoding="csr" if bits == 4 else "dense",
            )
        m = shuffled(n, drawn(n, (8, 24), 4, 8, "F32", zeros=less - 8))
        parts = named("q", oracle.gptq(m, less=less, index="I64"))
        purpose = "groups that are runs of columns whatever g_idx says"
        cases.add(f"{source}-order", purpose, Folder(description | {"desc_act": True}, {"q": m}, parts, source))
    m = drawn(n, (8, 24), 4, 16, zeros=-7)
    parts = named("q", oracle.gptq(m, less=1, index=""))
    purpose = "a last group with fewer columns"
    cases.add("gptq-short-group", purpose, Folder(GPTQ | {"group_size": 16}, {"q": m}, parts, "gptq"))
    m = drawn(n, (8, 16), 4, zeros=-7)
    parts = named("q", oracle.gptq(m, less=1, index=""))
    purpose = "a group size of −1"
    cases.add("gptq-row", purpose, Folder(GPTQ | {"group_size": -1}, {"q": m}, parts, "gptq"))
    two, four = drawn(n, (16, 16), 2, 8, zeros=-1), drawn(n, (8, 16), 4, 8, zeros=-7)
    parts = named("a", oracle.gptq(two, less=1)) | named("b", oracle.gptq(four, less=1))
    purpose = "bits of the description where shapes say others"
    dynamic = GPTQ | {"dynamic": {"+:a": {"bits": 2}}}
    cases.add("gptq-dynamic", purpose, Folder(dynamic, {"a": two, "b": four}, parts, "gptq"))


def _awq(cases: Cases) -> None:
    n = cases.numbers
    for name, size, keys in (
        ("awq", 8, {}),
        ("awq-row", 0, {"group_size": -1}),
        ("awq-capitals", 8, {"version": "GEMM"}),
    ):
        a, b = drawn(n, (16, 16), 4, size, zeros=-8), drawn(n, (8, 8), 4, size, "BF16", zeros=-8)
        parts = named("a", oracle.awq(a)) | named("b", oracle.awq(b))
        purpose = "columns of a word in another order, in codes or in zero points"
        cases.add(name, purpose, Folder(AWQ | keys, {"a": a, "b": b}, parts, "awq"))


def _packed(cases: Cases) -> None:
    n = cases.numbers
    for bits in range(1, 9):
        m = drawn(n, (3, 64), bits, 32, zeros=-(1 << bits - 1))
        description = library(scheme(bits, "group", 32, symmetric=False))
        purpose = "codes that begin at other bits, or bits behind the last one read"
        for name, straddling in (("packed", True), ("packed-words", False)):
            if straddling or 32 % bits:
                parts = named("q", oracle.pack_quantized(m, straddling=straddling, junk=0x5A5A_5A5A))
                cases.add(f"{name}-{bits}", purpose, Folder(description, {"q": m}, parts, "pack-quantized"))
    for name, shape, straddling in (("told-by-zeros", (32, 10), True), ("told-by-zeros-words", (32, 10), False),
                                    ("either-way", (9, 10), True)):  # fmt: skip
        m = drawn(n, shape, 3, 5, zeros=-4)
        parts = named("q", oracle.pack_quantized(m, straddling=straddling))
        description = library(scheme(3, "group", 5, symmetric=False))
        purpose = "a way of packing that the words of codes alone do not tell"
        cases.add(f"packed-{name}", purpose, Folder(description, {"q": m}, parts, "pack-quantized"))
    for name, size, group, zeros in (
        ("group", 8, scheme(4, "group", 8), None),
        ("channel", 0, scheme(4, "channel"), None),
        ("channel-zeros", 0, scheme(4, "channel", symmetric=False), -8),
        ("wide-group", 0, scheme(4, "group", 128, symmetric=False), -8),
        ("row", 0, {"targets": ["Linear"], "weights": {"num_bits": 4, "group_size": -1}}, None),
        ("implied-group", 8, {"targets": [], "weights": {"num_bits": 4, "group_size": 8}}, None),
    ):
        m = drawn(n, (5, 24), 4, size, "BF16", zeros=zeros)
        parts = named("q", oracle.pack_quantized(m))
        purpose = "a zero point where there is none, or groups of another width"
        cases.add(f"packed-{name}", purpose, Folder(library(group), {"q": m}, parts, "pack-quantized"))
    m = shuffled(n, drawn(n, (5, 20), 4, 8, "F32", zeros=-8))
    parts = named("q", oracle.pack_quantized(m, index="I32"))
    description = library(scheme(4, "group", 8, symmetric=False, actorder="group"))
    cases.add("packed-order", "groups that are runs of columns", Folder(description, {"q": m}, parts, "pack-quantized"))


def _plain(cases: Cases) -> None:
    n = cases.numbers
    rows: tuple[tuple[str, int, dict[str, Any], int | None], ...] = (
        ("channel", 0, scheme(8, "channel"), None),
        ("channel-zeros", 0, scheme(8, "channel", symmetric=False), -128),
        ("group", 4, scheme(8, "group", 4), None),
        ("group-zeros", 4, scheme(5, "group", 4, symmetric=False), -16),
        ("default-bits", 0, {"targets": ["Linear"], "weights": {"strategy": "channel"}}, None),
    )
    for name, size, group, zeros in rows:
        bits = group["weights"].get("num_bits", 8)
        m = drawn(n, (5, 12), bits, size, zeros=zeros)
        folder = Folder(
            library(group, form="int-quantized"), {"q": m}, named("q", oracle.int_quantized(m)), "int-quantized"
        )
        cases.add(f"plain-{name}", "codes taken for weights, or a zero point that is forgotten", folder, encoding="csr")
    m = shuffled(n, drawn(n, (3, 10), 8, 4, zeros=-128))
    description = library(scheme(8, "group", 4, symmetric=False), form="naive-quantized")
    folder = Folder(description, {"q": m}, named("q", oracle.int_quantized(m, index="I64")), "int-quantized")
    cases.add("plain-order", "groups that are runs of columns, or an old name refused", folder)
    _of_tensor(cases)
    m = drawn(n, (3, 6), 8)
    parts = named("q", oracle.int_quantized(m) | {"weight_zero_point": oracle.int8([[0]] * 3)})
    folder = Folder(library(scheme(8, "channel"), form="int-quantized"), {"q": m}, parts, "int-quantized")
    cases.add("plain-zeros-of-zero", "zero points of 0 refused in a symmetric matrix", folder)
    _stored_mask(cases)


def _of_tensor(cases: Cases) -> None:
    """Add matrices that have one scale each, in every shape that such a scale may have."""
    n = cases.numbers
    for source, form in (("packed", "pack-quantized"), ("plain", "int-quantized")):
        matrices: dict[str, Codes] = {}
        parts: dict[str, Tensor] = {}
        for name, shape in (("a", ()), ("b", (1,)), ("c", (1, 1))):
            m = drawn(n, (3, 8), 8, zeros=-128)
            scale, zero = m.scales[0][0], (m.zeros or [[0]])[0][0]
            m = replace(m, scales=[[scale]] * 3, zeros=[[zero]] * 3)
            own = oracle.pack_quantized(m) if source == "packed" else oracle.int_quantized(m)
            own["weight_scale"] = dense("F16", shape, [scale])
            own["weight_zero_point"] = dense("I8", shape, [zero & 255])
            parts |= named(name, own)
            matrices[name] = m
        description = library(scheme(8, "tensor", symmetric=False), form=form)
        purpose = "a scale of the whole matrix, in one of its shapes, that is refused or taken for that of a row"
        cases.add(f"{source}-tensor", purpose, Folder(description, matrices, parts, form))


def _stored_mask(cases: Cases) -> None:
    """Add codes that are stored with a bitmask: one equals the zero point, and a scale is 0 or negative."""
    support = ((0, 0), (0, 1), (0, 4), (0, 8), (1, 3), (1, 6))
    for name, first, zeros, scale in (
        ("mask", [5, 0, 0, 0, -3, 0, 0, 0, 127], None, 0xB800),
        ("mask-zeros", [5, 7, 0, 0, -3, 0, 0, 0, 127], [[7], [-3]], 0xB800),
        ("mask-large", [6, 7, 0, 0, 7, 0, 0, 0, 8], [[7], [-3]], 0x7BFF),
    ):
        rows = [first, [0, 0, 0, -128, 0, 0, 9, 0, 0]]
        m = Codes(8, rows, "F16", [[scale], [0x8000]], zeros, [0] * 9, support)
        stored = [rows[r][c] for r, c in support]
        bitmap = [[sum(1 << c % 8 for r, c in support if r == row and c // 8 == i) for i in (0, 1)] for row in (0, 1)]
        parts = oracle.int_quantized(m)
        del parts["weight"]
        parts |= {
            "shape": oracle.integers([2, 9]),
            "bitmask": Tensor("U8", (2, 2), bytes(byte for row in bitmap for byte in row)),
            "compressed": Tensor("I8", (6,), oracle.int8([stored]).bits),
            "row_offsets": oracle.integers([0, 4]),
        }
        description = library(scheme(8, "channel", symmetric=zeros is None), form="int-quantized")
        description |= {"sparsity_config": {"format": "sparse-bitmask"}}
        purpose = "a kept weight of 0 taken for a pruned one, a zero that is −0.0, or an absent weight that overflows"
        cases.add(name, purpose, Folder(description, {"q": m}, named("q", parts), "int-quantized"), encoding="csr")


def _scales(cases: Cases) -> None:
    """Add scales of 0, below 0, the smallest and the largest, and products that need rounding."""
    special = {
        "F16": [0, 0x8000, 0xB123, 1, 0x03FF, 0x7BFF, 0x3001, 0x2FFF],
        "BF16": [0, 0x8000, 0xBF01, 1, 0x007F, 0x7F7F, 0x3F81, 0x3F7F],
        "F32": [0, 1 << 31, 0xBF80_0001, 1, 0x007F_FFFF, 0x7F7F_FFFF, 0x3F80_0001, 0x3F7F_FFFF],
    }
    for dtype, scales in special.items():
        rows = [[-1, 0, 1, 1, -1, 0]] + [[-128, -127, -77, 0, 111, 127]] * 8
        every = [[scales[5]]] + [[one if i != 5 else scales[6] ^ 2] for i, one in enumerate(scales)]
        m = Codes(8, rows, dtype, every, None, [0] * 6)
        description = library(scheme(8, "channel"), form="int-quantized")
        folder = Folder(description, {"q": m}, named("q", oracle.int_quantized(m)), "int-quantized")
        purpose = "products rounded twice, towards zero or in the dtype of the scale, or zeros with a sign"
        for encoding in ("csr", "dense"):
            cases.add(f"scales-{dtype}-{encoding}", purpose, folder, encoding=encoding)


def _described(cases: Cases) -> None:
    """Add descriptions in other files, repeated descriptions, schemes, and tensors that the conversion leaves out."""
    n = cases.numbers
    m = drawn(n, (8, 16), 4, 8, zeros=-7)
    older = {"bits": 4, "group_size": 8, "desc_act": False}
    parts = named("q", oracle.gptq(m, less=1))
    beside = {"quantize_config.json": json.dumps(older).encode(), "vocab.json": b"{}"}
    folder = Folder(None, {"q": m}, parts, "gptq", beside=beside)
    purpose = "a description in a file of its own that is not read, or that travels"
    cases.add("older-gptq", purpose, folder, gone=("quantize_config.json",))
    for name, keys in (("older-awq", {"w_bit": 4, "q_group_size": 8}), ("newer-awq", {"bits": 4, "group_size": 8})):
        m = drawn(n, (8, 16), 4, 8, zeros=-8)
        beside = {"quant_config.json": json.dumps(keys | {"zero_point": True}).encode()}
        folder = Folder(None, {"q": m}, named("q", oracle.awq(m)), "awq", beside=beside)
        cases.add(name, purpose, folder, gone=("quant_config.json",))
    m = drawn(n, (8, 16), 4, 8, zeros=-8)
    inner = {"text_config": {"layers": None}, "list": [{"b": 1}], "quantization_config": 7}
    whole = {
        "text_config": {"layers": None, "quantization_config": V2},
        "list": [{"b": 1, "compression_config": V2}],
        "quantization_config": 7,
    }
    folder = Folder(V2, {"q": m}, named("q", oracle.gptq(m, less=0)), "gptq_v2", config=inner, whole_config=whole)
    cases.add("alike", "a description that stays, or that counts once only at the top", folder)
    _schemes(cases)
    m = drawn(n, (5, 12), 8)
    description = library(scheme(8, "channel"), form="int-quantized")
    names = ("input_scale", "input_zero_point", "output_scale", "output_zero_point")
    dropped = {f"q.{part}": dense("F16", (1,), [0x3C00]) for part in names}
    others = {"k.input_scale": NORM, "q.bias": NORM}
    parts = named("q", oracle.int_quantized(m))
    folder = Folder(description, {"q": m}, parts, "int-quantized", others, dropped)
    purpose = "scales of activations that stay, those of other tensors that go, or a format of dense weights refused"
    cases.add("activations", purpose, folder)
    whole = folder.config | {"quantization_config": description, "sparsity_config": {"format": "dense-sparsity"}}
    sparsity = replace(folder, whole_config=whole)
    cases.add("dense-sparsity", "a format of dense weights refused, or a description of it that stays", sparsity)
    folder = Folder(
        None, {}, {}, "", {"norm.weight": NORM, "a.weight": dense("I8", (2, 4), range(8)), "b.scales": NORM}
    )
    inputs, answer = asked(folder.tree(), expand=False), answered(folder, "dense")
    answer |= {"attributes": text({})}
    cases.area.add("unasked-none", OP, "FMT-175", "a folder without codes that is refused", inputs, answer)


def _schemes(cases: Cases) -> None:
    """Add matrices of several schemes: a target names one scheme, shapes identify the others."""
    n = cases.numbers
    a, b, c = drawn(n, (3, 16), 4, 8), drawn(n, (3, 16), 8), drawn(n, (3, 16), 8, 8)
    # the scheme of 4 bits and groups of 8 columns would fit as well
    d = drawn(n, (3, 4), 8)
    groups = (
        scheme(4, "group", 8),
        scheme(8, "channel"),
        scheme(8, "group", 8) | {"format": "int-quantized"},
        scheme(8, "channel") | {"targets": ["Linear", "x.d"]},
    )
    parts = named("a", oracle.pack_quantized(a)) | named("b", oracle.pack_quantized(b))
    parts |= named("c", oracle.int_quantized(c)) | named("x.d", oracle.pack_quantized(d))
    folder = Folder(library(*groups), {"a": a, "b": b, "c": c, "x.d": d}, parts, "int-quantized and pack-quantized")
    cases.add("schemes", "the first scheme for every matrix, or a source that is not named", folder)


AREAS = (codes,)
