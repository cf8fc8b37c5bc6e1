"""The command line of the kit. Without a subcommand it judges a port, or our engine if no port is named."""

import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from conformance import expect as expectations
from conformance import report, templates
from conformance.cases.case import load_all
from conformance.cases.clauses import read_clauses
from conformance.cases.ops import PROFILES
from conformance.cases.profiles import CLASSES
from conformance.command import asking, listing, outputs
from conformance.command import doctor as doctors
from conformance.command import export as exports
from conformance.command.options import Backend, Device, Only, Patience, Port, PortPy, Timeout
from conformance.command.runner import BACKENDS, EXAMPLES, Broken, Options, Target, Unusable, chosen, judge, started
from conformance.expect.manifest import entries
from conformance.judge.conduct import CHECKS
from conformance.judge.judgement import Run, Status
from conformance.properties import PROPERTIES
from conformance.properties import freeze as freeze_case
from conformance.properties import replay as replay_case
from conformance.properties.artifacts import read as read_artifact
from conformance.protocol.child import StartError
from conformance.protocol.port import clause_of
from conformance.report.printing import print_run
from conformance.report.progress import tell_pace
from conformance.report.terminal import Terminal
from conformance.report.visible import visible

__all__ = ["app", "main"]

MET, NOT_MET, KIT = Status
USAGE, NOT_STARTED = 2, 3

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
console = Terminal(keep="\n\t", soft_wrap=True)


@app.callback(invoke_without_command=True)
def verify(
    context: typer.Context,
    *,
    port: Port = None,
    port_py: PortPy = None,
    backend: Backend = None,
    device: Device = None,
    profile: Annotated[
        str | None, typer.Option(metavar="A,B", help=f"Profiles: {','.join(PROFILES)}; default all that are offered.")
    ] = None,
    classes: Annotated[
        str | None, typer.Option("--class", metavar="A,B", help=f"Numeric classes: {','.join(CLASSES)}.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Few cases, no properties: not enough for a claim.")] = False,
    only: Only = None,
    clause: Annotated[str | None, typer.Option(metavar="ID", help="Only cases that show this clause.")] = None,
    seed: Annotated[str | None, typer.Option(metavar="HEX", help="Seed of order and properties; else drawn.")] = None,
    expect: Annotated[Path | None, typer.Option(metavar="FILE", help="Expected failures, a seft-expect.toml.")] = None,
    write_expect: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the failures of this run there as expected.")
    ] = None,
    report_folder: Annotated[
        Path | None, typer.Option("--report", metavar="DIR", help="Write report.html, .jsonl, junit.xml ... there.")
    ] = None,
    timeout: Timeout = 20.0,
    examples: Annotated[
        int, typer.Option(min=0, metavar="N", help="Examples of each property; 0 tries none, and claims nothing.")
    ] = EXAMPLES,
    jobs: Annotated[int, typer.Option(min=1, max=64, help="Processes of the port, asked side by side.")] = 1,
    max_failures: Annotated[
        int, typer.Option(min=0, metavar="N", help="Failed cases after which the rest is not run; 0 runs all.")
    ] = 0,
) -> None:
    """Judge a port of SEFT by SPEC.md, clause by clause; our engine if no port is named.

    Ends with a line "N passed, N failed, N skipped". Exit status: 0 the claim is met (or, of a filtered run, nothing
    failed), 1 it is not, 2 wrong use, 3 the port did not start, 4 the kit itself is broken or nothing ran.
    """
    if context.invoked_subcommand is not None:
        sources = {p.opts[0]: context.get_parameter_source(p.name or "") for p in context.command.params}
        if options_of_run := " ".join(o for o, source in sources.items() if source and source.name == "COMMANDLINE"):
            _stop(f"{options_of_run} before {context.invoked_subcommand} is of no use: write options behind it", USAGE)
        return
    target = _target(port, port_py, _on_device(device, backend))
    options = Options(
        profiles=_names(profile, PROFILES, "--profile"),
        classes=_names(classes, CLASSES, "--class"),
        only=tuple(only or ()),
        clause=clause_of(clause or ""),
        quick=quick,
        seed=_hexadecimal(seed),
        timeout=timeout,
        jobs=jobs,
        examples=examples,
        max_failures=max_failures,
    )
    if expect is not None and not expect.is_file():
        _stop(f"--expect {expect}: there is no such file; --write-expect makes one", USAGE)
    expected = None if expect is None else _read(expect)
    if wrong := outputs.check(write_expect, report_folder):
        _stop(wrong, USAGE)
    run = _run(target, options)
    if expected is not None:
        results: list[expectations.Judged] = [*run.results, *run.properties]
        names = {*PROPERTIES, *CHECKS}
        run.complaints += expectations.apply(expected, results, {c.id for c in load_all()}, names, run.classes)
    print_run(run, console, _mistakes)
    verdict = run.verdict()
    console.print(f"{verdict.passed} passed, {verdict.failed} failed, {verdict.skipped} skipped")
    if wrong := outputs.write(run, write_expect, report_folder):
        _stop(wrong, USAGE)
    if write_expect is not None:
        rows = entries(write_expect.read_text(encoding="utf-8"), write_expect.name)
        n_open = sum(not row["issue"] for row in rows)
        console.print(f"wrote {write_expect}; {n_open} of its entries name no issue yet")
    if run.fault:
        _stop(f"the kit is at fault: {run.fault}", KIT)
    if verdict.status == KIT:
        _stop("nothing ran: the port offers nothing of what was asked; see doctor", KIT)
    raise typer.Exit(verdict.status)


