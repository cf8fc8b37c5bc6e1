"""Make the tables of reference pages from code, and some of results: python docs/tables.py writes them into pages.

A table stands between `<!-- table NAME -->` and `<!-- end -->`. A test compares it with the code.
"""

import ast
import csv
import inspect
import json
import math
import re
import sys
import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any, get_args, get_type_hints
from urllib.request import urlopen

import typer
from jsonschema import Draft202012Validator, ValidationError

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # benchmarks and experiments are not installed

from benchmarks.page import TABLE
from conformance.cases.ops import PROFILES
from conformance.command.export import SCHEMAS
from experiments.cost_page import seconds_a_step
from experiments.statistics import paired, paired_percent, percent_told
from seft_cli.app import COMMANDS
from seft_ref.adapters.methods import ADAPTERS, settings_of_adapter
from seft_ref.train.settings import METHODS, TrainSettings, flat_settings
from seft_ref.update.optimizers import AdamW, Sgd, Sm3, SpielAdamW
from seft_ref.update.presets import PRESETS
from seft_ref.update.rules import CLAUSE_OF, Rule

DOCS = Path(__file__).parent
PAGES = tuple(
    DOCS / name for name in ("reference/command-line.md", "reference/presets.md", "paper.md", "results/ports.md")
)
"""The pages that hold the tables."""
PORTS = DOCS / "results" / "ports"
"""The first lines of reports of ports, and list.csv with a line for each port."""
EXPERIMENTS = DOCS / "results" / "experiments"
REPAIRED = {
    "70 %": "recovery",
    "60 %": "recovery-wanda-60/recovery",
    "50 %": "recovery-wanda-50/recovery",
    "70 % by SparseGPT": "recovery-sparsegpt/recovery",
    "60 % by SparseGPT": "recovery-sparsegpt-60/recovery",
    "50 % by SparseGPT": "recovery-sparsegpt-50/recovery",
}
"""What a model was pruned to -> the page of its repair."""


def filled(text: str) -> str:
    """Return the text of a page with new tables."""
    return TABLE.sub(lambda m: f"{m[1]}\n{TABLES[m[2]]()}\n\n{m[3]}", text)


def commands() -> str:
    """Return the help text of every command, with tables of its arguments and options."""
    parts = []
    for name, (where, _) in COMMANDS.items():
        module, _, function = where.partition(":")
        if module.startswith("conformance"):
            from conformance.command.app import app as group

            command = typer.main.get_command(group)
        else:
            app = typer.Typer(add_completion=False)
            app.command()(getattr(import_module(f"seft_cli.{module}"), function))
            command = typer.main.get_command(app)
        parts.append(command_page(f"seft {name}", command, "##"))
        for sub, inner in getattr(command, "commands", {}).items():
            parts.append(command_page(f"seft {name} {sub}", inner, "###"))
    return "\n\n".join(parts)


def command_page(title: str, command: Any, heading: str) -> str:
    """Return the section of one command: its help text, and a table of its arguments and options."""
    context = command.make_context(title, [], resilient_parsing=True)
    records = (parameter.get_help_record(context) for parameter in command.params)
    rows = [(f"`{names}`", " ".join(told.split())) for names, told in filter(None, records)]
    parts = (command.help or "").replace("\b", "").split("\n\n")
    about = "\n\n".join(textwrap.fill(part, 120, break_on_hyphens=False, break_long_words=False) for part in parts)
    parts = [f"{heading} {title}", about]
    if rows:
        parts.append(table(("argument or option", "what it does"), rows))
    return "\n\n".join(parts)


def presets() -> str:
    """Return the table of presets, with the choices that each sets."""
    nothing = "nothing: every choice has its default"
    rows = [
        (f"`{name}`", ", ".join(f"`{key}` {value}" for key, value in choices.items()) or nothing)
        for name, choices in PRESETS.items()
    ]
    return table(("preset", "what it sets"), rows)


