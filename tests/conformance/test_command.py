"""tools/verify.py: what it prints, what it writes, and what its exit status says."""

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import conformance
import formats
from conformance import templates
from conformance.cases.case import load_all
from conformance.command import runner
from conformance.engine.port import EnginePort
from conformance.judge.harness import Variant, run
from conformance.protocol.port import Refused
from tests.conformance.near import Near

ROOT = Path(conformance.__file__).parents[1]
LARGEST = sum(case.op == "select.largest" for case in load_all())

BROKEN = """
from conformance.engine.port import EnginePort

def Port():
    return EnginePort().with_ops("broken", {what})
"""
BARE = ("--examples", "0")
"""Cases alone, which can be counted."""
SEEDED = ("--seed", "2")
"""Of properties that fail: how long it takes to find their smallest example is a matter of the seed."""
HIGHER = 'select__largest=lambda a: {"chosen": a["ids"][: a["k"]]}'
FALLING = 'rng__draws=lambda a: {"draws": a["numbers"][99]}'


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """A port with a wrong operation, as a module on the path of child processes."""

    def make(what):
        (tmp_path / "broken_port.py").write_text(BROKEN.replace("{what}", what), encoding="utf-8")
        monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "broken_port", raising=False)
        return "--port-py", "broken_port:Port"

    return make


@pytest.fixture
def near(monkeypatch):
    """Ports in this process, for tests of what a run says: to start the engine takes longer than to ask it."""
    monkeypatch.setattr(runner, "Child", Near)


def test_the_tool_ends_with_its_counts():
    command = [sys.executable, "tools/verify.py", "--only", "select.largest", "--backend", "numpy", *BARE]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == f"{LARGEST} passed, 0 failed, 0 skipped"
    assert "no claim: cases were left out by --only select.largest" in done.stdout.splitlines()[-2]
    assert done.stderr == ""


def test_the_tool_and_the_pages_name_what_there_is(verify):
    helped = verify("--help")[1] + verify("list", "--help")[1]
    assert (named := re.findall(r"--[a-z-]+", (ROOT / "tools" / "verify.py").read_text().split('"""')[1]))
    assert [option for option in named if option not in helped] == []
    *most, last = runner.DEFAULT
    assert runner.Target.of_engine() == replace(runner.Target.of_engine(runner.DEFAULT), shown="")
    for page in ("README.md", "conformance/README.md"):
        text = (ROOT / page).read_text(encoding="utf-8").replace("`", "")
        assert f"{', '.join(most)} and {last}" in text, page


def test_a_filter_means_cases_operations_and_clauses(verify, near):
    status, out, _ = verify("--backend", "numpy", "--only", "SEL-004", *BARE)
    assert status == 0
    assert int(out.splitlines()[-1].split()[0]) > 5
    keys = verify("--backend", "numpy", "--only", "rng.key-*", *BARE)[1]
    assert keys.splitlines()[-1] == "3 passed, 0 failed, 0 skipped"
    assert verify("--backend", "numpy", "--clause", "SEL-004", *BARE)[1].splitlines()[-1] == out.splitlines()[-1]


def test_a_profile_is_claimed_whole_and_a_given_seed_claims_nothing(verify, monkeypatch):
    status, out, _ = verify("--backend", "numpy", "--profile", "kernels")
    assert status == 0
    assert "conformant: kernels in exact64, fp32" in out.splitlines()[-2]
    monkeypatch.setattr(runner, "Child", Near)
    status, out, _ = verify("--backend", "numpy", "--profile", "kernels", "--seed", "0abc", "--examples", "1")
    assert status == 0
    assert "no claim: the seed was given, not drawn" in out.splitlines()[-2]
    assert "seed 0abc" in out


def test_a_failure_tells_everything(verify, broken):
    status, out, _ = verify(*broken(HIGHER), "--only", "select.largest-example", *BARE)
    assert status == 1
    assert out.splitlines()[-1] == "0 passed, 1 failed, 0 skipped"
    for part in (
        "FAILED select.largest-example (select.largest)",
        "meant to catch: the example of chapter 7",
        "SEL-001 The k largest scores are the first k",
        "scores = [1., 3., 3., 2.]",
        "k = 2",
        f"broken {formats.__version__} float64: chosen at [0] expected 7, got 5",
    ):
        assert part in out, part


