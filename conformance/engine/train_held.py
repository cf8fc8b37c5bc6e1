"""The operation `train.held` as a call into the engine: a run on targets that stay in 16 bits or codes (CKP-008)."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from ml_dtypes import bfloat16

import formats
from conformance.engine.train import run_of
from conformance.engine.values import Values, work_folder
from seft_ref.arrays.library import to_numpy
from seft_ref.files.model import load_model


def _checkpoint(a: Values) -> formats.Checkpoint:
    """Return the model of a case as it is stored."""
    dtype_of = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(bfloat16)}
    tensors: dict[str, formats.Tensor] = {}
    scales: dict[str, dict[str, str]] = {}
    for name, tensor in a["tensors"].items():
        whole = to_numpy(tensor)
        if name not in a["stored"]:
            tensors[name] = formats.Dense(whole)
            continue
        positions = to_numpy(a["stored"][name])
        mask = formats.from_flat(whole.shape, positions)
        if a["codes"] is None:
            tensors[name] = formats.with_values(mask, whole.reshape(-1)[positions].astype(dtype_of[a["held"]]))
            continue
        tensors[name] = formats.with_values(mask, to_numpy(a["codes"][name]).astype(np.int8))
        tensors[f"{name}.scale"] = formats.Dense(to_numpy(a["scales"][name]).astype(np.float32))
        scales[name] = {"scale": f"{name}.scale"}
        if a["held"].endswith(":asym"):
            tensors[f"{name}.zero_point"] = formats.Dense(to_numpy(a["zeros"][name]).astype(np.int8))
            scales[name]["zero_point"] = f"{name}.zero_point"
    described: Any = {"quantised": {"grid": a["held"], "rounding": "nearest"}} if scales else {}
    files = {"config.json": json.dumps(a["config"]).encode()}
    return formats.Checkpoint("model", tensors, described, files=files, scales=scales)


def _held(a: Values) -> Values:
    exact = bool(a["exact"])
    like = next(iter(a["tensors"].values()))
    with work_folder() as place:
        folder = Path(place) / "model"
        formats.write(folder, _checkpoint(a))
        model = load_model(folder, a["kernels"], compact=True, exact=exact, like=like)
        return run_of(a, model, merge="grid-exact" if exact else "beside")


OPERATIONS: dict[str, Any] = {"train.held": _held}