def methods() -> str:
    """Return the table of the other methods that a run can train, with the settings that each sets or has."""
    rows = [(f"`{name}`", ", ".join(f"`{key}` {value}" for key, value in of.items())) for name, of in METHODS.items()]
    for name, adapter in ADAPTERS.items():
        own = settings_of_adapter(adapter)
        rows.append((f"`{name}`", ", ".join(f"`{key}` {value:g}" for key, value in own.items())))
    return table(("method", "its settings"), rows)


def choices() -> str:
    """Return the table of the choices of a rule: values, default and clause of each."""
    hints = get_type_hints(Rule)
    rows = []
    for one in fields(Rule):
        values = get_args(hints[one.name]) or {bool: ("true", "false"), float: ("above 0, at most 1",)}[hints[one.name]]
        clause = CLAUSE_OF[one.name]
        link = f"[{clause}](../../SPEC.md#{clause.lower()})"
        told = ", ".join(f"`{value}`" for value in values)
        rows.append((f"`{one.name}`", told, f"`{str(one.default).lower()}`", link))
    return table(("choice", "values", "default", "clause"), rows)


def settings() -> str:
    """Return the table of the other settings of a run and of the optimizers: default and meaning of each."""
    rows = [("`pattern`", "", read_meanings(TrainSettings)["pattern"])]
    rows += [(f"`{one.name}`", f"`{one.default}`", one.metadata["meaning"]) for one in flat_settings()]
    for kind in (AdamW, SpielAdamW, Sgd, Sm3):
        meaning_of = read_meanings(kind)
        of_kind = f" of `{kind.__name__.lower()}`"
        rows += [(f"`{one.name}`{of_kind}", f"`{one.default}`", meaning_of[one.name]) for one in fields(kind)]
    return table(("setting", "default", "what it is"), rows)