def test_PRT_012_what_rests_on_a_failure_is_blocked_and_no_pass(verify, broken, near):
    status, out, _ = verify(*broken(HIGHER), "--profile", "core", *BARE)
    assert status == 1
    assert "blocked" in out.splitlines()[-3]
    passed, failed, skipped = (int(part.split()[0]) for part in out.splitlines()[-1].split(", "))
    assert failed > 0
    assert skipped > 20
    assert passed > 100
    assert "FAILED evolve" not in out


def test_ask_shows_lines_and_arrays_whole_and_the_first_difference(verify, broken):
    port = broken(HIGHER)
    status, out, _ = verify("ask", "select.largest-example", *port, "--class", "fp32")
    assert status == 1
    for part in (
        '  -> {"type":"call","id":',
        '  <- {"type":"ok","id":',
        "expected chosen = int64[2] [7, 9]",
        "got      chosen = int64[2] [5, 7]",
        "WRONG    chosen, first at [0]: at [0] expected 7, got 5",
    ):
        assert part in out, part
    status, out, _ = verify("ask", "select.largest-nan", "--backend", "numpy", "--class", "exact64")
    assert (status, out.splitlines()[-1]) == (0, "  right")
    assert "expected a refusal by SEL-004" in out
    assert verify("ask", "select.no-such", *port)[0] == 2
    # large arrays too
    out = verify("ask", "drop.ties-at-zero", "--backend", "numpy", "--class", "exact64")[1]
    assert "4, 8, 9, 11, 16, 18, 25, 38, 40, 51, 53, 57, 59, 65, 80, 82, 83]" in out
    assert "-0.25, 0.25, 0.25]" in verify("explain", "drop.ties-at-zero")[1]


def test_a_run_stops_after_the_failures_that_somebody_wants_to_see(verify, broken, near):
    port = broken(HIGHER)
    status, out, _ = verify(*port, "--profile", "core", "--max-failures", "2")
    assert (status, out.count("FAILED select.largest")) == (1, 2)
    assert "notrun" in out
    assert "properties that were not tried" in out
    assert out.splitlines()[-1].split(", ")[1] == "2 failed"
    assert "ask select.largest" in out


def test_PRT_012_a_property_of_what_fails_is_blocked_unless_it_is_named(verify, broken, near, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    port = (*broken(HIGHER), *SEEDED)
    out = verify(*port, "--only", "select.*", "--examples", "1")[1]
    assert "properties that were not tried, as what they ask fails already: select.largest" in out
    assert "FAILED select.largest:" not in out
    assert "FAILED select.largest:" in verify(*port, "--only", "select.largest", "--examples", "1")[1]


def test_a_profile_named_twice_is_claimed_once(verify):
    out = verify("--backend", "numpy", "--profile", "quant, quant", "--examples", "1")[1]
    assert "conformant: quant in exact64, fp32 (" in out


def test_a_quick_run_says_what_it_does_not_see(verify, near):
    status, out, _ = verify("--backend", "numpy", "--profile", "nm", "--quick")
    assert status == 0
    told = next(line for line in out.splitlines() if line.startswith("quick: "))
    assert re.fullmatch(r"quick: \d+ of \d+ cases\. They refuse (\d+) of the \1 known mutants .*", told)
    assert "no claim: cases were left out by --quick" in out


def test_what_a_port_raises_is_a_failure_of_the_port(verify, broken):
    status, out, _ = verify(*broken(FALLING), "--only", "rng.*", *BARE)
    assert status == 1
    assert "IndexError" in out
    assert out.splitlines()[-1] == "0 passed, 4 failed, 0 skipped"


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["--backend", "numpy", "--only", "nothing*"], 2, "see list"),
        (["--backend", "numpy", "--profile", "layers", "--only", "update.drop"], 2, "see list"),
        (["--what"], 2, "--help"),
        (["--only"], 2, "--help"),
        (["--profile", "corn"], 2, "choose from core"),
        (["--class", "fp8"], 2, "choose from exact64"),
        (["--backend", "abacus"], 2, "choose from numpy"),
        (["--seed", "xyz"], 2, "hexadecimal"),
        (["--port", "a", "--port-py", "b:C"], 2, "give one"),
        (["--backend", "numpy", "--class", "bf16"], 2, "it offers exact64, fp32"),
        (["--expect", "no/such.toml"], 2, "--write-expect"),
        (["--port", "/no/such/program"], 3, "did not start"),
        (["--port", "true"], 3, "did not start"),
        (["--port-py", "no.such:Port"], 3, "did not start"),
        (["--port", ""], 2, "names no program"),
        (["--port", "my_port 'x"], 2, "is no command"),
        (["doctor"], 2, "--port"),
        (["doctor", "--port", ""], 2, "names no program"),
        (["explain", "SEL-01"], 2, "near it are SEL-00"),
        (["new-port", "cobol", "x"], 2, "choose one of python"),
        (["export", "."], 2, "does not"),
        (["export", "no-folder", "--only", "nothing"], 2, "matches no case"),
        (["--only", "file.read", "--quick", "export", "no-folder"], 2, "--quick --only before export"),
        (["extra"], 2, "--help"),
    ],
)
def test_wrong_use_is_told_in_one_line(verify, arguments, status, says):
    found, out, err = verify(*arguments)
    assert (found, out) == (status, "")
    assert says in err
    assert err.splitlines()[0].startswith("verify: ")


