"""Cases of file names that a writer refuses (FMT-112), and of tensors that are expanded to dense arrays (FMT-098)."""

from typing import Any

from conformance.gen.files import FLAGS, WIDE, on, raw_array
from conformance.gen.numbers import Area
from conformance.gen.train_around import answered, spread
from conformance.oracle import files, files_names
from conformance.oracle.files import BITS, Tensor

NAMES = (
    "model.safetensors",
    "Model.SafeTensors",
    "pytorch_model.safetensors",
    "adapter_model.safetensors",
    "model-00001-of-00002.safetensors",
    "model-1-of-22.safetensors",
    "ADAPTER_MODEL-01-of-1.safetensors",
    "model.sparse.safetensors",
    "mymodel.safetensors",
    "model2.safetensors",
    "model-1-of-.safetensors",
    "model--of-1.safetensors",
    "model-1of2.safetensors",
    "model-1-of-2-of-3.safetensors",
    "model.bin",
    "model",
    "run.state",
    "model.safetensors.part",
    "model-x-of-2.safetensors",
    " model.safetensors",
)


def names() -> Area:
    """Return cases of file names, refused or not (FMT-112)."""
    area = Area("file-name", "a table")
    for i, name in enumerate(NAMES):

        def answer(name: str = name) -> dict[str, Any]:
            files_names.check_name(name)
            return {"ok": 1}

        answered(
            area,
            f"{i}",
            "file.name",
            "FMT-112",
            "a name of dense weights taken, or another refused",
            {"name": name},
            answer,
        )
    return area


def expansions() -> Area:
    """Return cases of tensors that are expanded to dense arrays, within a limit or beyond it (FMT-098)."""
    area = Area("expand", "value by value")
    tensors = {
        "F16": on("F16", (2, 3), [0, 2, 4]),
        "zeros": WIDE,
        "mask": on("NONE", (3, 5), [0, 7, 14]),
        "F4": on("F4", (2, 3), [0, 3, 4], b"\xa5\x03"),
        "F6": on("F6_E2M3", (1, 5), [1, 2, 4], b"\x81\x62\x03"),
        "flags": FLAGS,
    }
    for name, t in tensors.items():
        raw = files.pieces({"w": t}).pack()
        size = (t.rows * t.shape[-1] if len(t.shape) > 1 else t.shape[0]) * max(1, BITS[t.dtype] // 8)
        inputs, answer = spread("w", t, raw, size)
        area.add(
            name, "file.expand", "FMT-098 FMT-002", "a limit on another size than that of the array", inputs, answer
        )
        if t.support is not None:
            area.add(
                f"refuse-{name}",
                "file.expand",
                "FMT-098",
                "a limit passed",
                inputs | {"limit": size - 1},
                refused="FMT-098",
            )
    huge = Tensor("F32", (2**16, 2**19), b"", ())
    inputs = {"raw": raw_array(files.pieces({"w": huge}, {"w": "varint"}).pack()), "name": "w"}
    area.add("refuse-unlimited", "file.expand", "FMT-098", "no limit where none is given", inputs, refused="FMT-098")
    return area


AREAS = (
    names,
    expansions,
)
