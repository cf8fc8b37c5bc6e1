"""report.html: balanced, self-contained, with everything that a failure needs, and readable on a telephone."""

import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from conformance.judge.harness import Failure, Result
from conformance.judge.judgement import PropertyResult
from conformance.report import write
from conformance.report.markup import tag
from conformance.report.page import page
from conformance.report.shown import difference, first_index, value_text
from conformance.report.summary import chapter_of
from tests.conformance.report_runs import LARGEST, STEP, broken, clauses, failed, passed, run_of, whole

VOID = {"meta", "br", "hr"}
LOADS = {"src", "srcset", "data", "poster", "background", "action", "ping"}


class Reader(HTMLParser):
    """Reads a page, and refuses what does not balance, loads something or runs something."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.links, self.text, self.classes = [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        assert tag not in ("script", "link", "img", "iframe", "object", "embed", "base", "form", "svg")
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), self.getpos()
        assert not LOADS & set(names)
        assert not [name for name in names if name.startswith("on")]
        told = dict(attrs)
        self.ids += [told["id"]] if "id" in told else []
        self.links += [told["href"]] if "href" in told else []
        self.classes += told.get("class", "").split()
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, self.getpos()

    def handle_data(self, data):
        self.text.append(data)
        if self.open[-1:] == ["style"]:
            assert "url(" not in data
            assert "@import" not in data


def read(text):
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    assert len(reader.ids) == len(set(reader.ids))
    assert {link.removeprefix("#") for link in reader.links} <= set(reader.ids)
    return reader


def shown(run):
    return " ".join("".join(read(page(run)).text).split())


@pytest.mark.parametrize("run", [whole, lambda: broken(30), run_of], ids=["conformant", "broken", "empty"])
def test_the_page_is_balanced_and_loads_nothing(run):
    reader = read(page(run()))
    assert set(clauses()) <= set(reader.ids)
    assert {"profiles", "tolerance", "unjudged", "clauses"} <= set(reader.ids)


def test_hostile_texts_stay_text():
    bad = '"><script>x</script><img src=x onerror=y>&lt;</style></pre>'
    wrong = failed(detail=bad, output="chosen", got={bad: bad})
    run = run_of([wrong], port={"name": bad, bad: bad}, complaints=[bad], command=[bad], filtered=bad, seed=bad)
    run.properties.append(PropertyResult(bad, ("SEL-001",), "core", failure=bad))
    reader = read(page(run))
    assert "".join(reader.text).count(bad) >= 7


def test_attributes_are_escaped():
    reader = read(tag("p", "x", title='"><script>\x1b', class_="", id="a"))
    assert reader.ids == ["a"]
    assert tag("p", title='"<\x1b') == '<p title="&quot;&lt;\\x1b"></p>'


def test_the_verdict_comes_first():
    text = shown(whole())
    assert text.index("conformantnm in exact64, fp32") < text.index("Profiles")
    text = shown(broken(3))
    assert text.index("not conformantcore: 1 crash, 1 error, 1 fail") < text.index("Profiles")


def test_a_failure_tells_everything():
    text = shown(run_of([failed(detail="at [0] expected 7, got 9", ratio=2.5)]))
    for part in (
        "fail select.largest-ties select.largest",
        "meant to catch: ties by the highest id",
        "SEL-001The k largest scores are the first k",
        "scores[1., 3., 3.]",
        "small float32, output chosen, first at [0], 2.5 times the bound",
        "at [0] expected 7, got 9",
        "expected[7]got[9]",
        "once more: seft verify --port ./my_port --only select.largest-ties",
    ):
        assert part in text, part
    assert "fails in all" not in text
    others = [failed(replace(LARGEST, id=f"select.largest-{name}")) for name in ("more", "most")]
    text = shown(run_of([failed(), *others, passed(STEP)]))
    assert "select.largest fails in all 3 cases of SEL-001 and in no other: `explain SEL-001`" in text


def test_a_property_and_the_manifest_are_failures_too():
    run = run_of([passed(STEP)], complaints=["select.x matches no case"])
    run.properties.append(PropertyResult("select.order", ("SEL-001",), "core", 5, failure="scores = [1.]"))
    text = shown(run)
    assert "select.x matches no case" in text
    assert "property select.order" in text
    assert "2 failures" in text


def test_the_difference_comes_before_the_texts_of_clauses_and_the_inputs():
    order = PropertyResult("select.order", ("SEL-001",), "core", 5, failure="at [0] expected 3, got 4", text="sorted")
    text = shown(run_of([failed(detail="at [0] expected 7, got 9")], properties=[order]))
    parts = (
        "fail select.largest-ties select.largest: SEL-001",
        "meant to catch: ties by the highest id",
        "at [0] expected 7, got 9",
        "scores[1., 3., 3.]",
        "SEL-001The k largest scores",
        "property select.order: SEL-001",
        "has to hold for all inputs: sorted",
        "at [0] expected 3, got 4",
    )
    assert sorted(parts, key=text.index) == list(parts)
    assert text.rindex("SEL-001The k largest scores", 0, text.index("How much")) > text.index(parts[-1])


def test_bars_mark_what_is_nearly_used_up():
    high, low = page(run_of([passed(STEP, 0.81)])), page(run_of([passed(STEP, 0.8)]))
    assert 'class="fill mild" style="width:81.0%"' in high
    assert "Above 80%: </b>adamw.step (adamw.one)" in high
    assert 'class="fill" style="width:80.0%"' in low
    assert "Above 80%" not in low


def test_what_was_not_judged_says_why():
    forgiven = failed()
    forgiven.waived = "https://example.org/1"
    text = shown(run_of([forgiven, Result(STEP, reason="blocked", skipped="it rests on others")]))
    assert "waived 1 × https://example.org/1" in text
    assert "blocked 1 × it rests on others" in text


def test_chapters_are_those_of_the_document():
    assert chapter_of("SEL-001") == chapter_of("RNG-001") == "7. Selection and chance"
    assert {chapter_of(name) for name in clauses()} & set("XYZ") == set()
    assert all(re.match(r"\d+\. ", chapter_of(name)) for name in clauses())


def test_large_arrays_are_shown_where_they_differ():
    want = np.arange(200.0).reshape(2, 100)
    got = want.copy()
    got[1, 3] = -1
    failure = Failure("p", "y", "at [1, 3] expected 103.0, got -1.0", got=got)
    assert first_index(failure) == "[1, 3]"
    assert difference(failure, want) == (
        "float64, shape [2, 100]; [1, 0:8] = 100.0, 101.0, 102.0, »103.0«, 104.0, 105.0, 106.0, 107.0",
        "float64, shape [2, 100]; [1, 0:8] = 100.0, 101.0, 102.0, »-1.0«, 104.0, 105.0, 106.0, 107.0",
    )
    inside = Failure("p", "y", "w: at [4] expected 1, got 2", got={"w": got})
    assert first_index(inside) == "[4]"
    assert difference(inside, {"w": want}) == difference(inside, {"w": got})
    assert first_index(Failure("p", "y", "at [x] expected 1")) == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "3"),
        (None, "None"),
        ([1, 2], "[1, 2]"),
        ({"a": 1}, "{'a': 1}"),
        (np.zeros(0), "[] float64, shape [0]"),
        ({"a": np.array([1]), "b": [np.array([2.5])]}, "a: [1]\nb: 0: [2.5]"),
        ([[0]] * 30, "\n".join(f"{i}: [0]" for i in range(24)) + "\nand 6 more"),
        (np.arange(65), "int64, shape [65]: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, ..."),
    ],
)
def test_values_as_text(value, text):
    assert value_text(value) == text


FRAME = """<!DOCTYPE html><body><iframe id="f" style="border:0;height:900px"></iframe><pre id="o"></pre><script>
const f = document.getElementById("f"), asked = ASKED;
function next() {
  if (!asked.length) return;
  const [name, width] = asked.shift();
  f.style.width = width + "px";
  f.onload = () => {
    f.contentDocument.querySelectorAll("details").forEach(d => { d.open = true });
    const e = f.contentDocument.documentElement;
    document.getElementById("o").textContent += `${name} ${width} wide ${e.scrollWidth - e.clientWidth} too wide;`;
    next();
  };
  f.src = name + "/report.html?" + width;
}
next();
</script></body>"""


def test_nothing_scrolls_sideways_in_a_browser(tmp_path):
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("1 test needs chromium")
    write(whole(), tmp_path / "good")
    write(broken(30), tmp_path / "bad")
    asked = [[name, width] for name in ("good", "bad") for width in (320, 400, 1400)]
    (tmp_path / "frame.html").write_text(FRAME.replace("ASKED", str(asked).replace("'", '"')))
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--allow-file-access-from-files",
        "--enable-logging=stderr",
    ]
    options += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=20000", "--dump-dom"]
    done = subprocess.run(
        [browser, *options, f"file://{tmp_path / 'frame.html'}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    for name, width in asked:
        assert f"{name} {width} wide 0 too wide;" in done.stdout, done.stderr
    assert "CONSOLE" not in done.stderr