@app.command()
def doctor(port: Port = None, port_py: PortPy = None, timeout: Patience = None) -> None:
    """Greet a port and make a few small calls, showing exactly what was sent and what came back.

    Exit status: 0 all is well, 1 an answer is wrong, 2 wrong use, 3 the port did not start.
    """
    if port is None and port_py is None:
        _stop("doctor needs --port COMMAND or --port-py pkg.mod:Class", USAGE)
    try:
        limits = {} if timeout is None else {"timeout": timeout, "start_timeout": timeout}
        good = doctors.examine(_target(port, port_py, None).commands[0], console.print, **limits)
    except StartError as error:
        _stop(f"the port did not start: {error}", NOT_STARTED)
    raise typer.Exit(MET if good else NOT_MET)


@app.command("list")
def list_(
    *,
    clauses: Annotated[bool, typer.Option("--clauses", help="Every clause, and how it is shown.")] = False,
    ops: Annotated[bool, typer.Option("--ops", help="Every operation with inputs and outputs.")] = False,
    cases: Annotated[bool, typer.Option("--cases", help="Every case with its purpose.")] = False,
) -> None:
    """List profiles, clauses, operations or cases."""
    for line in listing.lines(clauses=clauses, ops=ops, cases=cases):
        console.print(line)


@app.command()
def explain(what: Annotated[str, typer.Argument(metavar="ID", help="A clause, an operation or a case.")]) -> None:
    """Show a clause with its cases, an operation with its inputs and outputs, or a case with inputs and answer."""
    try:
        lines = listing.explained(what)
    except KeyError as error:
        _stop(str(error.args[0]), USAGE)
    for line in lines:
        console.print(line)


@app.command()
def ask(
    case: Annotated[str, typer.Argument(metavar="CASE", help="The id of a case.")],
    port: Port = None,
    port_py: PortPy = None,
    backend: Backend = None,
    classes: Annotated[
        str | None, typer.Option("--class", metavar="A,B", help=f"Numeric classes: {','.join(CLASSES)}.")
    ] = None,
    timeout: Timeout = 20.0,
) -> None:
    """Ask a port one case, and print every line, the expected and the actual answer, and the first difference.

    Exit status: 0 the answer is right, 1 it is not, 2 wrong use, 3 the port did not start, 4 it was not asked.
    """
    kit_case = next((one for one in load_all() if one.id == case), None)
    if kit_case is None:
        _stop(f"no case is called {case!r}; `list --cases` names them", USAGE)
    options = Options(classes=_names(classes, CLASSES, "--class"), timeout=timeout)
    try:
        with started(_target(port, port_py, backend), options) as running:
            result = asking.ask(kit_case, running.lanes[0], lambda line: console.print(line))
    except StartError as error:
        _stop(f"the port did not start: {error}", NOT_STARTED)
    except Unusable as error:
        _stop(str(error), USAGE)
    if not result.ran and not result.failures:
        _stop(f"{case} was not asked: the port does not offer {kit_case.op} in a class of the case", KIT)
    raise typer.Exit(NOT_MET if result.failures else MET)


