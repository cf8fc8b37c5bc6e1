"""Fine-tune a pruned model so that it stays pruned: seft finetune SPARSE_DIR OUT_DIR --text TRAIN.txt

While it runs, the training state is kept in OUT_DIR.state; --resume continues from there. Started by mpirun -n 2, two
processes share the rows of each step.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from formats.index import is_sparse
from seft_cli import console, launcher, report
from seft_cli.data import DataOptions
from seft_cli.device import Arithmetic, Device, DeviceOption, place_of
from seft_cli.input import MaxBytes, limit_of, require_input
from seft_cli.interrupt import interruptible
from seft_cli.log.read import read_log
from seft_cli.log.write import LogWriter
from seft_cli.memory import itemsize_of, require_memory
from seft_cli.output import require_absent, require_beside, require_file, require_json, write_json
from seft_cli.records import of_records
from seft_cli.settings import SettingOptions, changes_of, refuse_without_use
from seft_ref import RunState, Started, StepRecord, TrainSettings, finetune, settings_of
from seft_ref.adapters.methods import LoraAdapter
from seft_ref.arrays.ranks import rows_of
from seft_ref.files.best import Best
from seft_ref.files.model import refuse_delta
from seft_ref.files.pruned import pattern_of_folder
from seft_ref.files.state import state_beside
from seft_ref.quantise.merge import GRID_EXACT
from seft_ref.train.diagnose import Finding, Watch
from seft_ref.train.settings import NAMES
from seft_ref.update.presets import DEFAULT


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How a run computes and what it keeps; none of these is a setting, so that none changes what it is."""

    dtype: Annotated[
        str | None, typer.Option(help="Compute in float32 or float64; default: as stored, 16-bit as float32.")
    ] = None
    merge: Annotated[
        str,
        typer.Option(
            help="Of a quantised model: beside keeps the update as floats beside the codes, grid rounds it into them, "
            "grid-exact does so in every step."
        ),
    ] = "beside"
    compact: Annotated[
        bool, typer.Option("--compact", help="Hold weights as they are stored, in 16 bits or as codes.")
    ] = False
    transposed: Annotated[
        bool,
        typer.Option(
            "--transposed",
            help="Hold every sparse matrix a second time, transposed: faster, 5.2 bytes more a stored weight.",
        ),
    ] = False
    arithmetic: Annotated[
        Arithmetic,
        typer.Option(help="Multiply float32 numbers as they are, or rounded to bfloat16 on a processor with AMX."),
    ] = Arithmetic.float32
    device: DeviceOption = Device.cpu
    recompute: Annotated[
        bool | None,
        typer.Option(help="Compute each block twice instead of keeping its activations [where they take a GiB]."),
    ] = None
    ignore_memory: Annotated[
        bool, typer.Option("--ignore-memory", help="Start although the run is expected not to fit into memory.")
    ] = False
    max_bytes: MaxBytes = None
    threads: console.Threads = None
    resume: Annotated[bool, typer.Option("--resume", help="Continue from OUT_DIR.state.")] = False
    save_every: Annotated[int, typer.Option(min=1, help="Steps between saves of the state.")] = 20
    stop_after: Annotated[int | None, typer.Option(min=1, help="Stop after this step and keep the state.")] = None
    log: Annotated[
        Path | None, typer.Option(help="Append every step, event and warning there as JSON lines (TRN-010).")
    ] = None
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write settings, the steps of this command and the totals there.")
    ] = None


