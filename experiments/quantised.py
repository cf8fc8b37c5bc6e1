"""The experiment quantised: a pruned model in codes of 8 and 4 bits, before and after fine-tuning.

    python -m experiments quantised SPARSE_DIR --train TRAIN.txt --valid VALID.txt --set lr=0.002

A measurement is one line of the results: a grid, a treatment and a seed. Treatments that do not depend on a seed are
measured only with seed 0.
"""

import datetime as dt
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import formats
from experiments.markup import bullets, measured_by, prose, table, title_of
from experiments.page import as_json, machine_told
from experiments.picture import COLOURS, PLAIN, library, save
from experiments.results import Results, engine_digest, key_of
from experiments.run import Inputs, machine, perplexity_of
from experiments.statistics import Estimate, estimate, paired_percent, percent_told
from formats.dialects.coded import UPDATE
from seft_cli import console
from seft_cli.output import write_file
from seft_ref import TrainSettings, finetune, quantise, save_model, settings_of
from seft_ref.files.codes import is_quantised
from seft_ref.files.model import config_and_stored, load_model
from seft_ref.kernels import cpu
from seft_ref.model.weights import matrix_of
from seft_ref.quantise.merge import GRID_EXACT
from seft_ref.text.examples import stream_of
from seft_ref.train.settings import has_setting

NAME = "quantised"
HEADING = "What do codes of 8 and 4 bits cost a pruned model?"
TITLE = "a pruned model in codes of 8 and 4 bits, before and after fine-tuning"
TAKES = None
"""A command line may change every setting."""
GRIDS = ("int8:g64", "int4:g64")
FLOAT = "float"
"""Stands in the place of a grid where weights stay floats."""
CALIBRATION = {"samples": 16, "length": 256}
"""Number and length in tokens of the windows of the training text that GPTQ measures activations on."""
LORA_RANK = 8
ROUNDINGS = ("nearest", "gptq")
BEFORE = ("pruned", *ROUNDINGS)
"""Treatments that do not depend on a seed."""
WHAT = {
    "pruned": "pruned",
    "tuned": "pruned, fine-tuned",
    "nearest": "pruned, rounded to nearest",
    "gptq": "pruned, GPTQ",
    "beside": "pruned, GPTQ, fine-tuned beside the codes",
    "grid": "the same, the update rounded into the codes",
    GRID_EXACT: "pruned, GPTQ, fine-tuned in the codes",
    "lora": f"pruned, GPTQ, LoRA of rank {LORA_RANK} beside the codes, not merged",
    "after nearest": "pruned, fine-tuned, rounded to nearest",
    "after gptq": "pruned, fine-tuned, GPTQ",
}
"""Treatment -> its description on the page."""
Cell = tuple[str, str, int]
"""A grid or `float`, a treatment and a seed."""


def cells(seeds: Sequence[int]) -> list[Cell]:
    """Return the cells of the measurements of these seeds."""
    found: list[Cell] = []
    for seed in seeds:
        found += [(FLOAT, "pruned", seed), (FLOAT, "tuned", seed)]
        for grid in GRIDS:
            found += [(grid, what, seed) for what in WHAT if what not in ("pruned", "tuned")]
    return [cell for cell in found if cell[1] not in BEFORE or not cell[2]]


Measured = Iterator[tuple[Cell, dict[str, Any]]]


def measured(
    inputs: Inputs, settings: TrainSettings, seed: int, before: float, wanted: Set[Cell], work: Path
) -> Measured:
    """Measure the wanted cells of a seed, and yield (cell, measurements)."""
    settings = replace(settings, seed=seed)
    asked = {(grid, what): (grid, what, seed) for grid, what, _ in wanted}
    with tempfile.TemporaryDirectory(dir=work) as name:
        if (FLOAT, "pruned") in asked:
            yield asked[FLOAT, "pruned"], {"perplexity": before, **sizes_of(inputs.folder)}
        yield from _floats_first(inputs, settings, asked, Path(name))
        for grid in GRIDS:
            yield from _codes_first(inputs, settings, grid, asked, work, Path(name))


def _floats_first(
    inputs: Inputs, settings: TrainSettings, asked: Mapping[tuple[str, str], Cell], temporary: Path
) -> Measured:
    """Yield the measurements after fine-tuning of floats, and after rounding of the fine-tuned model."""
    rounded = [(grid, how) for grid in GRIDS for how in ROUNDINGS if (grid, f"after {how}") in asked]
    if not rounded and (FLOAT, "tuned") not in asked:
        return
    tuned = temporary / "tuned"
    finetune(inputs.folder, tuned, inputs.train, settings)
    if (FLOAT, "tuned") in asked:
        yield asked[FLOAT, "tuned"], _judged(tuned, inputs)
    for grid, how in rounded:
        out = temporary / f"after-{grid.replace(':', '-')}-{how}"
        _quantised(tuned, out, grid, how, inputs)
        yield asked[grid, f"after {how}"], _judged(out, inputs)


