"""Folders of integer codes, read part by part: descriptions, schemes, words and groups (FMT-172 to FMT-175).

It is simple and slow. `files_codes` says which weights the codes stand for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from conformance.oracle import files_codes
from conformance.oracle.files import Tensor
from conformance.oracle.files_codes import AWQ_COLUMNS, Codes, turned
from conformance.oracle.files_convert import words
from conformance.oracle.foreign import (
    LIBRARY,
    Refused,
    Tree,
    by,
    described,
    need,
    numbers,
    parsed,
    read_folder,
    states_sparsity,
    without_descriptions,
    without_sparsity,
)

OWN = {"quantize_config.json": "gptq", "quant_config.json": "awq"}
"""Files that describe a quantisation, and its method (FMT-172.2)."""

SOURCES = {"pack-quantized": "pack-quantized", "int-quantized": "int-quantized", "naive-quantized": "int-quantized"}
SCALES, WHOLE = ("F16", "BF16", "F32"), ("I32", "I64")
OF_LIBRARY = {"weight_packed", "weight_scale", "weight_shape", "weight_zero_point"}
OF_PROGRAMS = {"qweight", "qzeros", "scales"}
"""Parts that only quantised matrices have."""

ACTIVATIONS = ("input_scale", "input_zero_point", "output_scale", "output_zero_point")

Grid = list[list[int]]
Parts = dict[str, Tensor]
Read = tuple[Codes, set[str]]
"""A matrix, and the parts that it consists of."""


@dataclass(frozen=True)
class Scheme:
    """The quantisation that a description states for a group of matrices."""

    source: str
    bits: int | None
    size: int | None = None
    """columns of a group, None for one group a row"""
    symmetric: bool = False
    ordered: bool = True
    of_tensor: bool = False
    """whether a matrix has one scale"""


@dataclass(frozen=True)
class Folder:
    """What a folder of codes consists of.

    Attributes:
        matrices: name of a weight -> its codes.
        others: tensors that belong to no matrix.
        source: the sources of FMT-172, joined.
        config: `config.json` without descriptions; None if there is none.
        read: the files that hold tensors, descriptions or both.
    """

    matrices: dict[str, Codes]
    others: dict[str, Tensor]
    source: str
    config: Any
    read: list[str]


def read(tree: Tree) -> Folder:
    """Return what a folder of codes consists of.

    Raises:
        RefusedError: FMT-172 to FMT-175, or as `foreign.read_folder`.
    """
    tensors, files = read_folder(tree)
    formats: set[str] = set()
    with by("FMT-172"):
        config = parsed(tree["config.json"], constants=True) if tree.get("config.json") is not None else None
        if states_sparsity(config):
            config = without_sparsity(config, formats)
        tensors = _unmasked(tensors, formats)
        descriptions = [*described(config)]
        for name, method in OWN.items():
            if tree.get(name) is not None and not descriptions:
                descriptions.append({"quant_method": method} | parsed(tree[name], constants=True))
    parts = {name.rpartition(".")[2] for name in tensors}
    with by("FMT-175 FMT-172" if parts & (OF_LIBRARY | OF_PROGRAMS) else "FMT-175 FMT-084"):
        need(descriptions and all(one == descriptions[0] for one in descriptions), "one quantisation")
    with by("FMT-172"):
        schemes = schemes_of(descriptions[0])
        need(schemes, "a scheme")
        modules = modules_of(tensors, {scheme.source for _, scheme in schemes})
        chosen = {module: _chosen(tensors, module, schemes) for module in modules}
    with by("FMT-175 FMT-084"):
        need(chosen, "a matrix")
    gone = {f"{module}.{part}" for module in chosen for part in (*chosen[module][1], *ACTIVATIONS, "weight")}
    matrices = {f"{module}.weight": codes for module, (codes, _) in chosen.items()}
    with by("FMT-173"):
        for matrix in matrices.values():
            _check(matrix)
    others = {name: t for name, t in tensors.items() if name not in gone}
    source = " and ".join(sorted({scheme.source for _, scheme in schemes}))
    return Folder(matrices, others, source, without_descriptions(config), [*files, "config.json", *OWN])


def unread(tree: Tree) -> Folder:
    """Return a folder without codes as it is.

    Raises:
        RefusedError: FMT-175 if there are codes, which nobody asked to expand, or as `foreign.read_folder`.
    """
    tensors, files = read_folder(tree)
    with by("FMT-175"):
        config = parsed(tree["config.json"], constants=True) if tree.get("config.json") is not None else None
        if states_sparsity(config):
            config = without_sparsity(config, set())
        for name, t in tensors.items():
            module, _, part = name.rpartition(".")
            words_of = "." in name and part in ("qweight", "weight_packed") and t.dtype == "I32"
            need(not words_of, "no words of codes")
            codes = "." in name and part == "weight" and t.dtype == "I8" and f"{module}.weight_scale" in tensors
            need(not codes or not any(described(config)), "no codes")
    return Folder({}, tensors, "", config, [*files, "config.json"])


def modules_of(tensors: Parts, sources: set[str]) -> set[str]:
    """Return the modules with a tensor that only quantised matrices of these sources have."""
    telling = OF_LIBRARY if sources & {*SOURCES.values()} else OF_PROGRAMS
    # a name without a dot is that of no part of a module
    modules = {name.rpartition(".")[0] for name in tensors if "." in name and name.rpartition(".")[2] in telling}
    if "int-quantized" in sources:
        dense = {name for name, t in tensors.items() if t.dtype == "I8" and t.support is None}
        modules |= {name.removesuffix(".weight") for name in dense if name.endswith(".weight")}
    return modules


def _unmasked(tensors: Parts, formats: set[str]) -> Parts:
    """Return the tensors, with the parts of each `sparse-bitmask` tensor joined (FMT-150)."""
    if not formats or formats <= {"dense"} or formats <= {"dense-sparsity"}:
        need(not formats or not any(name.endswith((".bitmask", ".compressed")) for name in tensors), "no parts")
        return tensors
    need(formats == {"sparse-bitmask"}, "a sparsity format that the definition knows")
    prefixes = {name.rpartition(".")[0] for name in tensors if name.endswith(".bitmask")}
    own_names, kept = any(p.endswith(".weight") for p in prefixes), dict(tensors)
    for prefix in prefixes:
        shape, bitmask, values, _ = (
            kept.pop(f"{prefix}.{p}") for p in ("shape", "bitmask", "compressed", "row_offsets")
        )
        rows, columns = integers(shape)
        width = -(-columns // 8)
        need((bitmask.dtype, bitmask.shape) == ("U8", (rows, width)), "a bitmask of the shape")
        at = [
            divmod(8 * i + bit, 8 * width) for i, byte in enumerate(bitmask.bits) for bit in range(8) if byte >> bit & 1
        ]
        need(all(c < columns for _, c in at) and values.shape == (len(at),), "a value for each bit")
        name = prefix if own_names else f"{prefix}.weight"
        need(name not in kept, "a tensor that is stored once")
        kept[name] = Tensor(values.dtype, (rows, columns), values.bits, tuple(at))
    return kept


# schemes -----------------------------------------------------------------------------------------


def _whole(entries: dict[str, Any], key: str, allowed: Sequence[int]) -> int:
    """Return an integer of a description, which must be one of `allowed`."""
    need(type(entries[key]) is int and entries[key] in allowed, key)
    return int(entries[key])


def _group_size(entries: dict[str, Any], key: str) -> int | None:
    """Return the number of columns in a group, None for −1."""
    size = _whole(entries, key, range(-1, 2**31))
    need(size, key)
    return None if size == -1 else size


def schemes_of(description: dict[str, Any]) -> list[tuple[list[str], Scheme]]:
    """Return targets and scheme of each group of a description."""
    method = description.get("quant_method")
    if method == "gptq":
        layout = description.get("checkpoint_format") or description.get("format") or "gptq"
        need(layout in ("gptq", "gptq_v2") and not description.get("is_marlin_format"), "a layout")
        if description.get("dynamic"):
            return [([], Scheme(layout, None))]
        bits, size = _whole(description, "bits", (2, 3, 4, 8)), _group_size(description, "group_size")
        return [([], Scheme(layout, bits, size, ordered=not description.get("desc_act")))]
    if method == "awq":
        layout = description.get("version") or description.get("checkpoint_format") or "gemm"
        need(str(layout).lower() == "gemm", "gemm")
        keys = ("w_bit", "q_group_size") if "w_bit" in description else ("bits", "group_size")
        return [([], Scheme("awq", _whole(description, keys[0], (4,)), _group_size(description, keys[1])))]
    need(method in LIBRARY, "a method")
    need(not description.get("transform_config") and not description.get("kv_cache_scheme"), "nothing else")
    return [
        ([str(target) for target in group["targets"]], _of_weights(group["weights"], group, description))
        for group in description["config_groups"].values()
        if isinstance(group, dict) and group.get("weights") is not None
    ]


def _of_weights(weights: dict[str, Any], group: dict[str, Any], description: dict[str, Any]) -> Scheme:
    stated: Any = group.get("format") or description.get("format")
    need(isinstance(group["targets"], list) and stated in SOURCES and weights.get("type", "int") == "int", "a format")
    bits = _whole({"num_bits": 8} | weights, "num_bits", range(1, 9))
    size = None if weights.get("group_size") is None else _group_size(weights, "group_size")
    implied = "tensor" if weights.get("group_size") is None else "group" if size else "channel"
    strategy, symmetric = weights.get("strategy") or implied, weights.get("symmetric", True)
    need(strategy in ("tensor", "channel") or (strategy == "group" and size), "a strategy")
    need(isinstance(symmetric, bool), "symmetric")
    own = size if strategy == "group" else None
    return Scheme(SOURCES[stated], bits, own, symmetric, of_tensor=strategy == "tensor")


def _chosen(tensors: Parts, module: str, schemes: list[tuple[list[str], Scheme]]) -> Read:
    """Return the matrix of a module by the only scheme that its tensors fit (FMT-172.8)."""
    parts = {
        n.rpartition(".")[2]: t
        for n, t in tensors.items()
        if n.startswith(f"{module}.") and n.rpartition(".")[0] == module
    }
    named = [scheme for targets, scheme in schemes if module in targets] or [scheme for _, scheme in schemes]
    fitting: list[Read] = []
    for scheme in dict.fromkeys(named):
        try:
            fitting.append(_matrix(parts, scheme))
        except (Refused, KeyError, ValueError):
            continue
    need(len(fitting) == 1, "one scheme that fits")
    used = fitting[0][1]
    need(not any((p.startswith("weight_") or p in OF_PROGRAMS) and p not in used for p in parts), "no other part")
    return fitting[0]


# parts -------------------------------------------------------------------------------------------


def integers(t: Tensor) -> list[int]:
    """Return the integers of a part, row-major; of a tensor with a support, 0 at absent positions."""
    stored = numbers(t, "I8", "I32", "I64")
    if t.support is None:
        return stored
    at = dict(zip(t.support, stored, strict=True))
    return [at.get((r, c), 0) for r in range(t.shape[0]) for c in range(t.shape[1])]


def grid(values: list[Any], columns: int) -> list[list[Any]]:
    """Return row-major values as rows of so many columns."""
    return [values[i : i + columns] for i in range(0, len(values), columns)]


def unpacked(row: list[int], n: int, bits: int, *, straddling: bool) -> list[int]:
    """Return n signed codes of a row of words (FMT-173)."""
    unsigned, mask, half = [word % 2**32 for word in row], (1 << bits) - 1, 1 << bits - 1
    if straddling:
        stream = sum(word << 32 * i for i, word in enumerate(unsigned))
        return [(stream >> i * bits & mask) - half for i in range(n)]
    per = 32 // bits
    return [(unsigned[i // per] >> i % per * bits & mask) - half for i in range(n)]


def _is(t: Tensor, dtypes: tuple[str, ...], *shapes: tuple[int, ...]) -> Tensor:
    need(t.dtype in dtypes and t.shape in shapes, "a part of its dtype and shape")
    return t


def _columns(parts: Parts, part: str, columns: int, size: int | None, used: set[str]) -> list[int]:
    """Return the group of each column (FMT-172.5)."""
    if part not in parts:
        # FMT-172.6: without `weight_g_idx` the group size divides `in`; without `g_idx` the last group may be shorter
        need(part == "g_idx" or size is None or columns % size == 0 or columns < size, "FMT-172.6")
        return [c // (size or columns) for c in range(columns)]
    used.add(part)
    return integers(_is(parts[part], WHOLE, (columns,)))


def _matrix(parts: Parts, scheme: Scheme) -> Read:
    if scheme.source in SOURCES.values():
        return _library(parts, scheme)
    need("weight" not in parts, "no weight beside codes")
    return _awq(parts, scheme) if scheme.source == "awq" else _gptq(parts, scheme)


def _library(parts: Parts, scheme: Scheme) -> Read:
    bits, packed = scheme.bits or 0, scheme.source == "pack-quantized"
    used = {"weight_packed", "weight_shape", "weight_scale"} if packed else {"weight", "weight_scale"}
    if packed:
        need("weight" not in parts, "no weight beside codes")
        out, columns = integers(_is(parts["weight_shape"], WHOLE, (2,)))
    else:
        out, columns = _is(parts["weight"], ("I8",), parts["weight"].shape).shape
    need(1 <= out < 2**31 and 1 <= columns < 2**31, "a shape")
    groups = -(-columns // scheme.size) if scheme.size else 1
    shapes = ((), (1,), (1, 1)) if scheme.of_tensor else ((out, groups),)
    scale, zero = _is(parts["weight_scale"], SCALES, *shapes), parts.get("weight_zero_point")
    words_zeros = packed and not scheme.symmetric and not scheme.of_tensor
    need(scheme.symmetric or zero is not None, "zero points")
    used |= {"weight_zero_point"} if zero is not None else set()
    straddling = _straddle(parts, out, columns, groups if words_zeros else 0, bits) if packed else True
    of_column = _columns(parts, "weight_g_idx", columns, scheme.size, used)
    # a scale or zero point of the whole matrix is one for each row
    times = out if scheme.of_tensor else 1
    zeros: Grid | None = None
    if words_zeros and zero is not None:
        of_group = turned(grid(integers(zero), groups))
        zeros = turned([unpacked(column, out, bits, straddling=straddling) for column in of_group])
    elif zero is not None:
        zeros = grid(integers(_is(zero, ("I8",), *shapes)), groups) * times
        need(not scheme.symmetric or not any(map(any, zeros)), "FMT-172.7")
        zeros = None if scheme.symmetric else zeros
    if packed:
        rows = grid(integers(parts["weight_packed"]), parts["weight_packed"].shape[1])
        codes = [unpacked(row, columns, bits, straddling=straddling) for row in rows]
    else:
        codes = grid(integers(parts["weight"]), columns)
    support = None if packed else parts["weight"].support
    return Codes(bits, codes, scale.dtype, grid(words(scale), groups) * times, zeros, of_column, support), used


def _straddle(parts: Parts, out: int, columns: int, groups: int, bits: int) -> bool:
    """Return whether codes straddle words; refuse a matrix whose words do not tell (FMT-173.2)."""
    packed, ways = parts["weight_packed"], []
    for straddling in (True, False):
        across, down = ((-(-n * bits // 32) if straddling else -(-n // (32 // bits))) for n in (columns, out))
        fits = packed.shape == (out, across)
        ways += [straddling] if fits and (not groups or parts["weight_zero_point"].shape == (down, groups)) else []
    need(ways and packed.dtype == "I32", "words of codes")
    need(not groups or parts["weight_zero_point"].dtype == "I32", "words of zero points")
    longest = max(columns, out if groups else 0)
    need(len(ways) == 1 or 32 % bits == 0 or longest <= 32 // bits, "one way to pack")
    return ways[0]


def _gptq(parts: Parts, scheme: Scheme) -> Read:
    groups, out = _is(parts["scales"], SCALES, parts["scales"].shape).shape
    rows, _ = parts["qweight"].shape
    bits = scheme.bits or 32 * parts["qzeros"].shape[1] // out
    need(bits in (2, 3, 4, 8) and rows and groups and out, "a b")
    need(out * bits % 32 == 0 and rows * 32 % bits == 0, "words that are full")
    columns, used = rows * 32 // bits, {*OF_PROGRAMS}
    _is(parts["qweight"], ("I32",), (rows, out))
    _is(parts["qzeros"], ("I32",), (groups, out * bits // 32))
    dynamic = scheme.bits is None
    size = None if dynamic else scheme.size or columns
    need(size is None or groups == -(-columns // size), "groups")
    need("g_idx" in parts or (size is not None and scheme.ordered), "g_idx")
    of_column = _columns(parts, "g_idx", columns, size, used)
    codes = [unpacked(row, columns, bits, straddling=True) for row in turned(grid(integers(parts["qweight"]), out))]
    less = int(scheme.source == "gptq")
    stored = [unpacked(row, out, bits, straddling=True) for row in grid(integers(parts["qzeros"]), out * bits // 32)]
    zeros = turned([[zero + less for zero in row] for row in stored])
    return Codes(bits, codes, parts["scales"].dtype, turned(grid(words(parts["scales"]), out)), zeros, of_column), used


def _awq(parts: Parts, scheme: Scheme) -> Read:
    columns, across = _is(parts["qweight"], ("I32",), parts["qweight"].shape).shape
    out, size = 8 * across, scheme.size or columns
    need(columns and out and columns % size == 0, "FMT-172.6")
    _is(parts["qzeros"], ("I32",), (columns // size, across))
    _is(parts["scales"], SCALES, (columns // size, out))

    def ordered(t: Tensor) -> Grid:
        places = [8 * (i // 8) + AWQ_COLUMNS.index(i % 8) for i in range(out)]
        rows = [unpacked(row, out, 4, straddling=True) for row in grid(integers(t), across)]
        return turned([[row[at] for at in places] for row in rows])

    of_column, scales = [c // size for c in range(columns)], turned(grid(words(parts["scales"]), out))
    codes, zeros = ordered(parts["qweight"]), ordered(parts["qzeros"])
    return Codes(4, codes, parts["scales"].dtype, scales, zeros, of_column), {*OF_PROGRAMS}


def _check(m: Codes) -> None:
    """Refuse scales that are not finite, columns whose group has no scale, and codes of more bits (FMT-173)."""
    need(all(isfinite(files_codes.scale(m, r, g)) for r, row in enumerate(m.scales) for g in range(len(row))), "finite")
    need(all(0 <= g < len(m.scales[0]) for g in m.groups), "groups with scales")
    need(all(-m.half <= code < m.half for row in (*m.codes, *(m.zeros or ())) for code in row), "codes of so many bits")
