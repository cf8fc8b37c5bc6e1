"""Lists profiles, clauses, operations and cases, one per line, or shows one of them in full."""

import json
from collections.abc import Iterator
from dataclasses import astuple
from difflib import get_close_matches
from pathlib import Path
from textwrap import wrap

from conformance.cases.case import Case, load_all
from conformance.cases.clauses import Clause, read_clauses
from conformance.cases.coverage import coverage, elsewhere
from conformance.cases.ops import NAMES, OPS, PROFILES, RECORDS, TYPES
from conformance.cases.profiles import is_scalar, profiles_of_case
from conformance.judge.harness import Variant, can_ask
from conformance.properties import PROPERTIES
from conformance.properties.running import Largest, largest_arrays
from conformance.properties.trial import Property
from conformance.protocol.port import clause_of
from conformance.report import whole_text

__all__ = ["SIZES", "explained", "lines", "operations_page", "sizes"]

SIZES = Path(__file__).parents[1] / "registry" / "sizes.json"


def lines(*, clauses: bool, ops: bool, cases: bool) -> Iterator[str]:
    """Yield the lines of the lists that are asked for, or of the list of profiles if none is."""
    every = load_all()
    if not (clauses or ops or cases):
        for profile, names in PROFILES.items():
            n = sum(profile in profiles_of_case(case) for case in every)
            yield f"{profile}: {n} cases of {len(names)} operations: {', '.join(names)}"
    if clauses:
        for shown in coverage(read_clauses(), every, elsewhere()).values():
            yield f"{shown.clause.id} {shown.clause.level}  {_how(shown.cases, shown.reason)}"
    if ops:
        for op in OPS:
            yield from _operation(op, every)
    if cases:
        for case in every:
            yield f"{case.id}  {case.op}  {' '.join(case.clauses)}  {case.purpose}"


def _how(cases: tuple[str, ...], reason: str) -> str:
    return f"{len(cases)} cases" if cases else reason or "NOT SHOWN"


def _operation(op: str, every: list[Case]) -> Iterator[str]:
    n = sum(case.op == op for case in every)
    one = OPS[op]
    yield f"{op} ({one.profile}, {one.kind}, {n} cases)"
    yield f"  {one.says}"
    yield "  in:  " + ", ".join(f"{name}{'?' * (name in one.optional)} {kind}" for name, kind in one.inputs.items())
    yield "  out: " + ", ".join(f"{name} {kind} ({one.outputs[name]})" for name, kind in one.types.items())
    if one.rests_on:
        yield f"  rests on {', '.join(one.rests_on)}"


def explained(what: str) -> list[str]:
    """Return the lines that describe a profile, a clause, an operation, a case or a property.

    Raises:
        KeyError: nothing has that name; the message suggests similar names.
    """
    every, clauses = load_all(), read_clauses()
    what = clause_of(what)
    if what in PROFILES:
        return [line for op in PROFILES[what] for line in _operation(op, every)]
    if what in clauses:
        return _clause(clauses[what], every)
    if what in OPS:
        return [*_operation(what, every), "", *(f"{c.id}  {c.purpose}" for c in every if c.op == what)]
    match = next((case for case in every if case.id == what), None)
    if match is not None:
        return _case(match, clauses)
    if what in PROPERTIES:
        return _property(PROPERTIES[what], clauses)
    names = dict.fromkeys([*PROFILES, *clauses, *OPS, *(case.id for case in every), *PROPERTIES])
    near = get_close_matches(what, names, 3)
    raise KeyError(f"nothing is called {what!r}" + (f"; near it are {', '.join(near)}" if near else "; see list"))


def _property(one: Property, clauses: dict[str, Clause]) -> list[str]:
    asks = f"asks {', '.join(one.ops)}"
    return [f"{one.name} ({one.profile}, a property on random inputs)", one.text, asks] + [
        f"{name}: {clauses[name].shown}" for name in one.clauses
    ]


def _clause(clause: Clause, every: list[Case]) -> list[str]:
    shown = coverage(read_clauses(), every, elsewhere())[clause.id]
    tags = " [paper-silent]" if clause.paper_silent else ""
    out = [f"{clause.id} ({clause.level}){tags}", clause.shown, ""]
    if shown.reason:
        out.append(shown.reason)
    return out + [f"{c.id}  {c.op}  {c.purpose}" for c in every if clause.id in c.clauses]


def _case(case: Case, clauses: dict[str, Clause]) -> list[str]:
    out = [
        f"{case.id} ({case.op}), profiles {', '.join(sorted(profiles_of_case(case)))}",
        f"meant to catch: {case.purpose}",
    ]
    out += [f"{name} {clauses[name].text}" for name in case.clauses]
    out += ["", "in:"] + [f"  {k} = {whole_text(v)}" for k, v in case.inputs.items() if v is not None]
    if case.refused:
        return [*out, "", f"refused by {' or '.join(case.refused)}"]
    out += ["", f"out, from {case.oracle}:"] + [f"  {k} = {whole_text(v)}" for k, v in case.expected.items()]
    return out + [f"  bound of {k}: {b.terms} terms, gauge {whole_text(b.gauge)}" for k, b in case.bounds.items()]