def _codes_first(
    inputs: Inputs,
    settings: TrainSettings,
    grid: str,
    asked: Mapping[tuple[str, str], Cell],
    work: Path,
    temporary: Path,
) -> Measured:
    """Yield the measurements after rounding, and after fine-tuning of the rounded model."""
    for how in ROUNDINGS:
        if (grid, how) in asked:
            yield asked[grid, how], _judged(base_of(inputs, grid, how, work), inputs)
    modes = [mode for mode in ("beside", "grid") if (grid, mode) in asked]
    base = base_of(inputs, grid, "gptq", work)
    if modes:
        final = finetune(base, None, inputs.train, settings).final
        assert final is not None, "the run has ended"
        for mode in modes:
            out = temporary / f"{mode}-{grid.replace(':', '-')}"
            counts = save_model(base, out, final, merge=mode)
            yield asked[grid, mode], _judged(out, inputs) | {"counts": asdict(counts)}
    if (grid, GRID_EXACT) in asked:
        out = temporary / f"exact-{grid.replace(':', '-')}"
        done = finetune(base, out, inputs.train, settings, merge=GRID_EXACT)
        assert done.merged is not None, "a model was written"
        yield asked[grid, GRID_EXACT], _judged(out, inputs) | {"counts": asdict(done.merged)}
    if (grid, "lora") in asked:
        done = finetune(base, None, inputs.train, settings_of("lora", **_of_lora(settings)))
        assert done.settings.adapter is not None, "lora is one"
        factors = 4 * sum(done.settings.adapter.parameters(m.shape) for m in done.config.targets())
        sizes = {part: n + factors if part in ("bytes", "memory") else n for part, n in sizes_of(base).items()}
        yield asked[grid, "lora"], {"perplexity": perplexity_of(done.model(), inputs), **sizes}


def _of_lora(settings: TrainSettings) -> dict[str, Any]:
    """Return the settings that LoRA has too, everything but those of slots and events, and its rank (ADP-010)."""
    flat = {name: value for name, value in settings.described().items() if name != "preset"}
    return {name: value for name, value in flat.items() if has_setting("lora", name)} | {"rank": LORA_RANK}


def _judged(folder: Path, inputs: Inputs) -> dict[str, Any]:
    return {"perplexity": perplexity_of(folder, inputs), **sizes_of(folder)}


def base_of(inputs: Inputs, grid: str, how: str, work: Path) -> Path:
    """Return the folder of the quantised model, which is made once and then reused by runs of the same text."""
    looks_at = {"train": inputs.identity()["train"], **CALIBRATION} if how == "gptq" else {}
    made_by = {"engine": engine_digest(), **looks_at}
    folder = work / f"{inputs.model[:12]}-{grid.replace(':', '-')}-{how}-{key_of(made_by)[:12]}"
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=work) as name:
            _quantised(inputs.folder, Path(name) / "made", grid, how, inputs)
            try:
                (Path(name) / "made").rename(folder)
            except OSError:  # another process, with other seeds, was faster
                if not folder.is_dir():
                    raise
    return folder


def _quantised(folder: Path, out: Path, grid: str, how: str, inputs: Inputs) -> None:
    text = stream_of(inputs.train) if how == "gptq" else None
    quantise(folder, out, grid, text=text, samples=CALIBRATION["samples"], length=CALIBRATION["length"])


def sizes_of(folder: Path) -> dict[str, int]:
    """Return the bytes of the pruned matrices of a checkpoint, and their numbers of weights.

    bytes   in the file, scales and updates included
    memory  as `seft eval` loads them, codes with --compact
    stored  weights that are stored
    beside  weights of updates beside the codes
    """
    loaded = load_model(folder, cpu, compact=is_quantised(folder))
    memory = sum(matrix_of(loaded.weights, matrix.name).nbytes for matrix in loaded.config.targets())
    names = [matrix.name for matrix in config_and_stored(folder)[0].targets()]
    with formats.open(folder) as reader:
        parts = [part for roles in reader.scales.values() for part in roles.values()]
        updates = [roles[UPDATE] for roles in reader.scales.values() if UPDATE in roles]
        return {
            "bytes": sum(reader.info(name).nbytes for name in (*names, *parts)),
            "memory": memory,
            "stored": config_and_stored(folder)[1],
            "beside": sum(reader.info(name).nnz for name in updates),
        }


