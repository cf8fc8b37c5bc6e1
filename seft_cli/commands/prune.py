"""Prune a Hugging Face model: seft prune HF_DIR OUT_DIR --method wanda --sparsity 0.7 --calibration TEXT"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from formats.convert.hf import open_hf, write_hf
from formats.index import is_sparse
from seft_cli import console
from seft_cli.input import require_input
from seft_cli.output import require_absent
from seft_ref.files.model import check_names, check_shape, in_compute_dtype, in_file_dtype, read_config
from seft_ref.kernels import cpu
from seft_ref.model.config import ModelConfig
from seft_ref.prune.blockwise import finite_weight, prune_magnitude, prune_sparsegpt, prune_wanda
from seft_ref.prune.keep import parse_pattern, removed_count
from seft_ref.text.tokens import calibration_starts, check_windows, read_tokens

CALIBRATED = {"wanda": prune_wanda, "sparsegpt": prune_sparsegpt}
METHODS = ("magnitude", *CALIBRATED)


def main(
    folder: Annotated[Path, typer.Argument(metavar="HF_DIR", help="Hugging Face folder of a dense model.")],
    destination: Annotated[
        Path,
        typer.Argument(metavar="OUT_DIR", help="Where the pruned Hugging Face folder goes; must not exist."),
    ],
    method: Annotated[str, typer.Option(help=f"One of {', '.join(METHODS)}.")],
    sparsity: Annotated[
        float | None, typer.Option(help="Fraction of weights removed from every matrix, 0 to below 1 [0.5].")
    ] = None,
    pattern: Annotated[
        str | None,
        typer.Option(help="N:M keeps N of every M weights of a row, for example 2:4; instead of --sparsity."),
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="UTF-8 text that Wanda and SparseGPT measure activations on.")
    ] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Calibration windows [16].")] = None,
    length: Annotated[int | None, typer.Option(min=2, help="Tokens of a calibration window [256].")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the calibration windows [0].")] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="Compute in float32 or float64; default: as stored, 16-bit as float32. In float32 rounding decides "
            "near ties, and the perplexity spreads by some 5 %; in float64 it hardly ever does (docs/pruning.md)."
        ),
    ] = None,
) -> None:
    """Prune the linear layers of the blocks of HF_DIR and write the model to OUT_DIR.

    What stays keeps its bits under magnitude and wanda; sparsegpt changes it, and holds it until all is written.
    """
    require_absent(destination)
    of_calibration = {"--calibration": calibration, "--samples": samples, "--length": length, "--seed": seed}
    _require_choices(method, of_calibration, pattern, sparsity)
    if not require_input(folder).is_dir() or is_sparse(folder):
        raise console.Refused(f"{folder} is not a Hugging Face folder")
    sparsity = 0.5 if sparsity is None else sparsity
    samples, length, seed = samples or 16, length or 256, seed or 0
    groups = None if pattern is None else parse_pattern(pattern)
    removed_count(sparsity, 1)
    with open_hf(folder) as source:
        config = read_config(source.files)
        check_names(config, source)
        pruned = {matrix.name for matrix in config.targets()}
        for name, shape in config.parameters().items():
            check_shape(name, source.section(name).shape, shape)
            if name not in pruned:  # PRN-006; the pruner looks at the others
                finite_weight(name, source[name].values)

        def read(name: str) -> Any:
            return in_compute_dtype(name, source[name].values, dtype)

        if calibration is not None:
            stream = read_tokens(calibration, folder)
            check_windows(stream, length, config)
            tokens = np.asarray(stream, dtype=np.int64)
            starts = calibration_starts(len(tokens), length, seed, samples)
            batches = [np.stack([tokens[s : s + length] for s in starts[i : i + 4]]) for i in range(0, samples, 4)]
            found: Iterator[tuple[Any, ...]] = CALIBRATED[method](config, read, batches, cpu, sparsity, groups)
        else:
            found = prune_magnitude(config, read, sparsity, groups)
        masks: dict[str, Any] = {}
        changed: dict[str, Any] = {}
        with console.progress("pruning", len(config.targets())) as advance:
            for name, mask, *weight in found:
                masks[name] = np.packbits(mask)  # an eighth of a byte a weight, until the writer comes to it
                if weight:
                    changed[name] = in_file_dtype(name, weight[0], source[name].values.dtype)
                advance(name.removeprefix("model.layers."))
        removed = sum(_removed(config, name, packed) for name, packed in masks.items())
        total = sum(m.shape[0] * m.shape[1] for m in config.targets())
        record = {
            "method": method,
            "sparsity": None if groups else sparsity,
            "pattern": pattern,
            "removed": removed,
            "of": total,
            "calibration": {"samples": samples, "length": length, "seed": seed} if method in CALIBRATED else None,
        }
        files = dict(source.files) | {"pruning.json": (json.dumps(record, indent=2) + "\n").encode()}

        def fetch(name: str) -> Any:
            values = changed[name] if name in changed else source[name].values
            if name not in masks:
                return values
            mask = np.unpackbits(masks[name], count=values.size).reshape(values.shape).astype(bool)
            return np.where(mask, values, np.zeros((), values.dtype))  # PRN-006

        write_hf(destination, [source.section(name) for name in source], fetch, files)
    for remark in source.checkpoint().remarks:
        console.err.print(remark)
    console.out.print(f"{destination}: removed {removed} of {total} weights ({removed / total:.4%})")


def _require_choices(method: str, of_calibration: dict[str, Any], pattern: str | None, sparsity: float | None) -> None:
    """Refuse a method that there is not, or that lacks its text, and options that are not used."""
    if method not in METHODS:
        raise console.Refused(f"unknown method {method!r}; choose one of {', '.join(METHODS)}")
    if method not in CALIBRATED:
        console.refuse_unused(f"--method {method}", (), of_calibration)
    elif of_calibration["--calibration"] is None:
        raise console.Refused(f"{method} needs --calibration TEXT")
    if (calibration := of_calibration["--calibration"]) is not None:
        require_input(calibration, "text file")
    if pattern is not None:
        console.refuse_unused(f"--pattern {pattern}", (), {"--sparsity": sparsity})


def _removed(config: ModelConfig, name: str, packed: Any) -> int:
    shape = next(m.shape for m in config.targets() if m.name == name)
    return shape[0] * shape[1] - int(np.unpackbits(packed).sum())
