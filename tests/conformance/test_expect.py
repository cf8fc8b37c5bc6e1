"""The manifest of expected failures: what it forgives, and what it is scolded for."""

import re
import textwrap
from pathlib import Path

import pytest

from conformance.cases.case import load_all
from conformance.expect import ManifestError, apply, read
from conformance.expect import manifest as module
from conformance.properties import PROPERTIES
from tests.conformance.expect_rows import URL, bad, entry, good, held, in_classes, listed, skipped, text_of
from tests.conformance.report_runs import run_of


def test_an_expected_failure_is_forgiven():
    result, other = bad(), good("a.two")
    assert apply([entry()], [result, other]) == []
    assert (result.waived, result.outcome, result.status) == (URL, "waived", "skipped")
    assert other.outcome == "pass"
    verdict = run_of([result, other]).verdict()
    assert (verdict.conformant, verdict.met) == (False, True)


@pytest.mark.parametrize("status", ["fail", "error", "crash", "timeout", "protocol"])
def test_every_way_to_fail_can_be_expected(status):
    result = bad(status=status)
    assert apply([entry(status=status)], [result]) == []
    assert result.waived


def test_what_is_not_judged_can_be_expected():
    unsupported, blocked = skipped(), skipped("a.two", "blocked", "update.drop rests on select.smallest, which fails")
    listed = [entry(status="unsupported", match=""), entry("a.two", "blocked", "update.drop rests on")]
    assert apply(listed, [unsupported, blocked]) == []
    assert (unsupported.outcome, blocked.outcome) == ("waived", "waived")


def test_two_failures_of_a_case_need_two_entries():
    one, two = "at [0] expected 7", "it wrote to its input ids"
    result = bad("a.one", one, two)
    assert apply([entry(match=one)], [result]) == [f"a.one also comes out as fail, which no entry expects: {two!r}"]
    assert not result.waived
    other = f"{URL}2"
    assert apply([entry(match=one), entry(match=two, issue=other)], [result]) == []
    assert result.waived == f"{URL}, {other}"


# manifest, results, the complaint; nothing is forgiven in any of them
COMPLAINTS = {
    "matches nothing": ([entry("a.three")], [bad()], "a.three matches no case"),
    "a glob that matches nothing": ([entry("b.*", max_matches=9)], [bad()], "b.* matches no case"),
    "unexpected pass": (
        [entry()],
        [good()],
        f"a.one passes, but is expected to come out as fail; remove the entry: {URL}",
    ),
    "another status": (
        [entry()],
        [bad(status="crash")],
        "a.one: expected fail, it comes out as crash: 'at [0] expected",
    ),
    "another message": ([entry(match="at [1]")], [bad()], "a.one: expected fail 'at [1]', it tells 'at [0] expected"),
    "blocked": ([entry()], [skipped(reason="blocked")], "a.one: expected fail, it comes out as blocked"),
    "given up": ([entry()], [skipped(reason="notrun")], "a.one: expected fail, it comes out as notrun"),
    "expired": ([entry(until="1.0-r0")], [bad()], f"until 1.0-r0, this kit is 1.0-r1: {URL}"),
    "more than declared": (
        [entry("a.*", max_matches=1)],
        [bad(), bad("a.two")],
        "a.* matches 2 cases, more than the 1 it declares",
    ),
    "one of a glob passes": ([entry("a.*", max_matches=2)], [bad(), good("a.two")], "a.two passes, but is expected"),
    "one of two entries is wrong": (
        [entry(), entry(match="at [1]")],
        [bad()],
        "a.one: expected fail 'at [1]', it tells 'at [0] expected",
    ),
}


@pytest.mark.parametrize("name", [name for name in COMPLAINTS if name != "one of two entries is wrong"])
def test_a_manifest_that_is_not_so_is_a_complaint(name):
    listed, results, text = COMPLAINTS[name]
    (complaint,) = apply(listed, results)
    assert text in complaint
    assert not any(r.waived for r in results)
    run = run_of(results, complaints=[complaint])
    assert not run.verdict().met
    assert run.verdict().failed >= 1


