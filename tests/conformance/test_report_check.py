"""check_report: a report as written is accepted, and one that was cut or doctored is refused, for the right reason."""

import json
from dataclasses import replace

import pytest

from conformance.cases.case import load_all
from conformance.cases.ops import OPS
from conformance.engine.port import EnginePort
from conformance.judge.harness import Variant, run
from conformance.judge.judgement import PropertyResult, cases_of
from conformance.protocol.port import Unsupported
from conformance.report import check, check_report, write
from tests.conformance.report_runs import all_cases, chosen, failed, run_of, whole

N = len(cases_of(["nm"], load_all()))
"""Cases of the profile that these reports are about."""
ORDER = PropertyResult("pattern.order", ("PRN-004",), "nm", 100)


@pytest.fixture(autouse=True)
def cases_read_once(monkeypatch):
    monkeypatch.setattr(check, "load_all", all_cases)


@pytest.fixture(scope="module")
def as_written(tmp_path_factory):
    """The bytes of the report of a conformant run."""
    folder = tmp_path_factory.mktemp("report") / "out"
    write(whole(properties=[ORDER]), folder)
    return (folder / "report.jsonl").read_bytes()


@pytest.fixture
def doctor(tmp_path, as_written):
    """Write a conformant run, change its lines, and return what check_report says."""

    def doctored(change, run=None, **more):
        path = tmp_path / "out" / "report.jsonl"
        if run is None:
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(as_written)
        else:
            write(run, tmp_path / "out")
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        change(rows)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return check_report(path, **more)

    return doctored


@pytest.fixture
def spoil(tmp_path, as_written):
    """Write a conformant run, change its bytes, and return what check_report says."""

    def spoilt(change):
        path = tmp_path / "report.jsonl"
        path.write_bytes(change(as_written))
        return check_report(path)

    return spoilt


def says(told, text):
    assert told, "nothing was found wrong"
    assert text in " ".join(told), told


def test_as_written_it_is_accepted(doctor):
    assert doctor(lambda rows: None) == []


def test_a_run_of_the_engine_is_accepted(tmp_path):
    variants = [Variant(EnginePort("engine"), dtype) for dtype in ("float64", "float32")]
    done = run_of(run(cases_of(["nm"], all_cases()), variants), profiles=("nm",))
    assert done.verdict().conformant
    write(done, tmp_path / "out")
    assert check_report(tmp_path / "out" / "report.jsonl") == []


@pytest.mark.parametrize("lines", [1, 2, 10])
def test_cut_at_the_end_of_a_line(spoil, lines):
    says(spoil(lambda raw: b"".join(raw.splitlines(keepends=True)[:-lines])), "no footer")


def test_cut_within_a_line(spoil):
    says(spoil(lambda raw: raw[:-5]), "does not end")


def test_empty(spoil):
    says(spoil(lambda raw: b""), "empty")


def test_absent(tmp_path):
    says(check_report(tmp_path / "no.jsonl"), "cannot be read")


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"[]",
        b"\xff{}",
        b'{"type": "case", "type": "case"}',
        b'{"ratio": NaN}',
        b"[" * 100_000,
        b'{"n": 1' + b"0" * 5000 + b"}",
    ],
    ids=["torn", "list", "no UTF-8", "a name twice", "NaN", "deep", "huge number"],
)
def test_a_line_that_is_no_object(spoil, line):
    says(spoil(lambda raw: raw.replace(b"\n", b"\n" + line + b"\n", 1)), "Line 2 is no JSON object")


def test_a_line_after_the_footer(doctor):
    says(doctor(lambda rows: rows.append(rows[1])), "no footer")


def test_lines_in_another_order(doctor):
    says(doctor(lambda rows: rows.insert(1, rows.pop(-2))), "in this order")


def test_no_header(doctor):
    says(doctor(lambda rows: rows.pop(0)), "in this order")


def test_a_line_of_no_known_kind(doctor):
    says(doctor(lambda rows: rows.insert(1, {"type": "note"})), "in this order")


@pytest.mark.parametrize(
    ("at", "name"),
    [(0, "verdict"), (0, "options"), (1, "outcome"), (1, "failures"), (-2, "examples"), (-1, "outcomes")],
)
@pytest.mark.parametrize("value", [..., True, 1.5])
def test_a_member_is_missing_or_of_another_type(doctor, at, name, value):
    def change(rows):
        rows[at][name] = value
        if value is ...:
            del rows[at][name]

    says(doctor(change), f"has no {name} of the right type")


def test_a_failure_of_another_form(doctor):
    says(doctor(lambda rows: rows[1].update(failures=[1])), "a failure is no object")
    says(doctor(lambda rows: rows[1].update(failures=[{}])), "no variant of the right type")
    strange = {"variant": "", "output": "", "status": "ok", "detail": "", "ratio": None}
    says(doctor(lambda rows: rows[1].update(failures=[strange])), "unknown status 'ok'")


