"""Fill pages of the manual with text from code and SPEC.md while Sphinx reads them.

The text that the function NAME returns replaces `<!-- fill: NAME ARGUMENTS -->` and the lines after it up to `<!--
filled -->`, if there are any. Those lines tell a reader of the file itself where that text is. Links of a page that is
taken from elsewhere in the repository are turned into links of the manual. A link to a source file downloads it.
"""

import html
import posixpath
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import CudaLexer, PythonLexer
from sphinx.application import Sphinx
from sphinx.util import logging

from conformance.cases.case import Case, load_all
from conformance.cases.clauses import read_clauses
from conformance.report.shown import whole_text
from conformance.wrong.mutants import MUTANTS

LOG = logging.getLogger(__name__)
ROOT = Path(__file__).resolve().parents[1]
ELSEWHERE = {
    "SPEC.md": "reference/spec",
    "conformance/README.md": "reference/kit",
    "conformance/OPERATIONS.md": "reference/operations",
    "seft_ports/pytorch/README.md": "reference/pytorch",
    "seft_ports/peft/README.md": "reference/peft",
    "seft_ports/jax/README.md": "reference/jax",
    "seft_ports/c/README.md": "reference/c",
    "CONTRIBUTING.md": "contributing",
    "CHANGELOG.md": "changelog",
    "README.md": "index",
}
"""File of the repository -> the page of the manual that shows it."""
CODE = "_code"
"""The folder of the built manual that holds pages of source files and of cases."""
KIT = ("conformance/cases/compare.py", "conformance/judge", "conformance/protocol", "conformance/command")
IMPLEMENTS = ("seft_ref", "formats", "seft_cli", *KIT)
"""Folders and files whose lines implement clauses; the kit implements those of chapters 14 and 16."""
EVIDENCE = (("line of code", "lines of code"), ("case", "cases"), ("mutant", "mutants"), ("test file", "test files"))
"""Singular and plural of the things that `evidence` and `tests_of` return for a clause."""
ENTRIES = 64
"""The most entries of an array of a case that are shown."""
_ID = r"[A-Z]{3,4}-\d{3}(?:\.\d+)?"
"""The id of a clause or of one of its parts."""
_PART_STARTS = re.compile(rf"^\*\*({_ID})\*\* \((?:MUST|SHOULD|MAY)\)")
_NAMED = re.compile(
    r"```.*?^```|`(?:[^`\n]|\n(?!\n))*`|!?\[[^\]]*\]\([^)]*\)"
    rf"|\*\*{_ID}\*\*|\({_ID}\)=|<p class=.*?</p>|\b({_ID})\b",
    re.DOTALL | re.MULTILINE,
)
"""The id of a clause or part, or text in which an id must not become a link."""
_MARK = re.compile(r"<!-- fill: (\w+)((?:\s+[^\s>]+)*?)\s+-->(?:\n(?:(?!<!--).)*<!-- filled -->)?", re.DOTALL)
"""A mark where a page is filled, with the text that the file has there."""
_LINK = re.compile(r"(!?\[(?:[^\[\]]|\[[^\]]*\])*\])\(([^)\s]+)\)")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension."""
    app.connect("source-read", fill)
    app.connect("autodoc-process-docstring", as_written)
    app.connect("build-finished", write_code)
    return {"parallel_read_safe": True}


def fill(app: Sphinx, page: str, source: list[str]) -> None:
    """Replace the marks of a page, and the links that lead out of the manual."""
    text = with_links(source[0], f"docs/{page}.md")
    if "<!-- fill: " in text:
        # read the page in every build, because Sphinx does not know the files that its text is made from
        app.env.note_reread()
    text = _MARK.sub(lambda m: FILLED[m[1]](*m[2].split()), text)
    source[0] = with_clauses(text)


def as_written(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Show the lines of a docstring below its first paragraph as they are, because they align names and meanings."""
    first, *rest = "\n".join(lines).split("\n\n", 1)
    if rest and rest[0].strip():
        lines[:] = [
            *first.splitlines(),
            "",
            ".. code-block:: text",
            "",
            *(f"    {line}" for line in rest[0].splitlines()),
            "",
        ]


def with_links(text: str, path: str) -> str:
    """Return Markdown of a file of the repository, with its links replaced by links of the manual."""

    def link(found: re.Match[str]) -> str:
        label, target = found[1], found[2]
        if re.match(r"[a-z]+:|#", target):
            return found[0]
        file, mark, anchor = target.partition("#")
        there = posixpath.normpath(posixpath.join(posixpath.dirname(path), file))
        if there in ELSEWHERE:
            return f"{label}(/{ELSEWHERE[there]}.md{mark}{anchor})"
        if there.startswith("docs/") and (ROOT / there).is_file():
            return f"{label}(/{there.removeprefix('docs/')}{mark}{anchor})"
        name = label.strip("![]`")
        if (ROOT / there).exists():
            return f"{{download}}`{name} </../{there}>`" if (ROOT / there).is_file() else f"`{name}`"
        LOG.warning("%s: there is no %s", path, target)
        return found[0]

    return _LINK.sub(link, text)