@app.command()
def export(
    archive: Annotated[
        Path | None,
        typer.Argument(metavar="ARCHIVE", help=f"A file that does not exist yet; default {exports.ARCHIVE}."),
    ] = None,
    only: Only = None,
) -> None:
    """Write the cases as an archive of JSON files, for porters in any language, and its SHA-256 beside it."""
    if only and archive is None:
        _stop(f"export --only leaves cases out, so name the archive: {exports.ARCHIVE} has all of them", USAGE)
    archive = archive or exports.ARCHIVE
    _require_absent(archive)
    try:
        cases = chosen(load_all(), Options(only=tuple(only or ())))
    except Unusable as error:
        _stop(str(error), USAGE)
    exports.write(archive, cases)
    console.print(f"wrote {len(cases)} cases to {archive}")


@app.command()
def replay(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What a property that failed left behind.")],
    port: Port = None,
    port_py: PortPy = None,
    backend: Backend = None,
    timeout: Timeout = 20.0,
) -> None:
    """Ask a port again the calls that failed in a property, without hypothesis."""
    try:
        # the folder is read first, so that no port is started in vain if it is broken
        read_artifact(folder)
    except ValueError as error:
        _stop(str(error), USAGE)
    try:
        with started(_target(port, port_py, backend), Options(timeout=timeout)) as running:
            result = replay_case(folder, running.lanes[0])
    except StartError as error:
        _stop(f"the port did not start: {error}", NOT_STARTED)
    except Unusable as error:
        _stop(str(error), USAGE)
    for line in report.explain(result, read_clauses()) if result.failures else ():
        console.print(line)
    passed, failed, skipped = (int(result.status == status) for status in ("passed", "failed", "skipped"))
    console.print(f"{passed} passed, {failed} failed, {skipped} skipped")
    raise typer.Exit(NOT_MET if failed else MET)


@app.command()
def freeze(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What a property that failed left behind.")],
    clause: Annotated[list[str], typer.Option(metavar="ID", help="Clause that the case shows; may be repeated.")],
    name: Annotated[str, typer.Option(help="Name of the case, after found.")],
) -> None:
    """Add the failed example of a property to the frozen cases of the kit, as found.NAME."""
    try:
        path = freeze_case(folder, clause, name)
    except (ValueError, OSError) as error:
        _stop(str(error), USAGE)
    console.print(f"wrote found.{name} to {path}")


