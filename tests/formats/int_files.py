"""Folders of quantised matrices, packed code by code in plain integers; nothing of `formats` is used."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

LIBRARY = "compressed-tensors"


def words(codes: list[int], bits: int, *, straddling: bool = True) -> list[int]:
    """Pack unsigned codes into 32-bit words, lowest bits first, as signed integers."""
    if straddling:
        stream = sum(code << i * bits for i, code in enumerate(codes))
        found = [stream >> 32 * i & 0xFFFFFFFF for i in range(-(-len(codes) * bits // 32))]
    else:
        per = 32 // bits
        found = [words(codes[i : i + per], bits)[0] & 0xFFFFFFFF for i in range(0, len(codes), per)]
    return [word - (1 << 32) if word >> 31 else word for word in found]


def packed(matrix: np.ndarray, bits: int, *, straddling: bool = True) -> np.ndarray:
    """Pack the rows of a matrix of unsigned codes, (rows, n), as int32."""
    rows = [words([int(code) for code in row], bits, straddling=straddling) for row in matrix]
    return np.array(rows, dtype=np.int32)


def drawn(seed: int, out: int, columns: int, groups: int, bits: int, dtype: type = np.float16) -> tuple:
    """Unsigned codes (out, columns), scales and unsigned zero points (out, groups); no zero point is 0."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 1 << bits, (out, columns))
    scales = rng.uniform(0.01, 1, (out, groups)).astype(dtype)
    return codes, scales, rng.integers(1, 1 << bits, (out, groups))


def weights(codes, scales, zeros, of_column) -> np.ndarray:
    """The weights in a loop: a product in binary64, which is exact, rounded once."""
    found = np.zeros(codes.shape, dtype=scales.dtype)
    for r in range(codes.shape[0]):
        for c in range(codes.shape[1]):
            group = of_column[c]
            found[r, c] = (int(codes[r, c]) - int(zeros[r, group])) * float(scales[r, group])
    return found


def write(folder: Path, tensors: dict, description: dict | None, **files: str) -> Path:
    """A folder of tensors with a description of the quantisation in its config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, folder / "model.safetensors")
    config = {"model_type": "llama", "rope_theta": 10000.0}
    config |= {"quantization_config": description} if description is not None else {}
    (folder / "config.json").write_text(json.dumps(config))
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def gptq(module: str, codes, scales, zeros, bits: int, of_column=None, *, stored_less: int = 0) -> dict:
    """The parts of a GPTQ matrix."""
    parts = {
        "qweight": packed(codes, bits).T,
        "qzeros": packed((zeros - stored_less).T, bits),
        "scales": scales.T,
    }
    if of_column is not None:
        parts["g_idx"] = np.array(of_column, dtype=np.int32)
    return {f"{module}.{part}": array for part, array in parts.items()}


def awq(module: str, codes, scales, zeros) -> dict:
    """The parts of an AWQ matrix: in each word columns 0, 2, 4, 6, 1, 3, 5, 7 of its eight, lowest bits first."""

    def ordered(matrix: np.ndarray) -> np.ndarray:
        order = [8 * word + column for word in range(matrix.shape[1] // 8) for column in (0, 2, 4, 6, 1, 3, 5, 7)]
        return packed(matrix[:, order], 4)

    return {f"{module}.qweight": ordered(codes.T), f"{module}.qzeros": ordered(zeros.T), f"{module}.scales": scales.T}


def pack_quantized(module: str, codes, scales, zeros, bits: int, *, straddling: bool = True, of_column=None) -> dict:
    """The parts of a pack-quantized matrix; zeros are None for a symmetric one, whose zero point is 2^(bits - 1)."""
    parts = {
        "weight_packed": packed(codes, bits, straddling=straddling),
        "weight_shape": np.array(codes.shape, dtype=np.int64),
        "weight_scale": scales,
    }
    if zeros is not None:
        parts["weight_zero_point"] = packed(zeros.T, bits, straddling=straddling).T
    if of_column is not None:
        parts["weight_g_idx"] = np.array(of_column, dtype=np.int32)
    return {f"{module}.{part}": array for part, array in parts.items()}


def scheme(bits: int, strategy: str, size: int | None = None, **more: object) -> dict:
    """A group of config_groups."""
    weights = {"num_bits": bits, "type": "int", "strategy": strategy, "group_size": size, "symmetric": True}
    return {"targets": ["Linear"], "weights": weights | more}


def library(*groups: dict, kind: str = "pack-quantized", **more: object) -> dict:
    """A description of compressed-tensors."""
    config_groups = {f"group_{i}": group for i, group in enumerate(groups)}
    return {"quant_method": LIBRARY, "format": kind, "config_groups": config_groups, **more}