def _records() -> Iterator[str]:
    """Yield the lines of a table for every type of dict with fixed members."""
    for title, members in RECORDS.items():
        yield from ("", f"### {title}", "", "| member | type |", "|---|---|")
        yield from (f"| `{name}` | {kind} |" for name, kind in members.items())


def _marks(op: str, cases: list[Case]) -> str:
    """Return the marks of an operation, which say in which classes it is asked (PRT-011, PRT-015)."""
    if is_scalar(op):
        return ", **scalar**"
    return ", **16 bits**" if any(can_ask(case, "bfloat16") for case in cases) else ""


def sizes(path: Path = SIZES) -> dict[str, Largest]:
    """Return by operation the largest array that a run asks, from the file that this module writes."""
    table = json.loads(path.read_text(encoding="utf-8"))
    return {op: Largest(numbers, tuple(shape), by) for op, (numbers, shape, by) in table.items()}


def operations_page() -> str:
    """Return the page of all operations, as Markdown: types and names, then a card for each operation."""
    every, largest = load_all(), sizes()
    out = [
        "# Operations",
        "",
        "What a port may offer: one card an operation, by profile. An input with ? may be absent.",
        "How each output is compared:",
        "*exact*, equal bits; *value*, equal numbers; *gauge*, within the rounding of its sums (NUM-002), and what",
        "OPT-009 and LYR-017 leave open of a power of β and of a frequency of RoPE;",
        "*binary64*, the same in binary64 whatever the dtype; *relative*, within 1e-9 (float64) or 1e-4 (float32)",
        "of the largest value (NUM-004); *state*, a file that is read and compared tensor by tensor (PRT-020);",
        "*packed*, a compressed file, compared by what its sections expand to (FMT-140 to FMT-142);",
        "*stock*, a Hugging Face folder, compared by tensors, companions and index (FMT-124).",
        "`seft verify explain OPERATION` lists its cases, `explain CASE` shows one in full. Written by",
        "`python -m conformance.command.listing` from `registry/operations.toml`, vectors and `registry/sizes.json`.",
        "",
        "A **scalar** operation has no numeric class of its own (PRT-015).",
        "It is asked once, with the dtype `float64`: what is `real` on its card is `f64`.",
        "An operation marked **16 bits** has cases in `bf16` and `fp16`; no other is asked there (PRT-011).",
        "Constraints are the clauses by which inputs of cases are refused.",
        "The largest array is the largest that a run asks or expects, in numbers or bytes.",
        "",
        "## Types",
        "",
        "| type | what goes over the line |",
        "|---|---|",
        *(f"| {name} | {what} |" for name, what in TYPES.items()),
        "",
        "Within brackets stand the lengths of the axes, the last one fastest.",
        "A name that is also an integer input is that input's value.",
        "Another name is the same length wherever it stands in one call, within a list in one entry.",
        "`...` is any number of axes, and `*` a length that depends on the answer or on nothing else in the call.",
        *_records(),
        "",
        "## Names",
        "",
        "| name | what it is |",
        "|---|---|",
        *(f"| {name} | {what} |" for name, what in NAMES.items()),
    ]
    for profile, names in PROFILES.items():
        out += ["", f"## {profile}"]
        for name in names:
            out += ["", *_card(name, [case for case in every if case.op == name], largest.get(name))]
    return "\n".join(out) + "\n"


def _card(name: str, cases: list[Case], largest: Largest | None) -> Iterator[str]:
    """Yield the lines of an operation's card."""
    op = OPS[name]
    refused = sorted({clause for case in cases for clause in case.refused})
    clauses = sorted({clause for case in cases for clause in case.clauses if not clause.startswith("NUM-")})
    yield from (f"### {name}", "", *wrap(op.says, 118, break_on_hyphens=False), "", "| | | |", "|---|---|---|")
    yield from (f"| in | `{key}{'?' * (key in op.optional)}` | {kind} |" for key, kind in op.inputs.items())
    yield from (f"| out | `{key}` | {kind}, *{op.outputs[key]}* |" for key, kind in op.types.items())
    yield ""
    shape = largest and f"; largest array {largest.numbers:,}: {' x '.join(map(str, largest.shape))}, by `{largest.by}`"
    facts = (
        refused and f"constraints: {' '.join(refused)}",
        f"clauses: {' '.join(clauses)}",
        op.rests_on and f"rests on {', '.join(f'`{one}`' for one in op.rests_on)}",
        f"{len(cases)} cases{_marks(name, cases)}{shape or ''}",
    )
    for fact in filter(None, facts):
        yield from wrap(f"- {fact}", 118, subsequent_indent="  ", break_on_hyphens=False)


def main() -> None:
    """Measure what a run asks, and write the file of sizes and the page of operations."""
    from conformance.engine.port import reference_numpy

    largest = largest_arrays(load_all(), Variant(reference_numpy(), "float64"))
    rows = [f" {json.dumps(op)}: {json.dumps(astuple(largest[op]))}" for op in OPS if op in largest]
    SIZES.write_text("{\n" + ",\n".join(rows) + "\n}\n", encoding="utf-8", newline="\n")
    (SIZES.parents[1] / "OPERATIONS.md").write_text(operations_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
