"""Compare update rules over several seeds:

    python -m experiments NAME SPARSE_DIR --train TRAIN.txt --valid VALID.txt

An experiment runs each of its arms (--list) with several seeds. Each finished run is one line of WORK/results.jsonl, so
that a stopped experiment continues where it stopped, and experiments share their common runs. Several processes may
fill one file if they are given different arms and seeds (--only-arm, --seed). Once all runs are finished, OUT/NAME.md,
.svg and .json are written. --redraw writes page and picture again from the JSON.
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from experiments import cost_page
from experiments.asked import (
    COMPARE,
    check_asked,
    check_chosen,
    check_fitting,
    check_model,
    experiment_of,
    pattern_for,
    tasks_of,
)
from experiments.own import OWN, Own
from experiments.page import Report, markdown
from experiments.picture import draw, library
from experiments.results import Results, Run, engine_digest, key_of
from experiments.run import Inputs, Tasks, measure, perplexity_of, read_inputs, tokens_of
from experiments.statistics import MOST
from experiments.table import ARMS, EXPERIMENTS, Experiment, compared
from seft_cli import console
from seft_cli.output import require_file, write_file
from seft_cli.settings import changes_of
from seft_ref import TrainSettings, settings_of
from seft_ref.files.state import settings_text
from seft_ref.kernels import cpu
from seft_ref.prune.record import PruningRecord, read_record
from seft_ref.runs.loops import loop_of

PAGES = Path("docs/results/experiments")
QUICK: dict[str, Any] = {"steps": 11, "evolve_every": 5, "batch": 1, "length": 32}
"""The settings of a quick run, with two events; --set overrides them."""
WINDOWS = 40
"""The windows of an evaluation unless the command line says how many."""
QUICK_WINDOWS, QUICK_ITEMS = 4, 1
"""The same of a quick run, and its items of each task: an answer has up to 256 tokens."""


def main(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Experiment, one of --list.")] = None,
    folder: Annotated[
        Path | None, typer.Argument(metavar="SPARSE_DIR", help="Sparse checkpoint of a pruned model.")
    ] = None,
    train: Annotated[Path | None, typer.Option(help="Text to train on, or examples (.jsonl).")] = None,
    valid: Annotated[Path | None, typer.Option(help="Text to predict, or examples (.jsonl).")] = None,
    tasks: Annotated[
        str | None, typer.Option(help="Tasks to score every final model on, such as arc_easy,piqa.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the data files of tasks.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Items of each task at most.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where page and picture go [docs/results/experiments; WORK/quick with --quick].")
    ] = None,
    work: Annotated[Path, typer.Option(help="Where results are kept, shared by all experiments.")] = Path(
        "build/experiments"
    ),
    quick: Annotated[
        bool,
        typer.Option("--quick", envvar="QUICK", help="Little of all, one seed: whether it runs, not what comes out."),
    ] = False,
    seeds: Annotated[int | None, typer.Option(min=1, max=MOST, help="Runs of each arm, seeds 0, 1, … [5]")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of all arms, e.g. steps=300; may be repeated."),
    ] = None,
    arm: Annotated[
        list[str] | None,
        typer.Option(metavar="LABEL:KEY=VALUE,...", help=f"An arm of {COMPARE}, e.g. wide:preset=seft,density=0.08."),
    ] = None,
    title: Annotated[str | None, typer.Option(help="The title of the page, in place of the experiment's own.")] = None,
    eval_length: Annotated[int, typer.Option(min=2, help="Tokens of an evaluation window.")] = 256,
    eval_windows: Annotated[int | None, typer.Option(min=1, help=f"Evaluation windows [{WINDOWS}].")] = None,
    only_arm: Annotated[list[str] | None, typer.Option(help="Run this arm only; may be repeated.")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Run this seed only; may be repeated.")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Say what is to be run and what is there; run nothing.")] = False,
    show: Annotated[bool, typer.Option("--list", help="Print experiments and arms.")] = False,
    redraw: Annotated[
        bool, typer.Option("--redraw", help="Write page and picture of OUT/NAME.json again; nothing else is needed.")
    ] = False,
    any_engine: Annotated[
        bool, typer.Option("--any-engine", help="Take results of other versions of the engine too; the page says so.")
    ] = False,
) -> None:
    """Make the missing runs of an experiment, and write its page and picture."""
    if show:
        print_list()
        return
    out = out or (work / "quick" if quick else PAGES)
    seeds = seeds or (1 if quick else 5)
    eval_windows = eval_windows or (QUICK_WINDOWS if quick else WINDOWS)
    if redraw:
        write_again(name, out, title)
        return
    name, folder, train, valid = check_asked(name, folder, train, valid)
    changes = changes_of({}, settings or [])
    given = (QUICK if quick else {}) | changes
    check_model(folder)
    of_tasks = any(option is not None for option in (tasks, data, limit))
    check_fitting(name, changes, of_arms=bool(arm or only_arm or plan or any_engine), of_tasks=of_tasks)
    for one in seed or ():
        if not 0 <= one < seeds:
            raise console.Refused(f"seed {one} is none of the {seeds} seeds, 0 to {seeds - 1}; raise --seeds")
    if name in OWN:
        pattern_for(name, folder, patterned=False)
        print_own(
            OWN[name],
            folder,
            train,
            valid,
            out,
            work,
            seeds,
            seed,
            given,
            {"length": eval_length, "windows": eval_windows},
            title,
        )
        return
    experiment = experiment_of(name, arm or [])
    check_chosen(name, experiment, only_arm or (), seed or ())
    pattern = pattern_for(name, folder, patterned=experiment.patterned)
    for file in (*(out / f"{name}.{end}" for end in ("md", "svg", "json")), work / "results.jsonl"):
        require_file(file)
    library()
    quick_limit = QUICK_ITEMS if quick and (tasks or experiment.tasks) else None
    scored = tasks_of(experiment, tasks, data, limit or quick_limit)
    length = settings_of(**{name: x for name, x in given.items() if name == "length"}).length
    inputs = read_inputs(folder, train, valid, {"length": eval_length, "windows": eval_windows}, length, scored)
    cells = cells_of(experiment, given | pattern, seeds, inputs)
    engine = engine_digest()
    results = Results(work, None if any_engine else engine)
    chosen = [c for c in cells if c.arm in (only_arm or experiment.arms()) and c.seed in (seed or range(seeds))]
    if plan:
        print_plan(name, cells, chosen, results)
        return
    fill(chosen, inputs, results, engine)
    finished = results.found()
    missing = [cell for cell in cells if cell.key not in finished]
    if missing:
        console.out.print(
            f"{name}: {len(cells) - len(missing)} of {len(cells)} runs are there; the page follows when all are"
        )
        return
    runs: dict[str, dict[int, Run]] = {}
    for cell in cells:
        runs.setdefault(cell.arm, {})[cell.seed] = finished[cell.key]
    options = {"seeds": seeds, "eval_length": eval_length, "eval_windows": eval_windows}
    own = [*(word for text in arm or [] for word in ("--arm", text)), *titled(title)]
    command = command_line(name, (folder, train, valid, out), options, given, own, scored, any_engine=any_engine)
    texts = (train.name, valid.name)
    report = Report(name, experiment, runs, command, describe(folder, runs), texts)
    write(report, out)
    console.out.print(f"wrote {out / name}.md, .svg and .json")


def write_again(name: str | None, out: Path, title: str | None = None) -> None:
    """Write page and picture again from the JSON of a finished experiment; a new title is stored in the JSON."""
    names = (*EXPERIMENTS, COMPARE, *OWN)
    if name not in names:
        raise console.Refused(f"--redraw needs one of {', '.join(names)}")
    kept = out / f"{name}.json"
    if not kept.is_file():
        raise console.Refused(f"there is no {kept}; run the experiment first")
    library()
    data = kept.read_bytes()
    content = json.loads(data)
    if title:
        words = shlex.split(content["command"])
        at = words.index("--title") if "--title" in words else len(words)
        command = shlex.join([*words[:at], *titled(title), *words[at + 2 :]])
        data = data.replace(json.dumps(content["command"]).encode(), json.dumps(command).encode(), 1)
    if name in OWN:
        OWN[name].write_again(data, out)
    else:
        experiment = EXPERIMENTS.get(name) or compared({run["arm"]: {} for run in content["runs"]})
        write(Report.of(name, experiment, data), out)
    console.out.print(f"wrote {out / name}.md and .svg")


def print_own(
    of: Own,
    folder: Path,
    train: Path,
    valid: Path,
    out: Path,
    work: Path,
    seeds: int,
    chosen: Sequence[int] | None,
    given: dict[str, Any],
    evaluation: dict[str, int],
    title: str | None,
) -> None:
    """Make the missing measurements of an experiment without arms, and write its page.

    chosen  the seeds to measure, after which no page is written; None for all and the page
    """
    for file in (*(out / f"{of.NAME}.{end}" for end in ("md", "svg", "json")), work / "results.jsonl"):
        require_file(file)
    library()
    inputs, engine = read_inputs(folder, train, valid, evaluation, settings_of(**given).length), engine_digest()
    results = Results(work, engine)
    before = perplexity_before(inputs, results)
    lines = of.fill(inputs, settings_of(**given), range(seeds) if chosen is None else chosen, before, results, engine)
    if chosen is not None:
        console.out.print(f"{of.NAME}: {len(lines)} measurements are there; the page follows without --seed")
        return
    options = {"seeds": seeds, "eval_length": evaluation["length"], "eval_windows": evaluation["windows"]}
    command = command_line(of.NAME, (folder, train, valid, out), options, given, titled(title))
    model = f"The model `{folder.name}` (state {inputs.model[:12]})"
    of.write(lines, command, model, (train.name, valid.name), out)
    console.out.print(f"wrote {out / of.NAME}.md, .svg and .json")


@dataclass(frozen=True, slots=True)
class Cell:
    """One planned run: an arm with a seed, its settings, and the key of its result."""

    arm: str
    seed: int
    settings: TrainSettings
    key: str


def cells_of(experiment: Experiment, given: dict[str, Any], seeds: int, inputs: Inputs) -> list[Cell]:
    """Return the runs of an experiment, seed by seed.

    Raises:
        SeftError: for settings that the engine refuses, or a model that an arm does not fit, before anything is run.
    """
    cells = []
    for seed in range(seeds):
        for arm in experiment.arms():
            settings = experiment.settings(arm, given, seed)
            if not seed:
                loop_of(settings, cpu).check(inputs.folder, inputs.train)
            content = {**inputs.identity(), "settings": json.loads(settings_text(settings))}
            if experiment.of_cost:
                # time and memory of a run count only if no other run went on beside it
                content["experiment"] = experiment.title
            cells.append(Cell(arm, seed, settings, key_of(content)))
    return cells


def fill(cells: list[Cell], inputs: Inputs, results: Results, engine: str) -> None:
    """Run the cells whose result is missing, one after the other, and add each to the results as it ends."""
    todo = [cell for cell in cells if cell.key not in results.found()]
    before: float | None = None
    for number, cell in enumerate(todo, 1):
        finished = results.found()
        if cell.key in finished:
            continue  # another process has finished this run meanwhile
        if before is None:
            before = perplexity_before(inputs, results)
        with console.progress(
            f"{cell.arm}, seed {cell.seed} ({number} of {len(todo)})", cell.settings.steps
        ) as advance:
            measured = measure(inputs, cell.settings, results.path.parent, advance)
        results.append(
            {
                "key": cell.key,
                "engine": engine,
                "arm": cell.arm,
                "seed": cell.seed,
                "settings": json.loads(settings_text(cell.settings)),
                "tokens": {"train": tokens_of(inputs.train), "valid": tokens_of(inputs.valid)},
                "perplexity_before": before,
                **inputs.identity(),
                **measured,
            }
        )


def perplexity_before(inputs: Inputs, results: Results) -> float:
    """Return the perplexity of the pruned model before training, from a finished run or by evaluating it."""
    same = inputs.identity()
    for run in results.found().values():
        if all(run[name] == same[name] for name in ("model", "valid", "evaluation")):
            return run["perplexity_before"]
    return perplexity_of(inputs.folder, inputs)


def pruning_of(folder: Path) -> PruningRecord:
    """Return the record of pruning of a model, empty if it has none (PRN-008)."""
    record = folder / "pruning.json"
    return read_record(record.read_bytes()) if record.is_file() else PruningRecord()


def describe(folder: Path, runs: dict[str, dict[int, Run]]) -> str:
    """Return a sentence that identifies the model, without its path."""
    run = next(iter(next(iter(runs.values())).values()))
    record = pruning_of(folder)
    recorded = {"method", "removed", "of"} <= record.keys()
    how = f", pruned by {record['method']} to {record['removed'] / record['of']:.1%}" if recorded else ""
    stored = f"{run['stored']:,} stored weights in the target matrices"
    return f"The model `{folder.name}` (state {run['model'][:12]}){how}: {stored}"


def command_line(
    name: str,
    paths: tuple[Path, Path, Path, Path],
    options: Mapping[str, int],
    given: Mapping[str, Any],
    own: Sequence[str] = (),
    tasks: Tasks | None = None,
    *,
    any_engine: bool = False,
) -> str:
    """Return the command that makes the page.

    paths  model, both texts and the folder of the page; only the last component of each is shown
    own    the words of the options --arm and --title
    """
    folder, train, valid, out = (path.name for path in paths)
    words = ["python", "-m", "experiments", name, folder, "--train", train, "--valid", valid, "--out", out]
    for option, value in options.items():
        words += [f"--{option.replace('_', '-')}", str(value)]
    if tasks is not None:
        words += ["--tasks", ",".join(tasks.names), "--data", tasks.data.name]
        words += [] if tasks.limit is None else ["--limit", str(tasks.limit)]
    for setting, value in given.items():
        words += ["--set", f"{setting}={value}"]
    words += own
    words += ["--any-engine"] if any_engine else []
    return shlex.join(words)


def titled(title: str | None) -> list[str]:
    """Return the words of a command that give its page a title."""
    return ["--title", title] if title else []


def write(report: Report, out: Path) -> None:
    """Write page, picture and runs, each whole or not at all."""
    out.mkdir(parents=True, exist_ok=True)
    of_cost = report.experiment.of_cost
    (cost_page.draw if of_cost else draw)(report, out / f"{report.name}.svg")
    write_file(out / f"{report.name}.json", report.json())
    write_file(out / f"{report.name}.md", (cost_page.markdown if of_cost else markdown)(report).encode())


def print_list() -> None:
    """Print every experiment with its rows, and what each arm sets."""
    for name, own in OWN.items():
        console.out.print(f"{name}: {own.TITLE}")
    console.out.print(f"{COMPARE}: arms of your own, --arm LABEL:preset=NAME,KEY=VALUE,...")
    for name, experiment in EXPERIMENTS.items():
        console.out.print(f"{name}: {experiment.title}")
        for row in experiment.rows:
            choices = ", ".join(f"{key} {value}" for key, value in ARMS[row.arm].items())
            console.out.print(f"  {row.label}: arm {row.arm} ({choices})")


def print_plan(name: str, cells: list[Cell], chosen: list[Cell], results: Results) -> None:
    """Print how many runs are finished and which are still to do."""
    finished = results.found()
    n_finished = sum(cell.key in finished for cell in cells)
    todo = [cell for cell in chosen if cell.key not in finished]
    console.out.print(f"{name}: {len(cells)} runs, {n_finished} in {results.path}, {len(todo)} to do")
    for arm in dict.fromkeys(cell.arm for cell in todo):
        seeds = ", ".join(str(cell.seed) for cell in todo if cell.arm == arm)
        console.out.print(f"  {arm}: seeds {seeds}")
