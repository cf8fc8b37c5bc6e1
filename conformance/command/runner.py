"""Starts the processes of a port, runs the cases, properties and checks of its profiles, and returns the run.

run = judge(Target.of_command("./my_port --flag"), Options(profiles=("core",)))
"""

import platform
import random
import secrets
import shlex
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from conformance.cases.case import Case, load_all
from conformance.cases.clauses import Clause, ClauseError, read_clauses
from conformance.cases.coverage import Coverage, coverage, elsewhere
from conformance.cases.ops import OPS, PROFILES
from conformance.cases.profiles import CLASSES, classes_offered, profiles_of_case
from conformance.cases.signatures import covering, refused_by, signatures
from conformance.command.doctor import no_operation
from conformance.judge.conduct import CHECKS, declining, ending, repeating, variants_of
from conformance.judge.harness import Variant, failing_operations
from conformance.judge.harness import run as run_cases
from conformance.judge.judgement import BLOCKED, PropertyResult, Run, cases_of
from conformance.judge.stop import Stop
from conformance.properties import PROPERTIES, Property, run_properties
from conformance.protocol.child import Child, Hello
from conformance.report.visible import visible

__all__ = ["BACKENDS", "DEFAULT", "Broken", "Options", "Target", "Unusable", "judge", "started"]

BACKENDS = {
    "numpy": "reference_numpy",
    "numba": "compiled",
    "numba-transposed": "compiled_transposed",
    "numba-bfloat16": "compiled_in_bfloat16",
    "strict": "strict",
    "gpu-on-cpu": "gpu_on_cpu",
    "cupy": "cupy",
}
"""Backends of our engine: by name, the function of `conformance.engine.port` that makes the port."""
DEFAULT = ("numpy", "numba", "strict")
"""Backends that are judged if none is named; `strict` is left out if its package, of the extra `dev`, is missing."""

EXAMPLES = 20
"""Number of random examples of each property in each form and class, in addition to the directed examples."""


class Broken(Exception):
    """The kit itself is at fault: its files cannot be read, or nothing covers a clause."""


CALLS_OF_A_PROPERTY = 3
"""The examples of a property take at most the time of so many calls, 60 seconds by default."""


class Unusable(Exception):
    """The options name something that does not exist, or leave nothing to judge."""


@dataclass(frozen=True, slots=True)
class Target:
    """The port under test: one program, or our engine in several forms, which must all pass.

    Attributes:
        commands: the command line of each form.
        shown: the options by which a user names this target.
        left_out: why a backend of `DEFAULT` is left out, empty if none is.
    """

    commands: tuple[tuple[str, ...], ...]
    shown: str
    left_out: str = ""

    @classmethod
    def of_command(cls, command: str) -> "Target":
        """Return the target for a command line, which is split as a shell would.

        Raises:
            ValueError: the command line is empty, or a quotation mark is left open.
        """
        words = tuple(shlex.split(command))
        if not words:
            raise ValueError("it names no program")
        return cls((words,), f"--port {shlex.quote(command)}")

    @classmethod
    def of_class(cls, name: str) -> "Target":
        """Return the target for a Python class, pkg.mod:Class, which is served in a child process."""
        return cls((_served(name),), f"--port-py {name}")

    @classmethod
    def of_engine(cls, backends: Sequence[str] = ()) -> "Target":
        """Return our engine on the named backends as the target; on those of `DEFAULT` if none is named."""
        lacks = not backends and find_spec("array_api_strict") is None
        chosen = tuple(backends) or tuple(name for name in DEFAULT if not lacks or name != "strict")
        shown = " ".join(f"--backend {name}" for name in backends)
        commands = tuple(_served(f"conformance.engine.port:{BACKENDS[name]}") for name in chosen)
        why = "backend strict is not judged, because array-api-strict is not installed: pip install array-api-strict"
        return cls(commands, shown, why if lacks else "")


