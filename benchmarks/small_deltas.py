"""Compare the bytes of deltas of few changes: in the three forms of this format, and in the formats of other tools.

The model has random weights and the shapes of the block projections of SmolLM2-135M, in bfloat16. In each matrix the
same number of weights change in their last four bits. This library writes the other formats too, in the layouts of
their tools. Each file is read back and compared with the change.
"""

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.deltas import SHAPES, shapes
from benchmarks.rounds import JsonFile, machine, restart_in_clean_environment
from seft_cli.output import write_json

CHANGES = (1, 10, 50, 200, 1000, 5000)
"""Changed weights in each matrix."""
FORMS = {"delta": None, "delta, sections in zstd": "zstd", "delta, packed": "file"}
"""Form of this format -> the value of `compress`."""


def small_deltas(
    layers: Annotated[int, typer.Option(min=1, help="Blocks of the model; 30 have 210 matrices.")] = 30,
    json_file: JsonFile = None,
) -> None:
    """Write deltas of a few weights a matrix in every form, and print the bytes of each."""
    import numpy as np

    restart_in_clean_environment(1)
    sizes = {n: s for n, s in shapes(SHAPES | {"layers": layers}).items() if n.endswith("_proj.weight")}
    rng = np.random.default_rng(24)
    bits = {name: _drawn(rng, shape) for name, shape in sizes.items()}
    before = _model(bits)
    told: dict[int, dict[str, int]] = {}
    for count in CHANGES:
        after = _model({name: _changed(rng, values, count) for name, values in bits.items()})
        with tempfile.TemporaryDirectory() as place:
            told[count] = _written(Path(place), before, after)
        print(f"{count} of each of {len(sizes)} matrices change")
        for form, size in told[count].items():
            print(f"  {form:34} {size:>12,} bytes")
    content = {"matrices": len(sizes), "weights": sum(v.size for v in bits.values())}
    write_json(json_file, {"machine": machine(1), **content, "bytes": {str(n): row for n, row in told.items()}})


def _drawn(rng: Any, shape: tuple[int, ...]) -> Any:
    """Return the bits of a random bfloat16 matrix, as uint16."""
    import ml_dtypes
    import numpy as np

    return (rng.standard_normal(shape, dtype=np.float32) * np.float32(0.02)).astype(ml_dtypes.bfloat16).view(np.uint16)


def _changed(rng: Any, bits: Any, count: int) -> Any:
    """Return a copy of a matrix of bits in which `count` weights have other last four bits."""
    changed = bits.copy()
    at = rng.choice(bits.size, count, replace=False)
    changed.reshape(-1)[at] ^= rng.integers(1, 16, count, dtype=bits.dtype)
    return changed


def _model(bits: dict[str, Any]) -> Any:
    import ml_dtypes

    import formats

    return formats.Checkpoint("model", {n: formats.Dense(v.view(ml_dtypes.bfloat16)) for n, v in bits.items()})


def _written(place: Path, before: Any, after: Any) -> dict[str, int]:
    """Write the change in every form, compare each file with it, and return form -> bytes."""
    import formats
    from formats import delta
    from formats.dialects.changes import Changes
    from formats.dialects.trl_delta import read_trl_delta, write_trl_delta
    from formats.dialects.weight_sync import apply_weight_sync, write_weight_sync

    change = delta.diff(before, after)
    size = {}
    for form, compress in FORMS.items():
        path = place / form.replace(", ", "-").replace(" ", "-")
        formats.write_file(path, change, compress=compress)
        _compare(delta.apply(before, [formats.read(path)]), after, form)
        size[form] = path.stat().st_size
    patch = place / "patch.safetensors"
    replaced: Any = {name.removeprefix("replace:"): tensor for name, tensor in change.tensors.items()}
    write_trl_delta(patch, Changes("replace", replaced), {})
    found = read_trl_delta(patch, before.tensors)
    for name, tensor in replaced.items():
        if found.tensors[name].values.tobytes() != tensor.values.tobytes():
            raise AssertionError(f"the patch does not hold the changes of {name}")
    size["TRL patch"] = patch.stat().st_size
    for encoding in ("overwrite", "xor"):
        folder = place / encoding / "weight_v000001"
        folder.parent.mkdir()
        write_weight_sync(folder, before, after, encoding=encoding)
        _compare(apply_weight_sync(before, [folder]), after, encoding)
        size[f"version folder of slime, {encoding}"] = sum(file.stat().st_size for file in folder.iterdir())
    return size


def _compare(got: Any, want: Any, form: str) -> None:
    for name, tensor in want.tensors.items():
        if got.tensors[name].values.tobytes() != tensor.values.tobytes():
            raise AssertionError(f"{form} does not lead to {name}")