def test_one_wrong_entry_of_two_is_a_complaint_even_where_the_other_forgives():
    listed, results, text = COMPLAINTS["one of two entries is wrong"]
    (complaint,) = apply(listed, results)
    assert text in complaint
    assert not run_of(results, complaints=[complaint]).verdict().met


def test_a_glob_forgives_as_many_as_it_declares():
    results = [bad(), bad("a.two"), bad("b.one")]
    assert apply([entry("a.*", max_matches=2)], results) == []
    assert [bool(r.waived) for r in results] == [True, True, False]


def test_an_entry_holds_through_its_revision(monkeypatch):
    for revision, complaints in (("1.0-r9", 0), ("1.0-r10", 0), ("1.0-r11", 1), ("1.1-r1", 1), ("2.0-r1", 1)):
        monkeypatch.setattr(module, "REVISION", revision)
        assert len(apply([entry(until="1.0-r10")], [bad()])) == complaints, revision


def test_a_case_that_was_not_asked_is_let_be():
    assert apply([entry("a.three")], [bad()], case_ids=["a.one", "a.three"]) == []
    assert apply([entry("a.three")], [bad()], case_ids=["a.one"]) == ["a.three matches no case"]


def test_a_property_that_fails_is_forgiven_and_told_like_a_case():
    for result, status in (
        (held(failure="port f32: chosen"), "fail"),
        (held(skipped="no select.smallest"), "unsupported"),
    ):
        assert apply([listed(status=status)], [result, good()]) == []
        assert (result.waived, result.outcome, result.status) == (URL, "waived", "skipped")
        run = run_of([good()], properties=[result])
        assert (run.verdict().met, run.verdict().conformant, run.waivers) == (True, False, 1)
        assert (run.verdict().passed, run.verdict().failed, run.verdict().skipped) == (1, 0, 1)


def test_a_listed_property_that_is_not_so_is_a_complaint():
    for result, text in (
        (held(), f"select.order passes, but is expected to come out as fail; remove the entry: {URL}"),
        (held(skipped="no select.smallest"), "expected fail, it comes out as unsupported: 'no select.smallest'"),
        (held(skipped="the kit's fault: 9 examples without ties"), "it comes out as notrun"),
    ):
        (complaint,) = apply([listed()], [result])
        assert text in complaint
        assert not result.waived
    (complaint,) = apply([listed("select.other")], [held()], properties=["select.order"])
    assert complaint == "select.other matches no property"
    assert apply([listed()], [bad()], properties=["select.order"]) == []
    # a case and a property of one name are two things
    case_of_that_name = bad("select.order")
    assert apply([listed()], [case_of_that_name], properties=["select.order"]) == []
    assert not case_of_that_name.waived


def test_an_id_that_is_the_name_of_a_property_says_how_to_list_it():
    (told,) = apply([entry("select.order")], [bad()], properties=["select.order"])
    assert told == 'select.order matches no case; select.order is a property: write property = "select.order"'


def test_a_glob_of_cases_means_no_properties():
    result = held(failure="x")
    assert apply([entry("select.*", max_matches=2)], [bad("select.one"), result]) == []
    assert not result.waived


def test_an_entry_of_one_class_expects_failures_of_that_class():
    only = entry(in_class="fp32")
    result = in_classes(fp32=("at [0] expected 7",))
    assert apply([only], [result]) == []
    assert result.waived
    result = in_classes(exact64=("at [0] expected 7",))
    assert "a.one passes in fp32, but is expected to come out as fail" in apply([only], [result])[0]
    result = in_classes(exact64=("at [0] expected 7",), fp32=("at [0] expected 7",))
    assert "also comes out as fail" in apply([only], [result])[0]
    # what was not asked says nothing
    assert apply([only], [good()], classes=("exact64",)) == []
    assert apply([entry("a.one", "fail", in_class="fp32")], [skipped(reason="blocked")])[0].startswith(
        "a.one: expected"
    )


def test_a_long_message_is_told_in_short():
    (complaint,) = apply([entry(match="x")], [bad("a.one", "y" * 1_000_000)])
    assert len(complaint) < 300