@app.command("self-test")
def self_test(
    page: Annotated[Path | None, typer.Option(metavar="PATH", help="Write the kill matrix as a page.")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes; one a core unless told.")] = None,
    only: Annotated[
        str | None,
        typer.Option(metavar="GLOB", help="Only mutants, by operation or name, and null ports that GLOB matches."),
    ] = None,
) -> None:
    """Test the kit: it must refuse every mutant and null port, each for the clauses that it breaks."""
    from conformance.command import selftest

    if page is not None and (wrong := outputs.check_page(page)):
        _stop(wrong, USAGE)
    options = {"--page": page, "--jobs": jobs, "--only": only}
    words = [word for option, value in options.items() if value is not None for word in (option, str(value))]
    raise typer.Exit(selftest.main(words))


@app.command("new-port")
def new_port(
    language: Annotated[str, typer.Argument(metavar="LANGUAGE", help=f"One of {', '.join(templates.LANGUAGES)}.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that does not exist yet.")],
) -> None:
    """Write a port of two operations to start from, which `doctor` accepts."""
    if language not in templates.LANGUAGES:
        _stop(f"there is no template in {language}; choose one of {', '.join(templates.LANGUAGES)}", USAGE)
    _require_absent(folder)
    for line in templates.write(language, folder):
        console.print(line)


def _on_device(device: str | None, backend: Sequence[str] | None) -> Sequence[str] | None:
    """Return the backends that `--device` or `--backend` names; None if neither names any."""
    if device not in (None, "cpu", "cuda"):
        _stop(f"--device {device} is not known; choose from cpu, cuda", USAGE)
    if device == "cuda" and backend:
        _stop("--device cuda and --backend name different backends; give one", USAGE)
    return ("cupy",) if device == "cuda" else backend


def _target(port: str | None, port_py: str | None, backend: Sequence[str] | None) -> Target:
    options = {"--port": port, "--port-py": port_py, "--backend": backend or None}
    named = [name for name, value in options.items() if value is not None]
    if len(named) > 1:
        _stop(f"{' and '.join(named)} name different ports; give one", USAGE)
    for name in backend or ():
        if name not in BACKENDS:
            _stop(f"--backend {name} is not known; choose from {', '.join(BACKENDS)}", USAGE)
    if "cupy" in (backend or ()):
        from conformance.engine.port import without_cupy

        reason = without_cupy()
        if reason:
            _stop(f"--backend cupy: {reason}", USAGE)
    if port is not None:
        try:
            return Target.of_command(port)
        except ValueError as error:
            _stop(f"--port {port!r} is no command: {error}", USAGE)
    if port_py is not None:
        return Target.of_class(port_py)
    return Target.of_engine(backend or ())


def _names(text: str | None, choices: Collection[str], option: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",")) if text else ()
    for name in names:
        if name not in choices:
            _stop(f"{option} {name} is not known; choose from {', '.join(choices)}", USAGE)
    return tuple(dict.fromkeys(names))


def _hexadecimal(seed: str | None) -> str:
    if seed is not None:
        try:
            number = int(seed, 16)
        except ValueError:
            _stop(f"--seed {seed} is not hexadecimal", USAGE)
        if not 0 <= number < 1 << 128:
            _stop(f"--seed {seed} is no number of at most 32 hexadecimal digits", USAGE)
    return seed or ""


def _run(target: Target, options: Options) -> Run:
    try:
        with tell_pace("judging", lambda line: print(visible(line), file=sys.stderr)) as advance:
            return judge(target, options, advance)
    except Unusable as error:
        _stop(str(error), USAGE if options.filtered or options.profiles or options.classes else KIT)
    except StartError as error:
        _stop(f"the port did not start: {error}", NOT_STARTED)
    except Broken as error:
        _stop(str(error), KIT)


def _read(expect: Path) -> list[expectations.Expect]:
    try:
        return expectations.read(expect)
    except expectations.ManifestError as error:
        _stop(str(error), USAGE)


def _require_absent(folder: Path) -> None:
    if wrong := outputs.check_new(folder):
        _stop(wrong, USAGE)


def _mistakes() -> dict[str, tuple[str, ...]]:
    """Return the clauses that each mutant breaks, by its name. The import is here, because it imports the engine."""
    from conformance.wrong.mutants import MUTANTS

    return {mutant.name: mutant.clauses for mutant in MUTANTS}


def _stop(line: str, status: int) -> NoReturn:
    print(visible(f"verify: {line}", keep="\n"), file=sys.stderr)
    raise typer.Exit(status)


def main() -> int:
    """Run the command and return its exit status."""
    try:
        status = app(standalone_mode=False)
    except Exception as error:
        # typer may bring its own click, so that the class of a usage error has no public name
        tell = getattr(error, "format_message", None)
        if isinstance(error, MemoryError):
            print("verify: memory ran out; run fewer --jobs, or end other programs", file=sys.stderr)
            return KIT
        if tell is None:
            raise
        print(visible(f"verify: {tell()} See --help."), file=sys.stderr)
        return USAGE
    return status if isinstance(status, int) else MET
