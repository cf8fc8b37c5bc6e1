"""A plain definition of the tensors of quantised matrices, from the text of FMT-172: names, dtypes and shapes."""

from typing import Any

from conformance.fuzz.foreign_files import Piece, Refused, Tree, need, parsed
from conformance.fuzz.plain_codes import (
    ACTIVATIONS,
    AWQ_COLUMNS,
    DESCRIPTIONS,
    OWN,
    SCALES,
    TELLING,
    WHOLE,
    Grid,
    Matrix,
    Scheme,
    described,
    grid,
    integers,
    numbers_of,
    schemes_of,
    tensors_of,
    turned,
    unpacked,
    without_descriptions,
    without_sparsity,
)
from conformance.oracle.files import BITS


def define(tree: Tree) -> dict[str, Any]:
    """Return matrices, expanded tensors, attributes and configuration of a folder.

    Raises:
        Refused: a rule is broken. If a part is missing, other exceptions may be raised.
    """
    pieces = tensors_of(tree)
    config = parsed(tree["config.json"], constants=True) if tree.get("config.json") is not None else None
    formats: set[str] = set()
    if _states_sparsity(config):
        config = without_sparsity(config, formats)
    masks, pieces = _unmasked(pieces, formats)
    descriptions = [*described(config)]
    for file_name, method in OWN.items():
        if tree.get(file_name) is not None:
            own = parsed(tree[file_name], constants=True)
            descriptions += [] if descriptions or not isinstance(own, dict) else [{"quant_method": method} | own]
    need(descriptions and all(one == descriptions[0] for one in descriptions), "one quantisation")
    schemes = schemes_of(descriptions[0])
    need(schemes, "a scheme")
    matrices = {f"{module}.weight": _chosen(pieces, module, schemes, masks) for module in _modules(pieces, schemes)}
    need(matrices, "a matrix")
    gone = {part for matrix in matrices.values() for part in matrix.used}
    gone |= {f"{name.removesuffix('.weight')}.{part}" for name in matrices for part in ACTIVATIONS}
    others = {name: piece for name, piece in pieces.items() if name not in gone and name not in matrices}
    return {
        "matrices": {name: numbers_of(matrix) for name, matrix in matrices.items()},
        "dtypes": {name: matrix.dtype for name, matrix in matrices.items()},
        "others": {name: (piece.dtype, tuple(piece.shape), piece.data) for name, piece in others.items()},
        "source": " and ".join(sorted({scheme.source for _, scheme in schemes})),
        "config": without_descriptions(config),
    }


def _states_sparsity(config: Any) -> bool:
    """Return whether a configuration states the packing of sparse tensors in a place that FMT-150 names."""
    places = [config, *(config.get(key) for key in DESCRIPTIONS)] if isinstance(config, dict) else []
    stated = [place.get("sparsity_config") for place in places if isinstance(place, dict)]
    return any(isinstance(one, dict) and one.get("format") for one in stated)