@launcher.ending_together()
@of_records
def main(
    folder: Annotated[Path, typer.Argument(metavar="SPARSE_DIR", help="Sparse checkpoint of a pruned model.")],
    destination: Annotated[
        Path,
        typer.Argument(metavar="OUT_DIR", help="Where the fine-tuned sparse checkpoint goes; must not exist."),
    ],
    *,
    source: DataOptions,
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            "--preset",
            metavar="NAME",
            help=f"Preset of an update rule, or another method: {', '.join(NAMES)} [{DEFAULT}].",
        ),
    ] = None,
    change: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Any choice or setting of SPEC.md's chapters 8 to 10, e.g. --set grow=curvature. Repeatable.",
        ),
    ] = None,
    flags: SettingOptions,  # type: ignore[valid-type] # made from the settings
    options: RunOptions,
) -> None:
    """Train a sparse update of the model in SPARSE_DIR, or by another method, and write the result to OUT_DIR.

    The result is as sparse as the model was, except after lora and spiel-*, which say so.
    """
    ranks = launcher.ranks_of_launcher()
    _require_outputs(folder, destination, options, [source.text, *(source.data or ()), source.valid])
    limit = limit_of(options.max_bytes, require_input(folder))
    changes = changes_of(asdict(flags), change or [])
    source.require(changes)
    if options.merge != "beside" and source.valid is not None:
        raise console.Refused(
            f"--valid keeps the best model beside its codes; leave out --valid or --merge {options.merge}"
        )
    state_file = state_beside(destination)
    _require_start(folder, state_file, resume=options.resume)
    place = place_of(
        options.device,
        launcher.turn_here(ranks),
        transposed=options.transposed,
        arithmetic=options.arithmetic,
    )
    settings = settings_of(_one_method(method or [DEFAULT]), pattern=pattern_of_folder(folder), **changes)
    refuse_without_use(settings, changes)
    rows_of(settings.batch * settings.micro_batches, ranks)
    trained, valid_data, settings = source.read(folder, settings)
    processes = launcher.sharing(ranks, place.name)
    if not options.ignore_memory:
        itemsize = itemsize_of(folder, options.dtype)
        require_memory(
            folder,
            settings,
            place.free_bytes(),
            processes,
            itemsize=itemsize,
            recompute=options.recompute,
            index_bytes=place.index_bytes,
            compact=options.compact or options.merge == GRID_EXACT,
            dense_from=place.dense_from(itemsize),
            transposed=options.transposed,
            bfloat16=options.arithmetic is Arithmetic.bfloat16,
        )
    ranks.every(None)  # this is a barrier, so that no process loads a model before all have measured free memory
    # TRN-010: refuse a file that is not a log of this run before computing anything
    writer = LogWriter(options.log, settings.described(), resumed=options.resume)
    watch, shown_names = Watch(0), set[str]()
    records: list[dict[str, Any]] = []
    measurements: list[dict[str, Any]] = []

    def start(started: Started) -> None:
        # TRN-015: from here on files are written, by rank 0 only
        nonlocal writer, watch
        if ranks.rank:
            writer = LogWriter(None, settings.described())
        assert started.origin is not None
        writer.run(started.state.targets, started.origin.model, started.origin.text)
        if not ranks.rank:
            _warn_of_start(folder, started)
        watch = _watch(started.stored, None if ranks.rank else options.log, started.state.step)
        advance(done=started.state.step)

    def step(state: RunState, record: StepRecord, seconds: float) -> None:
        records.append(report.told(record) | {"seconds": seconds})
        writer.step(record, seconds, settings.timetable().fraction(state.step) if record.event else None)
        findings = watch.add_step(record.step, record.loss)
        if record.event:
            findings = [*findings, *watch.add_event(record.step, record.event["support"])]
        _warn(findings, writer, shown_names)
        advance(f"loss {record.loss:.3f}", done=record.step)

    def measured(at: int, loss: float, best: Best) -> None:
        measurements.append({"step": at, "loss": loss})
        writer.validation(at, loss, best.step)

    with (
        interruptible(state_file),
        console.progress("fine-tuning", min(options.stop_after or settings.steps, settings.steps)) as advance,
    ):
        done = finetune(
            folder,
            destination,
            trained,
            settings,
            resume=options.resume,
            stop_after=options.stop_after,
            save_every=options.save_every,
            valid=source.validation(valid_data, measured, shown=not ranks.rank),
            merge=options.merge,
            on_start=start,
            on_step=step,
            kernels=place.kernels,
            dtype=options.dtype,
            compact=options.compact,
            like=place.like,
            limit=limit,
            recompute=options.recompute,
            ranks=ranks,
        )
    if ranks.rank:
        return
    if done.final is None:
        write_json(options.json_file, report.totals(done, settings, records, measurements))
        console.out.print(f"stopped after step {done.state.step} of {settings.steps}; continue with --resume")
        return
    n_stored = done.kept()
    _warn(watch.end(done.state.step, n_stored), writer, shown_names)
    writer.end(done.state.step, n_stored, done.stored)
    write_json(options.json_file, report.totals(done, settings, records, measurements, n_stored))
    console.out.print(f"{destination}: {n_stored:,} stored weights ({done.stored:,} at load)")
    for line in report.summary(records, done, settings):
        console.out.print(line)