def read_meanings(kind: type) -> dict[str, str]:
    """Return field of a dataclass -> the text below it in the source, empty if there is none."""
    (of_class,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(of_class, ast.ClassDef)
    meaning_of: dict[str, str] = defaultdict(str)
    for line, below in pairwise(of_class.body):
        if isinstance(line, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            meaning_of[ast.unparse(line.target)] = " ".join(str(below.value.value).split())
    return meaning_of


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
    return "\n".join([*lines, *("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)])


def repair() -> str:
    """Return how far each method ends above `seft` on each pruned model, and what its steps take."""
    ends = {title: by_arm(name, lambda run: run["perplexity_after"]) for title, name in REPAIRED.items()}
    seconds, memory = (by_arm("cost", what) for what in (seconds_a_step, lambda run: run["peak_memory_bytes"]))
    rows = []
    for arm in ends["70 %"]:
        cells = [repaired(arm, values) for values in ends.values()]
        rows.append((f"`{arm}`", *cells, multiple(arm, seconds), multiple(arm, memory)))
    headings = [f"[{title}](results/experiments/{name}.md)" for title, name in REPAIRED.items()]
    return table(("method", *headings, "time a step", "memory"), rows)


def by_arm(name: str, what: Callable[[Mapping[str, Any]], float]) -> dict[str, dict[int, float]]:
    """Return arm -> seed -> a number of each run of a page of results."""
    numbers: dict[str, dict[int, float]] = defaultdict(dict)
    for run in json.loads((EXPERIMENTS / f"{name}.json").read_text(encoding="utf-8"))["runs"]:
        numbers[run["arm"].removesuffix("-rank").removesuffix("-fast")][run["seed"]] = what(run)
    return numbers


def repaired(arm: str, ends: Mapping[str, Mapping[int, float]]) -> str:
    """Return the mean perplexity of `seft`, or by how many per cent another arm ends above it."""
    if arm not in ends:
        return ""
    if arm == "seft":
        return f"{fmean(ends[arm].values()):.2f}"
    return f"{percent_told(paired_percent(ends[arm], ends['seft']))} %".replace("-", "−")


def multiple(arm: str, numbers: Mapping[str, Mapping[int, float]]) -> str:
    """Return a number of an arm as a multiple of that of `seft`."""
    if arm == "seft" or arm not in numbers:
        return "1" if arm == "seft" else ""
    logs = ({seed: math.log(value) for seed, value in numbers[one].items()} for one in (arm, "seft"))
    return f"{math.exp(paired(*logs).mean):.2f}"


def ports() -> str:
    """Return the table of ports: versions, day and verdict of each."""
    rows = []
    for line, header in reports():
        port = header["port"]
        others = (f"{name} {port[name]}" for name in ("torch", "jax") if name in port)
        cells = (port.get("version", ""), ", ".join((port.get("language", ""), *others)), header["kit"])
        digest, day = header["kit_sha256"][:8], header["started"][:10]
        rows.append(
            (line["port"], *map(plain, cells), plain(digest), plain(day), plain(outcome_of(header)), line["contact"])
        )
    return table(("port", "version", "language", "kit", "its digest", "day", "verdict", "contact"), rows)


def profiles() -> str:
    """Return the table of profiles: the numeric classes in which each port passed them."""
    told = [(line["port"], header["options"]["profiles"], header["verdict"]) for line, header in reports()]
    rows = [
        (
            f"`{name}`",
            *(
                plain(", ".join(verdict["classes"].get(name, ["not passed"]))) if name in asked else ""
                for _, asked, verdict in told
            ),
        )
        for name in PROFILES
    ]
    return table(("profile", *(port for port, _, _ in told)), [row for row in rows if any(row[1:])])


def reports() -> list[tuple[dict[str, str], dict[str, Any]]]:
    """Return the lines of the list of ports, each with the header of its report."""
    with (PORTS / "list.csv").open(encoding="utf-8", newline="") as file:
        return [(line, header_of(**line)) for line in csv.DictReader(file)]


def header_of(port: str, report: str, contact: str) -> dict[str, Any]:
    """Return the first line of a report.jsonl; one from the network is kept as a file, which is read the next time.

    Raises:
        SystemExit: it is no header of a report; the line names the port and its contact.
    """
    away = report.startswith("https://")
    path = PORTS / (f"{re.sub('[^a-z0-9]+', '-', port.lower())}.json" if away else report)
    try:
        if away and not path.exists():
            with urlopen(report, timeout=60) as answer:  # noqa: S310  its address begins with https
                line = answer.readline(1 << 20)
        else:
            line = path.read_bytes().split(b"\n", 1)[0] + b"\n"
        header = json.loads(line)
        schema = json.loads((SCHEMAS / "report.schema.json").read_text(encoding="utf-8"))
        Draft202012Validator(schema | {"oneOf": [{"$ref": "#/$defs/header"}]}).validate(header)
    except (OSError, ValueError, ValidationError) as error:
        reason = f"{error.json_path}: {error.message}" if isinstance(error, ValidationError) else str(error)
        raise SystemExit(
            f"{report} of {port} ({contact}) does not begin with the header of a report: {reason}"
        ) from error
    if away:
        path.write_bytes(line)
    return header


def outcome_of(header: Mapping[str, Any]) -> str:
    """Return conformant, not conformant or no claim, with what a claim has to say of a port (PRT-010, PRT-013)."""
    if not header["verdict"]["conformant"]:
        return header["verdict"]["badge"]
    frozen = re.search(r"frozen cases only: [^(]*[^( ]", header["verdict"]["line"])
    limits = ["" if header["deterministic"] else "not deterministic", "" if header["zstd"] else "without zstd"]
    return ", ".join(filter(None, ["conformant", *limits, frozen[0] if frozen else ""]))


def plain(text: object) -> str:
    """Return a text of a report without what Markdown or HTML would read in it."""
    return " ".join(re.sub(r"[^\w .,:+()-]", "", str(text)).split())[:100]


TABLES: dict[str, Callable[[], str]] = {
    "commands": commands,
    "presets": presets,
    "methods": methods,
    "choices": choices,
    "settings": settings,
    "repair": repair,
    "ports": ports,
    "profiles": profiles,
}
"""Name of a table in its mark -> the function that makes it."""


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
