"""Compare the file sizes of one sparse change of a model: as deltas of this format, and as adapters of PEFT.

The model has random weights and the shapes of the block projections of SmolLM2-135M, in bfloat16. In each matrix the
weights of largest magnitude change by float32 amounts; Super-Tuning chooses weights in this way. This library writes
the two sparse adapters in the layouts of PEFT, reads them back and compares them with the change. The LoRA adapter has
about as many parameters as weights change.
"""

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.deltas import SHAPES, shapes
from benchmarks.rounds import JsonFile, machine, restart_in_clean_environment
from seft_cli.output import write_json

AMOUNT = 1e-3
"""Standard deviation of the amounts; that of the weights is 0.02."""


def adapters(
    share: Annotated[float, typer.Option(min=0, max=1, help="Share of the weights of each matrix that change.")] = 0.02,
    layers: Annotated[int, typer.Option(min=1, help="Blocks of the model; 30 have 106 million weights.")] = 30,
    json_file: JsonFile = None,
) -> None:
    """Write one sparse change in every format, and print the bytes of each file."""
    import formats
    from formats import delta

    restart_in_clean_environment(1)
    sizes = {n: s for n, s in shapes(SHAPES | {"layers": layers}).items() if n.endswith("_proj.weight")}
    base, changed = _made(sizes, share)
    count = sum(t.nnz for t in changed.values())
    amounts = delta.from_changes(base, "add", changed)
    rounded = delta.from_changes(base, "add", {n: _cast(t) for n, t in changed.items()})
    new_values = delta.diff(base, delta.apply(base, [amounts]))
    written: dict[str, tuple[int, int]] = {}
    with tempfile.TemporaryDirectory() as place:
        for way, change in (
            ("delta, amounts of F32", amounts),
            ("delta, amounts of BF16", rounded),
            ("delta, new values of BF16", new_values),
        ):
            for told, compress in (("", None), (", zstd", "zstd")):
                out = Path(place) / f"{way}{told}"
                formats.write(out, change, encoding="gap8", compress=compress)
                held = sum(t.nnz for t in change.tensors.values())
                written[f"{way}{told}"] = _bytes(out), held
        written |= _of_peft(Path(place), base, changed)
        written["LoRA of PEFT"] = _lora(Path(place) / "lora", sizes, count)
    total = sum(rows * columns for rows, columns in sizes.values())
    print(f"{count:,} of {total:,} weights change, in {len(sizes)} matrices")
    for way, (size, held) in written.items():
        print(f"{way:34} {size:>12,} bytes  {size / count:6.2f} a changed weight  {held:>10,} held")
    ways = {way: {"bytes": size, "held": held} for way, (size, held) in written.items()}
    result = {"machine": machine(1), "weights": total, "changed": count, "matrices": len(sizes), "ways": ways}
    write_json(json_file, result)


def _made(sizes: dict[str, Any], share: float) -> tuple[Any, dict[str, Any]]:
    """Return a random model, and for each matrix the amounts by which its weights of largest magnitude change."""
    import ml_dtypes
    import numpy as np

    import formats

    rng = np.random.default_rng(22)
    tensors, changed = {}, {}
    for name, shape in sizes.items():
        weights = rng.standard_normal(shape, dtype=np.float32) * np.float32(0.02)
        count = round(share * weights.size)
        at = np.sort(np.argpartition(np.abs(weights).ravel(), weights.size - count)[weights.size - count :])
        tensors[name] = formats.Dense(weights.astype(ml_dtypes.bfloat16))
        amounts = rng.standard_normal(count, dtype=np.float32) * np.float32(AMOUNT)
        changed[name] = formats.with_values(formats.from_flat(shape, at), amounts)
    return formats.Checkpoint("model", tensors), changed


def _cast(tensor: Any) -> Any:
    import ml_dtypes

    import formats

    return formats.with_values(tensor, tensor.values.astype(ml_dtypes.bfloat16))


def _of_peft(place: Path, base: Any, changed: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Write the two sparse adapters of PEFT, compare each with the change, and return way -> (bytes, amounts)."""
    from formats.dialects.changes import Changes
    from formats.dialects.shira import read_shira, write_shira
    from formats.dialects.super_tuning import read_super_tuning, write_super_tuning
    from formats.records import Sparse, flat

    written = {}
    for way, write, read, ending in (
        ("Super-Tuning of PEFT", write_super_tuning, read_super_tuning, "supertuning_values"),
        ("SHiRA of PEFT", write_shira, read_shira, "shira_weight"),
    ):
        write(place / way, Changes("add", changed), base.tensors)
        again = read(place / way, base.tensors).tensors
        for name, tensor in changed.items():
            found = again[name]
            assert isinstance(found, Sparse)
            if (flat(found) != flat(tensor)).any() or found.values.tobytes() != tensor.values.tobytes():
                raise AssertionError(f"{way} does not hold the changes of {name}")
        written[way] = _bytes(place / way), _held(place / way, ending)
    return written


def _lora(folder: Path, sizes: dict[str, Any], count: int) -> tuple[int, int]:
    """Write LoRA factors that have about `count` parameters, and return their bytes and their parameters."""
    import numpy as np
    from safetensors.numpy import save_file

    rank = max(1, round(count / sum(rows + columns for rows, columns in sizes.values())))
    factors: dict[str, Any] = {}
    for name, (rows, columns) in sizes.items():
        path = f"base_model.model.{name.removesuffix('.weight')}"
        factors[f"{path}.lora_A.weight"] = np.ones((rank, columns), np.float32)
        factors[f"{path}.lora_B.weight"] = np.ones((rows, rank), np.float32)
    folder.mkdir()
    save_file(factors, folder / "adapter_model.safetensors", {"format": "pt"})
    return _bytes(folder), sum(a.size for a in factors.values())


def _bytes(out: Path) -> int:
    """Return the bytes of the safetensors files of a folder, without its configuration."""
    return sum(file.stat().st_size for file in out.glob("*.safetensors"))


def _held(folder: Path, ending: str) -> int:
    """Return how many amounts an adapter stores, padding included."""
    from formats.dialects.stock import open_stock

    _, sections = open_stock(folder / "adapter_model.safetensors")
    return sum(section.shape[0] for name, section in sections.items() if name.endswith(ending))