def _served(name: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "conformance.protocol.serve", name)


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a run: what to run, and how.

    Attributes:
        profiles: names of profiles; empty for all in which the port offers anything.
        classes: numeric classes; empty for all that the port offers.
        only: globs that a case or a property matches by its id, an operation that it asks or a clause; empty for all.
        clause: id of one clause; empty for all.
        quick: whether to run only a few cases that detect every known mutant, and no properties.
        seed: the seed in hexadecimal; empty to draw one.
        timeout: seconds that a call may take.
        jobs: number of child processes of each form.
        examples: number of examples of each property; with 0 no property is tried, and nothing can be claimed.
        max_failures: number of failed cases after which the run stops; 0 for no limit.
    """

    profiles: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    clause: str = ""
    quick: bool = False
    seed: str = ""
    timeout: float = 20.0
    jobs: int = 1
    examples: int = EXAMPLES
    max_failures: int = 0

    @property
    def filtered(self) -> str:
        """The option that leaves cases out, empty if none does."""
        words = [f"--only {pattern}" for pattern in self.only]
        words += [f"--clause {self.clause}"] if self.clause else []
        words += ["--examples 0"] if not self.examples else []
        return " ".join(words + (["--quick"] if self.quick else []))

    def takes(self, name: str, ops: Sequence[str], clauses: Sequence[str]) -> bool:
        """Return whether the filters keep a case or a property, by its id, its operations and its clauses."""
        names = (name, *ops, *clauses)
        kept = not self.only or any(fnmatchcase(one, pattern) for pattern in self.only for one in names)
        return kept and (not self.clause or self.clause in clauses)


@dataclass(slots=True)
class Started:
    """A target whose processes run.

    Attributes:
        lanes: the same variants once for each job.
        hellos: the hello of each form.
        classes: numeric classes that are judged.
    """

    lanes: list[list[Variant]] = field(default_factory=list)
    hellos: list[Hello] = field(default_factory=list)
    classes: tuple[str, ...] = ()

    @property
    def children(self) -> list[Child]:
        """One process of each form."""
        return list(dict.fromkeys(variant.port for variant in self.lanes[0] if isinstance(variant.port, Child)))

    @property
    def offered(self) -> set[str]:
        """Operations that any form offers in any judged class."""
        return {op for variant in self.lanes[0] for op in variant.offers or ()}


@contextmanager
def started(target: Target, options: Options) -> Iterator[Started]:
    """Start every form of a target, once for each job.

    Raises:
        conformance.protocol.child.StartError: a form does not start, or sends no valid hello.
        Unusable: no form offers a class that is asked for, or one offers an unknown class.
    """
    running = Started()
    if target.left_out:
        print(f"verify: {target.left_out}", file=sys.stderr)
    with ExitStack() as stack:
        for job in range(max(1, options.jobs)):
            lane: list[Variant] = []
            for command in target.commands:
                child = stack.enter_context(Child(command, options.timeout))
                hello = child.hello()
                if job == 0:
                    running.hellos.append(hello)
                lane += variants_of(child, hello, options.classes)
            running.lanes.append(lane)
        offered = {name for hello in running.hellos for name in classes_offered(hello.ops)}
        named = {name for hello in running.hellos for classes in hello.ops.values() for name in classes}
        unknown = sorted(named - set(CLASSES))
        if unknown:
            raise Unusable(f"the port offers the numeric class {unknown[0]}; known are {', '.join(CLASSES)}")
        for name in sorted({op for hello in running.hellos for op in hello.ops} - set(OPS)):
            print(visible(f"verify: the port offers {no_operation(name)}"), file=sys.stderr)
        missing = [name for name in options.classes if name not in offered]
        if missing:
            offers = ", ".join(sorted(offered)) or "none"
            raise Unusable(f"the port does not offer the numeric class {missing[0]}; it offers {offers}")
        running.classes = tuple(name for name in CLASSES if name in (options.classes or offered))
        yield running


def judge(
    target: Target,
    options: Options,
    progress: Callable[..., None] = lambda remark="", done=None, total=None: None,
    artifacts: Path = Path("seft-failures"),
) -> Run:
    """Judge a target and return the run.

    progress   called before each case, and before each property, whose name is the remark
    artifacts  the folder for the folders of failed properties
    Raises     Unusable if the options leave nothing to judge, StartError if the target does not start, Broken if the
               kit is at fault
    """
    begun, clock = datetime.now(UTC), time.monotonic()
    every, clauses, shown = _kit()
    seed = options.seed or secrets.token_hex(16)
    with started(target, options) as port:
        offered = port.offered
        profiles = options.profiles or tuple(p for p, ops in PROFILES.items() if offered & set(ops))
        meant = [case for case in cases_of(profiles, every) if any(v.takes(case) for v in port.lanes[0])]
        asked = _asked(profiles, options)
        cases = chosen(meant, options, asked)
        if not cases and not options.filtered and not options.profiles:
            raise Unusable("the port offers no operation of any profile; its hello lists them under ops")
        if options.filtered:
            left = {p.profile for p in asked}.union(*map(profiles_of_case, cases))
            profiles = tuple(p for p in profiles if p in left)
        results = run_cases(
            cases,
            port.lanes[0],
            lambda case: progress(case.op, total=len(cases)),
            random.Random(seed),  # noqa: S311  the order of calls is no secret
            port.lanes[1:],
            options.max_failures,
        )
        stop = Stop(options.max_failures, sum(bool(r.failures) for r in results))
        properties: list[PropertyResult] = []
        if not stop.reached:
            bad = failing_operations(results)
            advance = partial(progress, done=len(cases))
            properties = _properties(port, asked, seed, options, artifacts, bad, advance)
        elif not options.filtered:
            mine = [p for p in PROPERTIES.values() if p.profile in profiles]
            why = f"{BLOCKED}: {stop.reason}"
            properties = [PropertyResult(p.name, p.clauses, p.profile, skipped=why) for p in mine]
        properties += _conduct(port, every, options)
        run = Run(
            port=_described(port.hellos),
            profiles=profiles,
            classes=port.classes,
            results=results,
            coverage=shown,
            properties=properties,
            clauses=clauses,
            chosen=_plan(cases, port.lanes[0]) | _tried(properties, profiles, options),
            seed=seed,
            fresh=not options.seed,
            filtered=options.filtered,
            quick=_quick(cases, meant) if options.quick else "",
            deterministic=all(hello.deterministic for hello in port.hellos),
            zstd=all(hello.zstd for hello in port.hellos),
            command=[target.shown],
            started=begun.isoformat(timespec="seconds"),
        )
    run.seconds = time.monotonic() - clock
    return run


def _kit() -> tuple[list[Case], dict[str, Clause], list[Coverage]]:
    """Return all cases, the clauses by id, and the coverage of each clause."""
    try:
        every, clauses = load_all(), read_clauses()
        unknown = next((case for case in every if case.op not in OPS), None)
        if unknown is not None:
            raise Broken(f"case {unknown.id} asks for {unknown.op}, which ops.py does not have")
        shown = list(coverage(clauses, every, elsewhere()).values())
    except (OSError, ValueError, KeyError, ClauseError) as error:
        raise Broken(f"the kit cannot be read: {type(error).__name__}: {error}") from error
    bare = [c.clause.id for c in shown if not c.covered]
    if bare:
        raise Broken(f"no case, no test elsewhere and no reason stands for {', '.join(bare)}")
    return every, clauses, shown


def _asked(profiles: Sequence[str], options: Options) -> list[Property]:
    """Return the properties of the profiles that a run tries."""
    if options.quick or not options.examples:
        return []
    return [p for p in PROPERTIES.values() if p.profile in profiles and options.takes(p.name, p.ops, p.clauses)]


def _properties(
    port: Started,
    asked: Sequence[Property],
    seed: str,
    options: Options,
    artifacts: Path,
    bad: Collection[str],
    progress: Callable[[str], None],
) -> list[PropertyResult]:
    """Try properties; return one result for each.

    bad  operations that failed a case; properties that ask them, or operations that rest on them, are blocked
    """
    results: list[PropertyResult] = []
    for prop in asked:
        results += run_properties(
            port.lanes[0],
            [prop.profile],
            seed,
            examples=options.examples,
            only=prop.name,
            artifacts=artifacts,
            seconds=CALLS_OF_A_PROPERTY * options.timeout,
            # a property that `--only` names is tried all the same, because the user wants its smallest example
            bad=() if prop.name in options.only else bad,
            partly=bool(options.filtered),
            progress=progress,
        )
    return results


def _conduct(port: Started, every: Sequence[Case], options: Options) -> list[PropertyResult]:
    """Return the results of the checks of the protocol; the port does not run afterwards."""
    children = port.children
    checks = [declining(children, every), ending(children, by_stop=True)]
    if options.filtered:
        # a filtered run reports faults only, and skips the last check, which would start the port once more
        return [one for one in checks if one.failure]
    return [*checks, repeating(children, every), ending(children, by_stop=False)]


def _described(hellos: Sequence[Hello]) -> dict[str, object]:
    """Return the port for a report: that of the first hello, with the names of all forms if there are several."""
    port = dict(hellos[0].port)
    if len(hellos) > 1:
        port["forms"] = [hello.name for hello in hellos]
    return port | {"host": platform.platform(), "python": platform.python_version()}


def chosen(cases: Sequence[Case], options: Options, properties: Sequence[Property] = ()) -> list[Case]:
    """Return the cases that match the filters of the options.

    properties  those that match the filters, so that cases may be missing

    Raises:
        Unusable: the filters match nothing.
    """
    selected = [case for case in cases if options.takes(case.id, (case.op,), case.clauses)]
    if not selected and not properties and options.only:
        filters = " ".join(f"--only {pattern}" for pattern in options.only)
        raise Unusable(f"{filters} matches no case, operation or clause of these profiles; see list")
    if not selected and not properties and options.clause:
        raise Unusable(
            f"no case of these profiles shows {options.clause}; `explain {options.clause}` says what is known of it"
        )
    return covering(selected, signatures()) if options.quick else selected


def _quick(cases: Sequence[Case], meant: Sequence[Case]) -> str:
    """Return a text that says how many cases a quick run has, and what it leaves out."""
    table = signatures()
    quick, full = refused_by(cases, table), refused_by(meant, table)
    return (
        f"quick: {len(cases)} of {len(meant)} cases. They refuse {len(quick)} of the {len(full)} known mutants that"
        " all cases refuse; another mistake may pass, and no property was tried"
    )


def _plan(cases: Sequence[Case], variants: Sequence[Variant]) -> dict[str, int]:
    """Return the number of answers that a pass of each case needs: one per form and class that offers its operation."""
    plan = {}
    for case in cases:
        meant = [v for v in variants if v.takes(case)]
        meant = meant[:1] if OPS[case.op].kind == "scalar" else meant
        plan[case.id] = sum(case.op in (v.offers or ()) for v in meant)
    return plan


def _tried(results: Sequence[PropertyResult], profiles: Sequence[str], options: Options) -> dict[str, int]:
    """Return a 0 for each property and check that a run needs: all of its profiles, or those that a filter left."""
    whole = [p.name for p in PROPERTIES.values() if p.profile in profiles] + list(CHECKS)
    return dict.fromkeys([one.name for one in results] if options.filtered else whole, 0)