def fill(
    inputs: Inputs, settings: TrainSettings, seeds: Sequence[int], before: float, results: Results, engine: str
) -> list[dict[str, Any]]:
    """Make the measurements that the results lack, and return those of all `seeds`.

    before  perplexity of the model as it is
    """
    results.path.parent.mkdir(parents=True, exist_ok=True)
    about = {**inputs.identity(), "settings": {**asdict(settings), "seed": 0}}
    about |= {"experiment": NAME, "preset": settings.label}
    every = cells(seeds)
    keys = {cell: key_of({**about, "cell": cell}) for cell in every}
    for seed in seeds:
        found = results.found()
        wanted = {cell for cell in every if cell[2] == seed and keys[cell] not in found}
        if not wanted:
            continue
        with console.progress(f"seed {seed}", len(wanted)) as advance:
            for cell, one in measured(inputs, settings, seed, before, wanted, results.path.parent):
                grid, what, _ = cell
                line = {"key": keys[cell], "engine": engine, **about, "grid": grid, "what": what, "seed": seed}
                line |= {"perplexity_before": before, "date": dt.datetime.now(dt.UTC).date().isoformat()}
                results.append({**line, "machine": machine(), **one})
                advance(f"{grid}, {what}: {one['perplexity']:.2f}")
    found = results.found()
    return [found[keys[cell]] for cell in every]


QUESTION = """
    Codes of 8 and 4 bits take a fraction of the bytes of floats, and lose some of what was trained. What does a pruned
    model lose by them, does fine-tuning make up for it, and should it come before the rounding or after it? After it
    the update may stand beside the codes as floats, or be rounded into them, at the end or in every step.
"""
SPREAD = "Perplexity is a mean over seeds ± half of the 95 % t-interval."
NO_SPREAD = "Perplexity is that of one seed, so that there are no intervals."
NOTE = """
    *In %* is how far it lies above that of fine-tuned floats with the same seeds. Bytes are those of a stored
    weight of the pruned matrices: codes, masks, scales, and what stands beside the codes; a code of 4 bits takes a
    byte on disk, and half a byte in memory. Those of LoRA are codes and factors; it has the learning
    rate of the slots, and may do better at one of its own. A cell is blank where the figure does
    not apply. *Vanished* is the share of the trained weights whose code is what it was before. *In the codes* is
    `--merge grid-exact`, which rounds weights in every step.
"""


def write(lines: Sequence[Mapping[str, Any]], command: str, model: str, texts: tuple[str, str], out: Path) -> None:
    """Write page, picture and lines, each whole or not at all."""
    out.mkdir(parents=True, exist_ok=True)
    _draw(lines, out / f"{NAME}.svg")
    write_file(out / f"{NAME}.json", as_json({"command": command, "model": model, "texts": texts}, lines))
    write_file(out / f"{NAME}.md", _page(lines, command, model, texts).encode())


def write_again(data: bytes, out: Path) -> None:
    """Write page and picture again from the JSON that `write` wrote."""
    content = json.loads(data)
    write(content["runs"], content["command"], content["model"], tuple(content["texts"]), out)


def _of(lines: Sequence[Mapping[str, Any]], grid: str, what: str) -> list[Mapping[str, Any]]:
    return [line for line in lines if (line["grid"], line["what"]) == (grid, what)]