def _unmasked(pieces: dict[str, Piece], formats: set[str]) -> tuple[dict[str, Grid], dict[str, Piece]]:
    """Return masks by name, and the tensors, with the parts of each `sparse-bitmask` tensor joined (FMT-150)."""
    if not formats or formats <= {"dense"} or formats <= {"dense-sparsity"}:
        need(not formats or not any(name.endswith((".bitmask", ".compressed")) for name in pieces), "no parts")
        return {}, pieces
    need(formats == {"sparse-bitmask"}, "a sparsity format that the definition knows")
    prefixes = {name.rpartition(".")[0] for name in pieces if name.endswith(".bitmask")}
    own_names, masks, kept = any(p.endswith(".weight") for p in prefixes), {}, dict(pieces)
    for prefix in prefixes:
        parts = {part: kept.pop(f"{prefix}.{part}") for part in ("bitmask", "compressed", "shape", "row_offsets")}
        rows, columns = integers(parts["shape"])
        width = -(-columns // 8)
        need(parts["bitmask"].dtype == "U8" and parts["bitmask"].shape == [rows, width], "a bitmask of the shape")
        bits = [byte >> i & 1 for byte in parts["bitmask"].data for i in range(8)]
        mask = [row[:columns] for row in grid(bits, rows, 8 * width)]
        need(sum(map(sum, mask)) == sum(bits) and parts["compressed"].shape == [sum(bits)], "a value for each bit")
        name, values = prefix if own_names else f"{prefix}.weight", parts["compressed"]
        size, at, data = BITS[values.dtype] // 8, 0, b""
        for bit in (bit for row in mask for bit in row):
            data += values.data[at : at + size] if bit else bytes(size)
            at += size * bit
        need(name not in kept, "a tensor that is stored once")
        masks[name], kept[name] = mask, Piece(name, values.dtype, [rows, columns], data)
    return masks, kept


def _modules(pieces: dict[str, Piece], schemes: list[tuple[list[str], Scheme]]) -> set[str]:
    """Return the modules with a tensor that only quantised matrices have."""
    library = any(scheme.source in ("pack-quantized", "int-quantized") for _, scheme in schemes)
    telling = TELLING["library" if library else "programs"]
    return {name.rpartition(".")[0] for name in pieces if name.rpartition(".")[2] in telling}


def _chosen(
    pieces: dict[str, Piece], module: str, schemes: list[tuple[list[str], Scheme]], masks: dict[str, Grid]
) -> Matrix:
    """Return the matrix of a module by the only scheme that its tensors fit (FMT-172.8)."""
    parts = {n.rpartition(".")[2]: p for n, p in pieces.items() if n.rpartition(".")[0] == module}
    named = [scheme for targets, scheme in schemes if module in targets] or [scheme for _, scheme in schemes]
    fitting: list[Matrix] = []
    for scheme in dict.fromkeys(named):
        try:
            fitting.append(_matrix(parts, scheme, masks.get(f"{module}.weight")))
        except (Refused, KeyError, ValueError):
            continue
    need(len(fitting) == 1, "one scheme that fits")
    programs = {"qweight", "qzeros", "scales"}
    strange = {p for p in parts if (p.startswith("weight_") or p in programs) and p not in fitting[0].used}
    need(not strange, "no other part")
    fitting[0].used = {f"{module}.{part}" for part in fitting[0].used}
    return fitting[0]


def _matrix(parts: dict[str, Piece], scheme: Scheme, mask: Grid | None) -> Matrix:
    if scheme.source == "awq":
        return _awq(parts, scheme)
    if scheme.source.startswith("gptq"):
        return _gptq(parts, scheme)
    return _library(parts, scheme, mask)


def _is(piece: Piece, dtypes: tuple[str, ...], *shapes: list[int]) -> Piece:
    need(piece.dtype in dtypes and piece.shape in [*shapes], f"{piece.name} of its dtype and shape")
    return piece


def _raws(piece: Piece) -> list[bytes]:
    width = BITS[piece.dtype] // 8
    return [piece.data[i : i + width] for i in range(0, len(piece.data), width)]


def _less_half(rows: Grid, bits: int) -> Grid:
    return [[code - (1 << bits - 1) for code in row] for row in rows]


def _columns(parts: dict[str, Piece], part: str, columns: int, size: int | None, used: set[str]) -> list[int]:
    """Return the group of each column (FMT-172.5)."""
    if part not in parts:
        # FMT-172.6: without `weight_g_idx` the group size divides `in`; without `g_idx` the last group may be shorter
        need(part == "g_idx" or size is None or columns % size == 0 or columns < size, "FMT-172.6")
        return [c // (size or columns) for c in range(columns)]
    used.add(part)
    return integers(_is(parts[part], WHOLE, [columns]))


def _library(parts: dict[str, Piece], scheme: Scheme, mask: Grid | None) -> Matrix:
    bits, packed = scheme.bits or 0, scheme.source == "pack-quantized"
    used = {"weight_packed", "weight_shape", "weight_scale"} if packed else {"weight", "weight_scale"}
    if packed:
        need("weight" not in parts, "no weight beside codes")
        out, columns = integers(_is(parts["weight_shape"], WHOLE, [2]))
    else:
        out, columns = _is(parts["weight"], ("I8",), parts["weight"].shape).shape
    need(1 <= out < 2**31 and 1 <= columns < 2**31, "a shape")
    groups = -(-columns // scheme.size) if scheme.size else 1
    shapes = ([], [1], [1, 1]) if scheme.strategy == "tensor" else ([out, groups],)
    scale, zero = _is(parts["weight_scale"], SCALES, *shapes), parts.get("weight_zero_point")
    words_zeros = packed and not scheme.symmetric and scheme.strategy != "tensor"
    need(scheme.symmetric or zero is not None, "zero points")
    used |= {"weight_zero_point"} if zero is not None else set()
    fitting = _ways(parts, out, columns, groups if words_zeros else 0, bits) if packed else [True]
    of_column = _columns(parts, "weight_g_idx", columns, scheme.size, used)
    codes = grid(integers(parts["weight"]), out, columns) if not packed else None
    read_zeros = None
    if words_zeros and zero is not None:
        words = grid(integers(zero), zero.shape[0], groups)
        own = _less_half([unpacked(row, out, bits, straddling=fitting[0]) for row in turned(words, groups)], bits)
        read_zeros = turned(own, out)
    elif zero is not None:
        stored_zeros = integers(_is(zero, ("I8",), *shapes))
        read_zeros = grid(stored_zeros, out, groups) if scheme.strategy != "tensor" else [stored_zeros] * out
        need(not scheme.symmetric or not any(stored_zeros), "FMT-172.7")
        read_zeros = None if scheme.symmetric else read_zeros
    if codes is None:
        rows = grid(integers(parts["weight_packed"]), out, parts["weight_packed"].shape[1])
        codes = _less_half([unpacked(row, columns, bits, straddling=fitting[0]) for row in rows], bits)
    scales = grid(_raws(scale), out, groups) if scheme.strategy != "tensor" else [_raws(scale)] * out
    return Matrix(codes, scales, scale.dtype, read_zeros, of_column, bits, used, mask)


def _ways(parts: dict[str, Piece], out: int, columns: int, groups: int, bits: int) -> list[bool]:
    """Return whether codes straddle words, for each packing that fits; refuse two that differ (FMT-173.2)."""
    ways = []
    for straddling in (True, False):
        words, down = ((-(-n * bits // 32) if straddling else -(-n // (32 // bits))) for n in (columns, out))
        fits = parts["weight_packed"].shape == [out, words]
        ways += [straddling] if fits and (not groups or parts["weight_zero_point"].shape == [down, groups]) else []
    _is(parts["weight_packed"], ("I32",), parts["weight_packed"].shape)
    if groups:
        _is(parts["weight_zero_point"], ("I32",), parts["weight_zero_point"].shape)
    need(ways, "words of codes")
    longest = max(columns, out if groups else 0)
    need(len(ways) == 1 or 32 % bits == 0 or longest <= 32 // bits, "one way to pack")
    return ways


def _gptq(parts: dict[str, Piece], scheme: Scheme) -> Matrix:
    need("weight" not in parts, "no weight beside codes")
    groups, out = _is(parts["scales"], SCALES, parts["scales"].shape).shape
    rows, _ = parts["qweight"].shape
    bits = scheme.bits or 32 * parts["qzeros"].shape[1] // out
    need(bits in (2, 3, 4, 8) and rows and groups and out, "a b")
    need(out * bits % 32 == 0 and rows * 32 % bits == 0, "words that are full")
    columns, used = rows * 32 // bits, {"qweight", "qzeros", "scales"}
    _is(parts["qweight"], ("I32",), [rows, out])
    _is(parts["qzeros"], ("I32",), [groups, out * bits // 32])
    size = columns if scheme.strategy == "channel" else scheme.size
    need(size is None or groups == -(-columns // size), "groups")
    need("g_idx" in parts or (size is not None and scheme.ordered), "g_idx")
    of_column = _columns(parts, "g_idx", columns, size, used)
    words = turned(grid(integers(parts["qweight"]), rows, out), out)
    codes = _less_half([unpacked(row, columns, bits, straddling=True) for row in words], bits)
    zeros = [unpacked(r, out, bits, straddling=True) for r in grid(integers(parts["qzeros"]), groups, out * bits // 32)]
    stored_less = scheme.source == "gptq"
    zeros = _less_half([[z + stored_less for z in row] for row in zeros], bits)
    scales = turned(grid(_raws(parts["scales"]), groups, out), out)
    return Matrix(codes, scales, parts["scales"].dtype, turned(zeros, out), of_column, bits, used)


def _awq(parts: dict[str, Piece], scheme: Scheme) -> Matrix:
    need("weight" not in parts, "no weight beside codes")
    columns, words = _is(parts["qweight"], ("I32",), parts["qweight"].shape).shape
    out, size = 8 * words, scheme.size or columns
    need(columns and out, "codes")
    groups = columns // size
    need(columns == groups * size, "FMT-172.6")
    _is(parts["qzeros"], ("I32",), [groups, words])
    _is(parts["scales"], SCALES, [groups, out])

    def ordered(piece: Piece, rows: int) -> Grid:
        rows_of_codes = []
        for row in grid(integers(piece), rows, words):
            codes = unpacked(row, out, 4, straddling=False)
            placed = [0] * out
            for i, code in enumerate(codes):
                placed[8 * (i // 8) + AWQ_COLUMNS[i % 8]] = code
            rows_of_codes.append(placed)
        return turned(_less_half(rows_of_codes, 4), out)

    of_column = [c // size for c in range(columns)]
    scales = turned(grid(_raws(parts["scales"]), groups, out), out)
    codes, zeros = ordered(parts["qweight"], columns), ordered(parts["qzeros"], groups)
    return Matrix(codes, scales, parts["scales"].dtype, zeros, of_column, 4, {"qweight", "qzeros", "scales"})
