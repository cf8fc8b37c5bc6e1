"""Cases of quantised models in folders of chapter 12: they are expanded, written for others, or refused (QNT-009)."""

import struct
from dataclasses import replace
from typing import Any

from conformance.gen.files import content, on, raw_array
from conformance.gen.numbers import Area
from conformance.oracle import files_codes as oracle
from conformance.oracle import files_folders
from conformance.oracle.files import Tensor, text
from conformance.oracle.files_codes import Codes
from conformance.oracle.files_convert import dense
from conformance.oracle.files_deltas import number

NAME = "q.weight"
AT = ((0, 0), (0, 3), (0, 7), (1, 1), (1, 2), (2, 4), (2, 5))
ROW = [[-8, 0, 0, 1, 0, 0, 0, 7], [0, 2, 3, 0, 0, 0, 0, 0], [0, 0, 0, 0, -1, 4, 0, 0]]
SCALES = [[0x3E99_999A, 0x3F80_0001], [0x3DCC_CCCD, 0x4000_0000], [0x3F00_0000, 0x3EAA_AAAB]]
INFINITE, NAN = 0x7F80_0000, 0x7FC0_0000
LARGE = 0x7E00_0000
"""2¹²⁵, which 15 steps take beyond float32."""


def matrix(**changes: Any) -> Codes:
    """Return a matrix of int4:g4:asym that stores two codes which stand for 0."""
    zeros = [[1, -8], [2, 0], [0, 4]]
    return replace(Codes(4, ROW, "F32", SCALES, zeros, [0] * 4 + [1] * 4, AT), **changes)


def beside(dtype: str = "F32") -> Tensor:
    """Return weights beside codes: one replaces that of a code, two lie where no code is."""
    values = (0.3, -2.5, 1e-3)
    bits = struct.pack(f"<3{'f' if dtype == 'F32' else 'd'}", *values)
    return on(dtype, (3, 8), [6, 10, 16], bits)


def parts_of(m: Codes, update: Tensor | None = None) -> dict[str, Tensor]:
    """Return the tensors of a quantised matrix (QNT-009)."""
    return oracle.kept(NAME, m) | ({f"{NAME}.update": update} if update else {})


def given(parts: dict[str, Tensor], grid: str = "int4:g4:asym", rounding: str = "nearest") -> dict[str, Any]:
    """Return the folder of a model of one quantised matrix as inputs of an operation."""
    roles = {name.rpartition(".")[2]: name for name in parts if name != NAME}
    attributes = {"quantised": {"grid": grid, "rounding": rounding}}
    tree = files_folders.folder(
        parts, companions={"config.json": b"{}"}, attributes=attributes, scales={NAME: roles}
    ).pack()
    return {"files": {name: raw_array(raw) for name, raw in tree.items()}}


def expanded(m: Codes, update: Tensor | None = None) -> dict[str, Any]:
    """Return the outputs of `convert.expand_codes` (QNT-002, QNT-006.3, QNT-008.2, QNT-009.5)."""
    codes = oracle.weights(replace(m, dtype="F64", scales=_in_f64(m)) if update and update.dtype == "F64" else m)
    size = len(codes.bits) // len(AT)
    weights = {at: codes.bits[i * size : (i + 1) * size] for i, at in enumerate(AT)}
    for i, at in enumerate((update.support or ()) if update else ()):
        assert update is not None
        weights[at] = update.bits[i * size : (i + 1) * size]
    support = tuple(sorted(weights))
    tensor = Tensor(codes.dtype, m.shape, b"".join(weights[at] for at in support), support)
    return {"tensors": content({NAME: tensor})["tensors"], "attributes": text({}), "scales": text({})}


def _in_f64(m: Codes) -> list[list[int]]:
    exact = [[number("F32", scale.to_bytes(4, "little")) for scale in row] for row in m.scales]
    return [[int.from_bytes(struct.pack("<d", scale), "little") for scale in row] for row in exact]


def unfit() -> dict[str, tuple[dict[str, Tensor], str]]:
    """Return the tensors and the grid of models whose parts do not fit each other or the grid (QNT-009.3)."""
    m, grid = matrix(), "int4:g4:asym"
    parts = parts_of(m)
    zeros, scale = f"{NAME}.zero_point", f"{NAME}.scale"

    def with_scale(pattern: int) -> dict[str, Tensor]:
        patterns = [pattern, *(one for row in SCALES for one in row)][:6]
        return parts | {scale: dense("F32", (3, 2), patterns)}

    return {
        "code": (parts_of(replace(m, codes=[[8, *ROW[0][1:]], *ROW[1:]])), grid),
        "zero-point": (parts | {zeros: oracle.int8([[1, -9], [2, 0], [0, 4]])}, grid),
        "scale-0": (with_scale(0), grid),
        "scale-below-0": (with_scale(0xBE99_999A), grid),
        "scale-infinite": (with_scale(INFINITE), grid),
        "scale-nan": (with_scale(NAN), grid),
        "scale-large": (with_scale(LARGE), grid),
        "groups": (parts, "int4:g8:asym"),
        "part-of-a-group": (parts, "int4:g3:asym"),
        "no-zero-points": ({name: t for name, t in parts.items() if name != zeros}, grid),
        "zero-points": (parts, "int4:g4"),
        "scale-dtype": (parts | {scale: dense("F16", (3, 2), [0x3C00] * 6)}, grid),
        "update-dtype": (parts | {f"{NAME}.update": on("F16", (3, 8), [6])}, grid),
        "update-shape": (parts | {f"{NAME}.update": on("F32", (8, 3), [6])}, grid),
    }


def own_codes() -> Area:
    """Return cases of quantised models that a port reads from its own files."""
    area, m = Area("own-codes", "exact fractions by chapter 19"), matrix()
    for name, update in {"": None, "-beside": beside(), "-beside-f64": beside("F64")}.items():
        purpose = (
            "weights beside codes that are ignored, added or cast" if update else "stored codes of 0 that are dropped"
        )
        clauses = "QNT-002 QNT-009" + (" QNT-006 QNT-008" if update else "")
        area.add(
            f"expand{name}", "convert.expand_codes", clauses, purpose, given(parts_of(m, update)), expanded(m, update)
        )
    inputs = given(parts_of(m, on("F64", (3, 8), [], b"")))
    purpose = "F64 for a model because of an update that has no positions"
    area.add("expand-nothing-beside", "convert.expand_codes", "QNT-009 QNT-008", purpose, inputs, expanded(m))
    for name, (parts, grid) in unfit().items():
        purpose = f"a matrix of codes that is not checked, here with the fault {name}"
        area.add(
            f"refuse-{name}", "convert.expand_codes", "QNT-009", purpose, given(parts, grid), refused="QNT-009 QNT-001"
        )
    # codes of whole words along both sides, which GPTQ wants
    words = matrix(codes=[[1] * 8] * 8, scales=[SCALES[0]] * 8, zeros=[[0, 1]] * 8, support=AT)
    for op, clause in (("convert.pack_codes", "FMT-178"), ("convert.gptq_codes", "FMT-180")):
        purpose = "weights beside codes that are left out, where the layout has no place for them"
        inputs = given(parts_of(words, on("F32", (8, 8), [3, 6, 16])))
        area.add(
            f"refuse-{op.partition('.')[2]}", op, f"{clause} FMT-173", purpose, inputs, refused=f"{clause} FMT-154"
        )
    return area


AREAS = (own_codes,)