def _rows(lines: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return (grid, treatment) of each row of the page."""
    return list(dict.fromkeys((line["grid"], line["what"]) for line in lines))


def _perplexity(lines: Sequence[Mapping[str, Any]], grid: str, what: str) -> Estimate:
    return estimate([line["perplexity"] for line in _of(lines, grid, what)])


def told(of: Estimate) -> str:
    """Return a perplexity with its interval as text."""
    return f"{of.mean:.2f}" + ("" if of.half_width is None else f" ± {of.half_width:.2f}")


def _above_floats(lines: Sequence[Mapping[str, Any]], grid: str, what: str) -> str:
    """Return as text how many per cent a row ends above fine-tuned floats; blank for these and for untrained rows."""
    if what in BEFORE or what == "tuned":
        return ""
    values = ({line["seed"]: line["perplexity"] for line in _of(lines, *of)} for of in ((grid, what), (FLOAT, "tuned")))
    return percent_told(paired_percent(*values))


def _vanished(lines: Sequence[Mapping[str, Any]], grid: str, what: str = "grid") -> float:
    counts = [line["counts"] for line in _of(lines, grid, what)]
    return sum(one["vanished"] for one in counts) / max(sum(one["changed"] for one in counts), 1)


def _bytes_of_one(lines: Sequence[Mapping[str, Any]], part: str) -> str:
    """Return the bytes of a stored weight as text, a mean over seeds."""
    found = [line[part] / line["stored"] for line in lines if part in line]
    return f"{sum(found) / len(found):.2f}" if found else ""


def _page(lines: Sequence[Mapping[str, Any]], command: str, model: str, texts: tuple[str, str]) -> str:
    first = lines[0]
    settings, on = first["settings"], first["evaluation"]
    numbers = sorted(line["seed"] for line in _of(lines, FLOAT, "tuned"))
    seeds = len(numbers)
    which = "" if numbers == list(range(seeds)) else f" ({', '.join(map(str, numbers))})"
    dates, machines = sorted({line["date"] for line in lines}), {machine_told(line["machine"]): None for line in lines}
    rows = []
    for grid, what in _rows(lines):
        here = _of(lines, grid, what)
        lost = f"{_vanished(lines, grid, what):.1%}" if what in ("grid", GRID_EXACT) else ""
        sizes = [_bytes_of_one(here, part) for part in ("bytes", "memory")]
        seen = told(_perplexity(lines, grid, what)), _above_floats(lines, grid, what)
        rows.append([f"`{grid}`", WHAT[what], *seen, *sizes, lost])
    rows_of = f"{settings['batch']} × {settings['length']} tokens, learning rate {settings['lr']:g}"
    data = (
        f"{model}. Trained on `{texts[0]}` for {settings['steps']} steps of {rows_of}, preset `{first['preset']}`; "
        f"GPTQ on {CALIBRATION['samples']} windows of {CALIBRATION['length']} tokens of the same text; perplexity over "
        f"{on['windows']} windows of {on['length']} tokens of `{texts[1]}`; {seeds} seed{'s' * (seeds > 1)}{which}."
    )
    parts = [
        f"# {title_of(command, HEADING)}",
        prose(QUESTION),
        f"![{NAME}: perplexity of every measurement]({NAME}.svg)",
        "## What came out",
        bullets(_sentences(lines)),
        "## Perplexity and bytes",
        table(["weights", "what was done", "perplexity", "in %", "bytes on disk", "in memory", "vanished"], rows, 2),
        prose(f"{SPREAD if seeds > 1 else NO_SPREAD} {NOTE}"),
        "The page *Quantise a pruned model* of the manual says which command does what.",
        "## Where it was measured",
        measured_by(command, NAME),
        prose(f"{' to '.join(dict.fromkeys((dates[0], dates[-1])))}; {'; and '.join(machines)}."),
        prose(data),
    ]
    return "\n\n".join(parts) + "\n"


def _sentences(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the findings as sentences, from the numbers alone."""
    tuned = _perplexity(lines, FLOAT, "tuned")
    found = [f"Weights as floats: {lines[0]['perplexity_before']:.2f} pruned, {told(tuned)} fine-tuned."]
    for grid in dict.fromkeys(line["grid"] for line in lines if line["grid"] != FLOAT):
        here = {what: told(_perplexity(lines, grid, what)) for of, what in _rows(lines) if of == grid}
        found.append(
            f"`{grid}`: {here['nearest']} rounded to nearest, {here['gptq']} by GPTQ. Fine-tuned beside the codes of "
            f"GPTQ {here['beside']}; the same update rounded into the codes {here['grid']}, where "
            f"{_vanished(lines, grid):.1%} of it vanished. Rounded in every step {here[GRID_EXACT]}."
        )
        found.append(
            f"`{grid}`, rounded after the fine-tuning of floats: {here['after nearest']} to nearest, "
            f"{here['after gptq']} by GPTQ. LoRA beside the codes of GPTQ: {here['lora']}."
        )
    return found


def _draw(lines: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write the picture as SVG: a row for every row of the table but the untrained ones, a point for every seed."""
    mpl = library()
    from matplotlib import pyplot as plt

    rows = [(grid, what) for grid, what in _rows(lines) if what not in BEFORE]
    grids = list(dict.fromkeys(grid for grid, _ in rows))
    with mpl.rc_context(PLAIN):
        figure, axes = plt.subplots(figsize=(8, 0.32 * len(rows) + 1), layout="constrained")
        for at, (grid, what) in enumerate(rows):
            colour, of = COLOURS[grids.index(grid) % len(COLOURS)], _perplexity(lines, grid, what)
            values = [line["perplexity"] for line in _of(lines, grid, what)]
            axes.scatter(values, [at] * len(values), s=14, color=colour, alpha=0.6)
            axes.errorbar(of.mean, at, xerr=of.half_width, fmt="D", color=colour, markersize=5, capsize=4)
        axes.set_yticks(range(len(rows)), [f"{grid}: {what}" for grid, what in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel("perplexity: seeds, mean, 95 % interval")
        save(figure, path)
