"""Prune a Hugging Face model: seft prune HF_DIR OUT_DIR --method wanda --sparsity 0.7 --calibration TEXT

Wanda and SparseGPT keep every finished block in OUT_DIR.state until OUT_DIR is written; --resume continues from there.

With --quantize and no --method a pruned model is rounded as it is: seft prune PRUNED OUT_DIR --quantize int4:g64
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, cast

import typer

from formats.index import is_sparse
from seft_cli import console
from seft_cli.input import require_input, require_text
from seft_cli.interrupt import interruptible, interrupts
from seft_cli.output import require_absent
from seft_cli.records import by_option, of_records
from seft_ref import prune, quantise
from seft_ref.files.model import refuse_delta
from seft_ref.files.state import state_beside
from seft_ref.prune.keep import Scope
from seft_ref.prune.owl import OUTLIER, SPREAD
from seft_ref.runs.prune import CALIBRATED, METHODS


@dataclass(frozen=True, slots=True)
class PruneOptions:
    """Which weights are removed; None if an option was not given."""

    sparsity: Annotated[
        float | None,
        typer.Option(help="Fraction of weights removed, 0 to below 1 [0.5]; Wanda rounds down in every row."),
    ] = None
    pattern: Annotated[
        str | None,
        typer.Option(help="N:M keeps N of every M weights of a row, for example 2:4; instead of --sparsity."),
    ] = None
    scope: Annotated[
        str | None,
        typer.Option(
            help="Among which weights the smallest scores are removed: row, matrix or model "
            "[matrix for magnitude and random, row for wanda]."
        ),
    ] = None
    layers: Annotated[
        str, typer.Option(help="uniform, or owl: blocks with more outliers keep more weights; needs --calibration.")
    ] = "uniform"
    outlier: Annotated[
        float | None, typer.Option(help="With owl, how many times the mean score of its block an outlier exceeds [5].")
    ] = None
    spread: Annotated[
        float | None,
        typer.Option(help="With owl, half of the difference between the sparsest and the densest block [0.08]."),
    ] = None


@dataclass(frozen=True, slots=True)
class CalibrationOptions:
    """The windows on which activations are measured; None if an option was not given."""

    calibration: Annotated[
        Path | None, typer.Option(help="UTF-8 text that Wanda, SparseGPT and owl measure activations on.")
    ] = None
    samples: Annotated[int | None, typer.Option(min=1, help="Calibration windows [16].")] = None
    length: Annotated[int | None, typer.Option(min=2, help="Tokens of a calibration window [256].")] = None
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of the calibration windows and of random scores [0].")
    ] = None


@of_records
def main(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="HF_DIR", help="Hugging Face folder of a dense model; to quantise, a pruned one or a checkpoint."
        ),
    ],
    destination: Annotated[
        Path,
        typer.Argument(
            metavar="OUT_DIR",
            help="Where the pruned Hugging Face folder goes, or the quantised checkpoint; must not exist.",
        ),
    ],
    *,
    method: Annotated[str | None, typer.Option(help=f"One of {', '.join(METHODS)}; not with --quantize.")] = None,
    quantize: Annotated[
        str | None,
        typer.Option(
            help="Round the stored weights of a pruned model: int4 or int8, then :g64 for groups of 64 columns, then "
            ":asym for zero points. GPTQ with --calibration, else to nearest."
        ),
    ] = None,
    pruning: PruneOptions,
    windows: CalibrationOptions,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="Compute in float32 or float64; default: as stored, 16-bit as float32. In float32 rounding decides "
            "near ties, and the perplexity spreads by 5 % and more; in float64 it hardly ever does "
            "(docs/results/pruning.md)."
        ),
    ] = None,
    threads: console.Threads = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from OUT_DIR.state, of a run that was stopped.")
    ] = False,
) -> None:
    """Prune the linear layers of the blocks of HF_DIR and write the model to OUT_DIR.

    Only sparsegpt changes the weights that stay, and holds them in memory until the whole model is written.
    """
    require_absent(destination)
    if quantize is not None:
        unused = {"--method": method, "--resume": resume or None} | by_option(pruning)
        unused |= {"--layers": None if pruning.layers == "uniform" else pruning.layers}
        console.refuse_unused(f"--quantize {quantize}, which rounds a model as it is pruned,", (), unused)
        _quantise(folder, destination, quantize, windows, dtype)
        return
    if method is None:
        raise console.Refused(f"name --method, one of {', '.join(METHODS)}, or --quantize for a pruned model")
    if resume and method not in CALIBRATED:
        raise console.Refused(f"{method} keeps no finished blocks; start it without --resume")
    _require_choices(method, pruning, windows)
    refuse_delta(require_input(folder))
    if not folder.is_dir() or is_sparse(folder):
        advice = "; seft convert --to hf makes one of a sparse checkpoint" if is_sparse(folder) else ""
        raise console.Refused(f"{folder} is not a Hugging Face folder{advice}")
    state = state_beside(destination)
    # a run that found no room for its first block leaves an empty folder
    if state.exists() and not resume and (not state.is_dir() or any(state.iterdir())):
        raise console.Refused(f"{state} holds the blocks of an unfinished run; continue it with --resume or remove it")
    with interruptible(state), interrupts() as check, console.progress("pruning") as advance:

        def pruned(name: str, total: int) -> None:
            check()
            advance(name.removeprefix("model.layers."), total=total)

        done = prune(
            folder,
            destination,
            method,
            0.5 if pruning.sparsity is None else pruning.sparsity,
            pattern=pruning.pattern,
            scope=cast("Scope | None", pruning.scope),
            layers=pruning.layers,
            outlier=OUTLIER if pruning.outlier is None else pruning.outlier,
            spread=SPREAD if pruning.spread is None else pruning.spread,
            text=windows.calibration,
            samples=windows.samples or 16,
            length=windows.length or 256,
            seed=windows.seed or 0,
            dtype=dtype,
            resume=resume,
            progress=pruned,
        )
    for remark in done.remarks:
        console.err.print(remark)
    console.out.print(f"{destination}: removed {done.removed} of {done.of} weights ({done.removed / done.of:.4%})")


def _quantise(folder: Path, destination: Path, grid: str, windows: CalibrationOptions, dtype: str | None) -> None:
    """Write a pruned model as codes, and print a summary."""
    require_input(folder)
    if windows.calibration is None:
        console.refuse_unused(f"--quantize {grid} without --calibration", (), by_option(windows))
    else:
        require_text(windows.calibration, "calibration takes a plain text")
    with interrupts() as check, console.progress("quantising") as advance:

        def rounded(name: str, total: int) -> None:
            check()
            advance(name.removeprefix("model.layers."), total=total)

        done = quantise(
            folder,
            destination,
            grid,
            text=windows.calibration,
            samples=windows.samples or 16,
            length=windows.length or 256,
            seed=windows.seed or 0,
            dtype=dtype,
            progress=rounded,
        )
    for remark in done.remarks:
        console.err.print(remark)
    how = "to nearest" if windows.calibration is None else "by GPTQ"
    console.out.print(f"{destination}: {done.stored:,} weights on {grid} {how}, {done.zeros:,} of them 0")


def _require_choices(method: str, pruning: PruneOptions, windows: CalibrationOptions) -> None:
    """Refuse an unknown method, a missing calibration text, and options that the method does not use."""
    if method not in METHODS:
        raise console.Refused(f"unknown method {method!r}; choose one of {', '.join(METHODS)}")
    if pruning.layers != "owl":
        owl = {"--outlier": pruning.outlier, "--spread": pruning.spread}
        console.refuse_unused(f"--layers {pruning.layers}", (), owl)
    if method not in CALIBRATED and pruning.layers != "owl":
        used = ("--seed",) if method == "random" else ()
        console.refuse_unused(f"--method {method}", used, by_option(windows))
    elif windows.calibration is None:
        raise console.Refused(f"{method if method in CALIBRATED else 'owl'} needs --calibration TEXT")
    if windows.calibration is not None:
        require_text(windows.calibration, "calibration takes a plain text")
    if pruning.pattern is not None:
        console.refuse_unused(f"--pattern {pruning.pattern}", (), {"--sparsity": pruning.sparsity})