def test_another_form_of_report(doctor):
    says(doctor(lambda rows: rows[0].update(report=1)), "form 1")


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("profiles", ["nm", "all"], "'all', which is none of the profiles"),
        ("profiles", ["nm", "nm"], "nm twice"),
        ("profiles", "nm", "no list of profiles"),
        ("classes", ["fp8"], "'fp8', which is none of the classes"),
        ("classes", [], "no numeric class"),
        ("filtered", None, "what was left out"),
    ],
)
def test_options_that_the_kit_has_not(doctor, name, value, text):
    says(doctor(lambda rows: rows[0]["options"].update({name: value})), text)


@pytest.mark.parametrize("name", ["kit", "spec_sha256", "kit_sha256"])
def test_another_kit(doctor, name):
    says(doctor(lambda rows: rows[0].update({name: "0" * 64})), f"Its {name} is 000")


def test_the_counts_of_another_kit_are_still_checked(doctor):
    def change(rows):
        rows[0]["kit_sha256"] = "0" * 64
        del rows[1]

    says(doctor(change), f"The footer tells {N} for cases, the lines have {N - 1}")


def test_a_case_is_missing(doctor):
    def change(rows):
        del rows[1]
        rows[-1]["cases"] -= 1
        rows[-1]["outcomes"]["pass"] -= 1
        rows[-1]["passed"] -= 1

    says(doctor(change), " is missing")


def test_a_case_stands_twice(doctor):
    says(doctor(lambda rows: rows.insert(1, rows[1])), "is told 2 times")


def test_a_case_in_place_of_another(doctor):
    says(doctor(lambda rows: rows.__setitem__(2, rows[1])), "is missing")


def test_an_unknown_case(doctor):
    says(doctor(lambda rows: rows.insert(1, rows[1] | {"id": "no.such"})), "no.such is no case of this kit")


def test_a_case_of_another_profile(doctor):
    other = next(case for case in all_cases() if case.op == "rng.draws")
    says(doctor(lambda rows: rows.insert(1, rows[1] | {"id": other.id})), "belongs to no profile of the header")


@pytest.mark.parametrize(("name", "value"), [("op", "rng.draws"), ("clauses", []), ("profiles", ["nm", "x"])])
def test_a_case_told_otherwise_than_the_kit_has_it(doctor, name, value):
    says(doctor(lambda rows: rows[1].update({name: value})), "in this kit")


@pytest.mark.parametrize("name", ["cases", "properties", "passed", "failed", "skipped"])
def test_counts_that_do_not_add_up(doctor, name):
    says(doctor(lambda rows: rows[-1].update({name: 3})), f"The footer tells 3 for {name}")


def test_outcomes_that_do_not_add_up(doctor):
    says(doctor(lambda rows: rows[-1]["outcomes"].update(fail=1)), "for outcomes")
    says(doctor(lambda rows: rows[-1]["property_outcomes"].update(failed=1)), "for property_outcomes")


def failing():
    made = whole(properties=[ORDER])
    made.results[0] = failed(made.results[0].case)
    return made


def test_a_failure_told_as_a_pass(doctor):
    assert doctor(lambda rows: None, failing()) == []

    def change(rows):
        rows[1]["outcome"] = "pass"

    says(doctor(change, failing()), "is told as pass, its own line shows fail")


def test_a_failure_taken_out(doctor):
    says(
        doctor(lambda rows: rows[1].update(outcome="pass", failures=[]), failing()), f"The footer tells {N} for passed"
    )


def test_a_better_verdict(doctor):
    right = "conformant: nm in exact64, fp32 (SPEC 1.0, kit 1.0-r1)"
    says(doctor(lambda rows: rows[0]["verdict"].update(line=right), failing()), "for line, the lines give")
    says(doctor(lambda rows: rows[0]["verdict"].update(conformant=True), failing()), "for conformant, the lines give")
    says(doctor(lambda rows: rows[0]["verdict"].update(claimable=["nm"]), failing()), "for claimable, the lines give")


@pytest.mark.parametrize(("name", "value"), [("fresh", False), ("complaints", ["x matches no case"])])
def test_a_verdict_that_forgets_what_the_header_tells(doctor, name, value):
    says(doctor(lambda rows: rows[0].update({name: value})), "The verdict has")


def test_a_filtered_run_may_miss_cases_and_claims_nothing(doctor):
    part = whole(filtered="--only 'topology*'")
    del part.results[3:]
    assert doctor(lambda rows: None, chosen(part)) == []
    says(doctor(lambda rows: rows[0]["options"].update(filtered=""), part), "are missing")