def test_a_clause_that_is_shown_elsewhere_is_explained(verify):
    status, _, err = verify("--backend", "numpy", "--clause", "GEN-009")
    assert status == 2
    assert "explain GEN-009" in err
    status, out, _ = verify("explain", "GEN-009")
    assert status == 0
    assert "not judged: " in out
    assert "tests/" in out


def test_a_kit_that_cannot_be_read_or_shows_too_little_is_at_fault(verify, monkeypatch):
    def fail():
        raise ValueError("torn")

    monkeypatch.setattr(runner, "load_all", fail)
    assert verify()[0] == 4
    monkeypatch.undo()
    monkeypatch.setattr(runner, "elsewhere", dict)
    status, _, err = verify()
    assert status == 4
    assert "GEN-009" in err


def test_lists_and_explanations(verify):
    assert "core: " in verify("list")[1]
    assert "SEL-001 MUST  " in verify("list", "--clauses")[1]
    assert f"select.largest (core, rule, {LARGEST} cases)" in verify("list", "--ops")[1]
    assert "select.largest-example  select.largest" in verify("list", "--cases")[1]
    assert "The k largest" in verify("explain", "SEL-001")[1]
    assert verify("explain", "SEL-007.2") == verify("explain", "SEL-007")
    assert "asks prune.scope, prune.random, prune.owl" in verify("explain", "prune.scope-large")[1]
    assert "rests on update.drop" in verify("explain", "update.evolve")[1]
    assert "k = 2" in verify("explain", "select.largest-example")[1]


def test_the_page_of_operations_is_what_the_kit_has():
    from conformance.command.listing import operations_page

    page = ROOT / "conformance" / "OPERATIONS.md"
    assert page.read_text(encoding="utf-8") == operations_page(), "run python -m conformance.command.listing"


NEEDED = {"python": None, "c": "cc", "rust": "cargo", "js": "node"}


@pytest.mark.parametrize("language", templates.LANGUAGES)
def test_a_new_port_is_well_and_right_in_two_operations(verify, tmp_path, monkeypatch, language):
    if NEEDED[language] is not None and shutil.which(NEEDED[language]) is None:
        pytest.skip(f"{NEEDED[language]} is not installed")
    folder = tmp_path / "mine"
    status, out, _ = verify("new-port", language, folder)
    assert status == 0
    *build, examine = templates.commands(language, folder)
    assert all(line in out for line in (*build, examine))
    for line in build:
        subprocess.run(line.split(), check=True, capture_output=True)
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{ROOT}")
    option, _, program = examine.partition(" doctor ")[2].partition("#")[0].strip().partition(" ")
    program = program.strip('"')
    status, out, _ = verify("doctor", option, program)
    assert status == 0, out
    assert "all is well: 3 calls of 2 operations tried" in out
    status, out, _ = verify(option, program, "--only", "select.largest", *BARE)
    assert (status, out.splitlines()[-1]) == (0, f"{LARGEST} passed, 0 failed, 0 skipped")
    # and its properties, with seeds that nobody has seen
    status, out, _ = verify(option, program, "--only", "count.drop")
    assert status == 0
    assert ", 0 failed, 0 skipped" in out.splitlines()[-1]