def _one_method(names: list[str]) -> str:
    """Return the method that was named; two names are refused, because one would be ignored."""
    if len(names) > 1:
        raise console.Refused(f"--method and --preset name one method, {' and '.join(names)} are given; leave one out")
    return names[0]


def _require_start(folder: Path, state_file: Path, *, resume: bool) -> None:
    """Refuse a model that is no sparse checkpoint, and a new run where the state of an unfinished one exists."""
    refuse_delta(folder)
    if not is_sparse(folder):
        raise console.Refused(
            f"{folder} is not a sparse checkpoint; prune it if it is dense (seft prune), then seft convert {folder} "
            "DST --to sparse, for codes with --keep-codes"
        )
    if state_file.exists() and not resume:
        raise console.Refused(
            f"{state_file} holds an unfinished run; unless that is at work, continue it with --resume or remove it"
        )


def _require_outputs(folder: Path, destination: Path, options: RunOptions, inputs: Sequence[Path | None]) -> None:
    """Refuse outputs that cannot be written, that lie inside the folder of a model, or that would replace an input."""
    require_absent(destination)
    for option, file in (("--log", require_file(options.log)), ("--json", require_file(options.json_file))):
        require_beside(option, file, destination, "which is written last")
        require_beside(option, file, folder, "which is a model")
    require_json(options.json_file, inputs, options.log)


def _warn_of_start(folder: Path, started: Started) -> None:
    """Warn of likely mistakes: a model that is not pruned, a result that is denser, events that never happen."""
    settings = started.settings
    positions = sum(target.base.shape[0] * target.base.shape[1] for target in started.state.targets.values())
    if started.stored == positions:
        console.err.print(f"warning: no weight of {folder} is pruned; seft prune prunes a dense model")
    if ends := _why_denser(settings):
        console.err.print(f"warning: the result will not be as sparse as {folder}: {ends}")
    if settings.rule.evolves and not any(map(settings.timetable().is_event, range(1, settings.steps + 1))):
        console.err.print(
            f"warning: none of the {settings.steps} steps has an event, so slots stay where they start; choose a "
            "smaller --evolve-every"
        )
    moves = settings.adapter is None and settings.rule.evolves and settings.rule.only_on_support
    if moves and sum(target.delta_budget for target in started.state.targets.values()) == started.stored:
        console.err.print("warning: every stored weight is a slot, so no slot can move; train fewer of them")


def _why_denser(settings: TrainSettings) -> str:
    """Return why a run ends with more stored weights than it began with, empty if it does not."""
    if settings.adapter is not None:
        dense = type(settings.adapter) is LoraAdapter and not settings.adapter.prunes
        return "lora changes every position; lora-star prunes again what it has merged" if dense else ""
    grows = settings.initial_scope == "anywhere" or (settings.rule.evolves and settings.rule.grow_scope == "anywhere")
    if settings.rule.adapts != "never" or settings.rule.drops == "weight" or not grows:
        return ""
    return f"{settings.label} trains positions that were pruned, and prunes none for them"


def _watch(budget: int, log: Path | None, step: int) -> Watch:
    """Return a watch that has seen the log up to `step`, if the run was resumed (TRN-011)."""
    watch = Watch(budget)
    if not step or log is None or not log.is_file():
        return watch
    before = read_log(log)
    events = {event.step: event.total.counts["support"] for event in before.events}
    for earlier in before.steps:
        if earlier.step <= step:
            watch.add_step(earlier.step, earlier.loss)
            if earlier.step in events:
                watch.add_event(earlier.step, events[earlier.step])
    return watch


def _warn(findings: list[Finding], writer: LogWriter, explained: set[str]) -> None:
    """Log warnings and print them (TRN-011); the message is not printed again for a name in `explained`."""
    for finding in findings:
        why = "as before" if finding.name in explained else finding.message
        console.err.print(f"warning: {finding.name} at step {finding.step}: {why}")
        explained.add(finding.name)
        writer.warning(finding.step, finding.name, finding.message)