def with_clauses(text: str) -> str:
    """Return Markdown in which the id of a clause or part links to it, outside code, links and the clause itself."""

    def link(found: re.Match[str]) -> str:
        return f"[{found[1]}](#{found[1].lower()})" if found[1] in anchors() else found[0]

    return _NAMED.sub(link, text)


def file(path: str) -> str:
    """Return a Markdown file of the repository."""
    return with_links((ROOT / path).read_text(encoding="utf-8"), path)


def below(*pages: str) -> str:
    """Return a list of the pages that the navigation shows below this page."""
    return "\n".join(("## Pages", "", "```{toctree}", ":maxdepth: 1", "", *(f"/{page}" for page in pages), "```"))


def spec() -> str:
    """Return SPEC.md with an anchor at each part of a clause.

    A line below the last part of a clause links to its code, cases, mutants and tests.
    """
    source = file("SPEC.md").splitlines()
    lines, clause = [], ""
    for number, line in enumerate(source):
        # these anchors are for readers on GitHub; the manual makes its own, one for each part
        if line.startswith("<a id="):
            continue
        found = _PART_STARTS.match(line)
        if not line and clause and not _goes_on(clause, source[number:]):
            lines += ["", shown(clause), ""]
            clause = ""
        if found:
            clause = found[1].partition(".")[0]
            lines += ["", f"({found[1]})=", ""]
        lines.append(line)
    return "\n".join(lines)


def _goes_on(clause: str, lines: Sequence[str]) -> bool:
    """Return whether the next line that is not empty begins another part of the clause."""
    return next((line.startswith(f"**{clause}.") for line in lines if line), False)


def shown(clause: str) -> str:
    """Return a line that says how many lines, cases, mutants and tests a clause has, and links to a page of them."""
    counts = [(len(of[clause]), thing) for of, thing in zip((*evidence(), tests_of()), EVIDENCE, strict=True)]
    words = ", ".join(f"{n} {thing[n != 1]}" for n, thing in counts if n)
    return f'<p class="clause-shown"><a href="../{CODE}/clauses/{clause}.html">{words}</a></p>' if words else ""


def evidence_page(clause: str) -> str:
    """Return HTML that lists the lines that implement a clause, its cases, its mutants and the tests that name it."""
    code, cases, mutants = (of[clause] for of in evidence())
    lists = {
        "Code": [f'<a href="../{file}.html#line-{number}">{file}:{number}</a>' for file, number in code],
        "Mutants that it refuses": [
            f'<a href="../{file}.html#line-{number}">{html.escape(name)}</a>' for name, file, number in mutants
        ],
        "Tests that name it, the first line of each file": [
            f"{file}:{number}" for file, number in tests_of()[clause].items()
        ],
        "Cases": [f'<a href="../cases/{case.op}.html#{case.id}">{case.id}</a>' for case in cases],
    }
    parts = (f"<h2>{name}</h2><ul><li>{'<li>'.join(lines)}</ul>" for name, lines in lists.items() if lines)
    return f'<p><a href="../../reference/spec.html#{clause.lower()}">What it says</a></p>{"".join(parts)}'


def write_code(app: Sphinx, error: Exception | None) -> None:
    """Write the pages that SPEC.md links to: one for each clause, for each source file, and for cases."""
    if error or app.builder.format != "html":
        return
    light, dark = (HtmlFormatter(style=style, linenos="inline", linespans="line") for style in ("default", "monokai"))
    styles = f"{light.get_style_defs()} @media (prefers-color-scheme: dark) {{ {dark.get_style_defs()} }}"
    styles += " :target { background: color-mix(in srgb, gold 35%, transparent) }"
    head = f'<meta charset="utf-8"><meta name="color-scheme" content="light dark"><style>{styles}</style>'
    code, cases, mutants = evidence()
    files = {file for lines in code.values() for file, _ in lines}
    for name in files | {file for of in mutants.values() for _, file, _ in of}:
        page = Path(app.outdir, CODE, f"{name}.html")
        page.parent.mkdir(parents=True, exist_ok=True)
        lexer = CudaLexer() if name.endswith(".cu") else PythonLexer()
        body = highlight((ROOT / name).read_text(encoding="utf-8"), lexer, light)
        page.write_text(f"<!doctype html>{head}<title>{name}</title><h1>{name}</h1>{body}", encoding="utf-8")
    by_op: dict[str, dict[str, Case]] = {}
    for case in (case for of in cases.values() for case in of):
        by_op.setdefault(case.op, {})[case.id] = case
    pages = {f"cases/{op}": (f"Cases of {op}", "".join(map(case_shown, of.values()))) for op, of in by_op.items()}
    pages |= {f"clauses/{clause}": (clause, evidence_page(clause)) for clause in clauses()}
    for name, (title, body) in pages.items():
        page = Path(app.outdir, CODE, f"{name}.html")
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(f"<!doctype html>{head}<title>{title}</title><h1>{title}</h1>{body}", encoding="utf-8")