@pytest.mark.parametrize("ratio", [1.01, -0.5, None])
def test_a_pass_outside_its_bound(doctor, ratio):
    says(doctor(lambda rows: rows[1].update(ratio=ratio)), "times its bound")


def test_a_pass_that_was_not_asked_in_every_class(doctor):
    def change(rows):
        row = next(row for row in rows if row.get("ran") == 2)
        row["ran"] = 1

    says(doctor(change), "was asked in 1 of 2 classes")


def test_a_pass_that_was_not_asked(doctor):
    says(doctor(lambda rows: rows[1].update(ran=0)), "its own line shows unsupported")
    says(doctor(lambda rows: rows[1].update(ran=0, reason="pass")), "unknown reason 'pass'")


def test_forgiven_without_a_fault(doctor):
    says(doctor(lambda rows: rows[1].update(waived="https://example.org", outcome="waived")), "nothing to forgive")


def test_waivers_are_no_conformance(doctor):
    forgiven = failing()
    forgiven.results[0].waived = "https://example.org/1"
    assert forgiven.verdict().met
    assert doctor(lambda rows: None, forgiven) == []
    says(doctor(lambda rows: rows[0]["verdict"].update(conformant=True), forgiven), "for conformant")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"outcome": "failed"}, "is told as failed, its own line shows passed"),
        ({"failure": "x"}, "is told as passed, its own line shows failed"),
        ({"examples": 0}, "no example was tried"),
        ({"profile": "core"}, "belongs to no profile of the header"),
    ],
)
def test_a_property_told_otherwise(doctor, change, text):
    says(doctor(lambda rows: rows[-2].update(change)), text)


def test_properties_that_the_kit_has(doctor):
    mine = {"pattern.order": "nm", "select.x": "core"}  # of a profile that was not asked for
    assert doctor(lambda rows: None, properties=mine) == []
    missing = mine | {"pattern.x": "nm"}
    says(doctor(lambda rows: None, properties=missing), "pattern.x is a property and missing")
    says(doctor(lambda rows: None, properties={}), "pattern.order is no property of this kit")


def test_PRT_018_a_property_asked_what_it_asks_in_this_kit(doctor):
    asks = {"pattern.order": ("prune.pattern",)}
    right, wrong = ["prune.pattern in fp32"], ["kernel.sparse in fp32"]
    told = doctor(lambda rows: rows[-2].update(asked_new=right), asks=asks)
    assert not any("which it does not ask" in text for text in told)
    says(doctor(lambda rows: rows[-2].update(asked_new=wrong), asks=asks), "which it does not ask")


class OneClass(EnginePort):
    """Answers in float64, and says in float32 that it offers nothing."""

    def call(self, op, inputs, dtype):
        if dtype == "float32":
            raise Unsupported(op)
        return super().call(op, inputs, dtype)


def test_a_port_that_answers_in_one_class_of_two_is_found_out(tmp_path):
    variants = [Variant(OneClass("one"), dtype) for dtype in ("float64", "float32")]
    done = run_of(run(cases_of(["nm"], all_cases()), variants), profiles=("nm",))
    write(done, tmp_path / "out")
    assert check_report(tmp_path / "out" / "report.jsonl") or not done.verdict().conformant


def test_what_is_forgiven_of_a_property_is_told_and_checked(doctor):
    forgiven = replace(ORDER, failure="scores = [1.]", waived="https://example.org/1")
    made = whole(properties=[forgiven])
    assert made.verdict().line.startswith("not conformant: 1 known failures were forgiven")
    assert doctor(lambda rows: None, made) == []
    says(doctor(lambda rows: rows[-2].update(waived=""), made), "its own line shows failed")
    says(doctor(lambda rows: rows[-2].update(failure=""), made), "has nothing to forgive")


def test_PRT_013_a_report_tells_whether_the_port_is_deterministic(doctor):
    made = whole(deterministic=False)
    assert doctor(lambda rows: None, made) == []
    says(doctor(lambda rows: rows[0].update(deterministic=True), made), "The verdict has")


def test_a_report_of_a_run_that_lost_results_is_refused(doctor):
    made = whole()
    made.results.pop()
    says(doctor(lambda rows: None, made), "is missing")


def test_a_case_that_no_class_asks_may_be_left_out(doctor):
    made = whole(("core",), classes=("fp32",))
    wide = [r for r in made.results if OPS[r.case.op].kind != "scalar" and r.case.dtypes == ("float64",)]
    assert wide
    made.results = [r for r in made.results if r not in wide]
    assert doctor(lambda rows: None, chosen(made)) == []
    says(doctor(lambda rows: rows[0]["options"].update(classes=["exact64"]), made), "are missing")