def test_a_manifest_is_read(tmp_path):
    path = tmp_path / "seft-expect.toml"
    path.write_text("# known\n" + text_of() + text_of(id="a.*", max_matches=20, until="1.0-r3"))
    assert read(path) == [entry(match="at [0]"), entry("a.*", match="at [0]", until="1.0-r3", max_matches=20)]
    path.write_text(text_of(status="unsupported", match=None))
    assert read(path) == [entry(status="unsupported", match="")]
    path.write_text(text_of(id=None, property="select.order", match=None) + text_of(**{"class": "fp32"}))
    assert read(path) == [listed(), entry(match="at [0]", in_class="fp32")]
    path.write_text("")
    assert read(path) == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (text_of(issue=None), "entry 1 (a.one): issue is missing"),
        (text_of(issue=""), "issue is missing"),
        (text_of(issue="later"), "the URL of the issue"),
        (text_of(issue="https://"), "the URL of the issue"),
        (text_of(issue="https://["), "the URL of the issue"),
        (text_of(issue="javascript:x"), "the URL of the issue"),
        (text_of(id=None), "entry 1: id is missing"),
        (text_of(status="notrun"), "status must be one of fail, error"),
        (text_of(status="pass"), "status must be one of fail, error"),
        (text_of(match=None), "match is missing"),
        (text_of(match=""), "match is missing"),
        (text_of(match=3), "match must be text"),
        (text_of(until="r3"), "a revision of the kit such as 1.0-r1"),
        (text_of(id="a.*"), "a glob needs max_matches from 1 to 20"),
        (text_of(id="a.*", max_matches=21), "a glob needs max_matches from 1 to 20"),
        (text_of(id="a.[ab]", max_matches=0), "a glob needs max_matches from 1 to 20"),
        (text_of(max_matches=2), "max_matches is for globs"),
        (text_of() + "max_matches = true\n", "max_matches must be a number"),
        (text_of(reason="x"), "reason is not known"),
        (text_of(**{"class": "fp8"}), "class must be one of exact64, fp32"),
        (text_of(property="select.order"), "entry 1 (select.order): id is not for properties"),
        (text_of(id=None, property="select.order", max_matches=1), "max_matches is not for properties"),
        (text_of(id=None, property="select.order", status="crash"), "status must be one of fail, unsupported"),
        (text_of(id=None, property=""), "property is missing"),
        (text_of() + text_of(id=""), "entry 2 (): id is missing"),
        ("[[expect", "seft-expect.toml: "),
        ("x = 1\n" + text_of(), "x is not known"),
        ("expect = 3", "write every expected failure as [[expect]]"),
        ("expect = [3]", "write every expected failure as [[expect]]"),
        ("\ud800", "cannot be read"),
    ],
)
def test_a_manifest_that_is_none_says_what_to_write(tmp_path, text, says):
    path = tmp_path / "seft-expect.toml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ManifestError) as caught:
        read(path)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_manifest_that_is_not_there(tmp_path):
    with pytest.raises(ManifestError, match="cannot be read"):
        read(tmp_path / "none.toml")


PAGE = (Path(module.__file__).parents[2] / "docs" / "reference" / "reports.md").read_text(encoding="utf-8")
EXAMPLES = {
    "the page": re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL),
    "the module": [textwrap.dedent(module.__doc__.split("\n\n")[n]) for n in (1, 2)],
}


@pytest.mark.parametrize("where", EXAMPLES)
def test_examples_are_manifests_of_cases_and_properties_that_there_are(tmp_path, where):
    cases = {case.id: case for case in load_all()}
    path = tmp_path / "seft-expect.toml"
    path.write_text("\n".join(EXAMPLES[where]), encoding="utf-8")
    found = read(path)
    assert {one.of_property for one in found} == {False, True}
    for one in found:
        assert one.id in (PROPERTIES if one.of_property else cases), one.id
        if not one.of_property:  # and it comes out so where the first index is wrong
            assert one.match == f"at [0] expected {cases[one.id].expected['chosen'][0]}"