def case_shown(case: Case) -> str:
    """Return a case as HTML, with its inputs and expected outputs; long arrays are cut."""
    asked = [f"{name} = {whole_text(value, ENTRIES)}" for name, value in case.inputs.items() if value is not None]
    wanted = [f"{name} = {whole_text(value, ENTRIES)}" for name, value in case.expected.items()]
    out = f"refused by {' or '.join(case.refused)}" if case.refused else "\n".join(wanted)
    told = "\n".join(("in:", *asked, "", "out:", out))
    links = ", ".join(f'<a href="../../reference/spec.html#{name.lower()}">{name}</a>' for name in case.clauses)
    return (
        f'<section id="{case.id}"><h2>{case.id}</h2><p>{links}. Meant to catch: {html.escape(case.purpose)}.</p>'
        f'<pre style="white-space: pre-wrap; overflow-wrap: anywhere">{html.escape(told)}</pre></section>'
    )


@cache
def tests_of() -> dict[str, dict[str, int]]:
    """Return clause -> file of tests -> the first line that names the clause, as FMT-177 or in a function's name."""
    tests = defaultdict[str, dict[str, int]](dict)
    for source in sorted((ROOT / "tests").rglob("*.py")):
        name = source.relative_to(ROOT).as_posix()
        for number, line in enumerate(source.read_text(encoding="utf-8").splitlines(), 1):
            named = re.findall(r"\b[A-Z]{3,4}-\d{3}\b", line)
            if line.lstrip().startswith("def test_"):
                chains = re.findall(r"_([A-Z]{3,4})((?:_\d{3})+)", line.upper())
                named += [f"{letters}-{digits}" for letters, chain in chains for digits in chain.split("_") if digits]
            for clause in clauses().intersection(named):
                tests[clause].setdefault(name, number)
    return tests


@cache
def clauses() -> frozenset[str]:
    """Return the ids of all clauses."""
    return frozenset(read_clauses())


@cache
def anchors() -> frozenset[str]:
    """Return the ids of all clauses and of their parts."""
    return clauses().union(*(clause.parts for clause in read_clauses().values()))


@cache
def evidence() -> tuple[dict[str, list[tuple[str, int]]], dict[str, list[Case]], dict[str, list[tuple[str, str, int]]]]:
    """Return by clause the lines of code that name it, the cases that show it, and the mutants that break it.

    A mutant is given by its name, and the file and line that describe it.
    """
    code = defaultdict[str, list[tuple[str, int]]](list)
    cases = defaultdict[str, list[Case]](list)
    mutants = defaultdict[str, list[tuple[str, str, int]]](list)
    for folder in IMPLEMENTS:
        paths = (ROOT / folder).rglob("*") if (ROOT / folder).is_dir() else [ROOT / folder]
        for source in sorted(path for path in paths if path.suffix in (".py", ".cu")):
            name = source.relative_to(ROOT).as_posix()
            for number, line in enumerate(source.read_text(encoding="utf-8").splitlines(), 1):
                for clause in clauses().intersection(re.findall(r"\b[A-Z]{3,4}-\d{3}\b", line)):
                    code[clause].append((name, number))
    for case in load_all():
        for clause in case.clauses:
            cases[clause].append(case)
    written = {
        source.relative_to(ROOT).as_posix(): source.read_text(encoding="utf-8").splitlines()
        for source in sorted((ROOT / "conformance" / "wrong" / "mutants").glob("*.py"))
    }
    for mutant in MUTANTS:
        # the first line that contains its description
        places = [(name, n) for name, of in written.items() for n, line in enumerate(of, 1) if mutant.flaw in line]
        name, number = min(places, default=("conformance/wrong/mutants/__init__.py", 1))
        for clause in mutant.clauses:
            mutants[clause].append((mutant.name, name, number))
    return code, cases, mutants


FILLED: dict[str, Callable[..., str]] = {
    "below": below,
    "file": file,
    "spec": spec,
}