@pytest.mark.parametrize("lost", [slice(1), slice(-1, None), slice(0, 0)])
def test_a_run_that_lost_results_is_the_fault_of_the_kit(verify, near, monkeypatch, lost):
    right = runner.run_cases

    def losing(cases, *more):
        found = right(cases, *more)
        if not cases:
            return found
        del found[lost]
        return found if lost != slice(0, 0) else [*found, found[0]]

    monkeypatch.setattr(runner, "run_cases", lambda cases, *more, **named: losing(list(cases), *more) if more else [])
    status, out, err = verify("--backend", "numpy", "--only", "select.largest", *BARE)
    assert status == 4
    assert "the kit is at fault" in err
    assert "no verdict" in out


def test_doctor_shows_the_lines_and_what_is_wrong(verify, broken):
    status, out, _ = verify("doctor", *broken(HIGHER))
    assert status == 1
    assert '-> {"type":"hello","protocol":1' in out
    assert '<- {"type":"hello"' in out
    assert "WRONG: got chosen = [5, 7], expected chosen = [7, 9]" in out
    assert "something is wrong" in out


def test_a_property_that_fails_leaves_what_replays_and_freezes(verify, broken, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    port = broken(HIGHER)
    status, out, _ = verify(*port, "--only", "select.largest", "--examples", "5", *SEEDED)
    assert status == 1
    (line,) = (line for line in out.splitlines() if "replay it: " in line)
    folder = line.split("seft verify replay ")[1].split()[0]
    assert line.endswith("--port-py broken_port:Port")
    status, out, err = verify("replay", folder, *port)
    assert err == ""
    assert (status, out.splitlines()[-1]) == (1, "0 passed, 1 failed, 0 skipped")
    status, out, _ = verify("replay", folder, "--backend", "numpy")
    assert (status, out.splitlines()[-1]) == (0, "1 passed, 0 failed, 0 skipped")
    assert verify("freeze", folder, "--clause", "no clause", "--name", "x")[0] == 2
    assert verify("replay", tmp_path, *port)[0] == 2


def test_known_failures_are_forgiven_and_new_ones_are_not(verify, broken, near, tmp_path):
    manifest = tmp_path / "seft-expect.toml"
    port = (*broken(FALLING), "--only", "rng.*", *BARE)
    assert verify(*port, "--write-expect", manifest)[0] == 1
    assert verify(*port, "--expect", manifest)[0] == 2  # no issue is named yet
    manifest.write_text(manifest.read_text().replace('issue = ""', 'issue = "https://example.org/1"'))
    status, out, _ = verify(*port, "--expect", manifest)
    assert (status, out.splitlines()[-1]) == (0, "0 passed, 0 failed, 4 skipped")
    status, out, _ = verify("--backend", "numpy", "--only", "rng.*", *BARE, "--expect", manifest)
    assert status == 1
    assert "FAILED expectation" in out
    # what is no manifest is left alone
    other = tmp_path / "other.toml"
    other.write_text("x = 1")
    status, _, err = verify(*port, "--write-expect", other)
    assert (status, other.read_text()) == (2, "x = 1")
    assert "x is not known" in err
    # other cases say nothing of these
    before = manifest.read_text()
    assert verify("--backend", "numpy", "--only", "select.largest", *BARE, "--write-expect", manifest)[0] == 0
    assert manifest.read_text() == before


def test_a_known_failure_of_a_property_is_forgiven(verify, broken, near, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    manifest = tmp_path / "seft-expect.toml"
    port = (*broken(HIGHER), "--only", "select.largest", "--examples", "1", *SEEDED)
    assert verify(*port, "--write-expect", manifest)[0] == 1
    assert "property = " in manifest.read_text()
    manifest.write_text(manifest.read_text().replace('issue = ""', 'issue = "https://example.org/1"'))
    status, out, _ = verify(*port, "--expect", manifest)
    assert (status, out.splitlines()[-1].split(", ")[1]) == (0, "0 failed")
    assert "FAILED" not in out
    status, out, _ = verify("--backend", "numpy", *port[2:], "--expect", manifest)
    assert status == 1
    assert "passes, but is expected to come out as fail" in out


def test_PRT_006_a_code_may_have_the_number_of_a_part():
    def refuse(a):
        raise Refused("SEL-004.2")

    port = EnginePort().with_ops("by part", select__largest=refuse)
    cases = [case for case in load_all() if case.op == "select.largest" and case.refused]
    found = {r.case.id: bool(r.failures) for r in run(cases, [Variant(port, "float64")])}
    assert found == {case.id: "SEL-004" not in case.refused for case in cases}
