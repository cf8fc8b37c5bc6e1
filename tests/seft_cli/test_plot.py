"""Logs and their pictures: what a reader takes and refuses; every kind of output is whole, and the same twice."""

import importlib
import json
import re
import struct
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.seft_cli.logs import RUNS, as_text, run_log

ROOT = Path(__file__).resolve().parents[2]
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def plot(cli):
    """`plot(*arguments)` runs the command; returns (exit code, stdout, stderr)."""
    return lambda *arguments: cli("plot", *arguments)


@pytest.fixture
def written(tmp_path):
    """`written(text)` is a file that holds a log."""

    def write(content):
        file = tmp_path / "run.jsonl"
        file.write_bytes(content if isinstance(content, bytes) else as_text(content).encode())
        return file

    return write


def read(file):
    return importlib.import_module("seft_cli.log.read").read_log(file)


SMALL = run_log(blocks=1, hidden=6, steps=6, every=2)


# reading


def test_TRN_010_a_log_reads_back_as_it_was_written(written):
    records = run_log(**RUNS["denser"])
    log = read(written(records))
    of = {kind: [r for r in records if r["type"] == kind] for kind in ("run", "step", "event", "warning", "end")}
    assert log.settings == of["run"][0]["settings"]
    assert {m.name: (list(m.shape), m.stored, m.slots) for m in log.matrices.values()} == {
        m["name"]: (m["shape"], m["stored"], m["slots"]) for m in of["run"][0]["matrices"]
    }
    assert [(s.step, s.loss, s.lr, s.gradient_norm, s.seconds) for s in log.steps] == [
        tuple(r[key] for key in ("step", "loss", "lr", "gradient_norm", "seconds")) for r in of["step"]
    ]
    assert [(w.step, w.name, w.message) for w in log.warnings] == [
        (r["step"], r["name"], r["message"]) for r in of["warning"]
    ]
    assert len(log.events) == len(of["event"]) == 7
    for event, record in zip(log.events, of["event"], strict=True):
        assert (event.step, event.fraction) == (record["step"], record["fraction"])
        assert event.total.counts == {key: record[key] for key in event.total.counts}
        for part in record["matrices"]:
            got = event.matrices[part["name"]]
            assert got.counts | got.ratios == {key: part[key] for key in (*got.counts, *got.ratios)}
            assert got.gaps == {key: b["gap"] for key, b in part["boundaries"].items() if b}
    assert (log.budget, log.stored_at_end) == (of["run"][0]["budget"], of["end"][0]["stored"])


def test_TRN_010_a_log_that_is_cut_off_anywhere_reads_up_to_there(written):
    text = as_text(SMALL).encode()
    begin = text.rindex(b"\n", 0, text.index(b'{"type": "event"')) + 1
    for cut in [*range(begin, begin + 300), *range(len(text) - 200, len(text))]:
        log = read(written(text[:cut]))
        whole = text[:cut].count(b"\n") + (text[cut : cut + 1] == b"\n")
        of = [record["type"] for record in SMALL[:whole]]
        assert len(log.steps) == of.count("step"), cut
        assert len(log.events) == of.count("event"), cut
        assert (log.stored_at_end is not None) == ("end" in of), cut


def test_TRN_010_a_resumed_run_goes_on_in_the_same_log_and_the_later_wins(written):
    run, *rest = [record for record in SMALL if record["type"] != "end"]
    late = {"type": "step", "step": 4, "loss": 1.25}
    log = read(written([run, *rest, run, late, {"type": "step", "step": 7, "loss": 1.0}, SMALL[-1]]))
    assert [s.step for s in log.steps] == [1, 2, 3, 4, 5, 6, 7]
    assert [log.steps[3].loss, log.steps[6].loss] == [1.25, 1.0]
    assert [e.step for e in log.events] == [2, 4]
    assert log.stored_at_end == SMALL[-1]["stored"]
    # an end before the resumption is none
    assert read(written([*SMALL, run])).stored_at_end is None


EVENT = next(record for record in SMALL if record["type"] == "event")
RUN = SMALL[0]


def without(record, key):
    return {k: v for k, v in record.items() if k != key}


def test_TRN_009_a_norm_may_be_absent_or_large(written):
    event = json.loads(json.dumps(EVENT))
    absent, null, large = event["matrices"][:3]
    del absent["gradient_norm"]
    null["gradient_norm"] = None
    large["gradient_norm"] = 1e19
    (seen,) = read(written([RUN, event])).events
    assert "gradient_norm" not in seen.matrices[absent["name"]].ratios
    assert "gradient_norm" not in seen.matrices[null["name"]].ratios
    assert seen.matrices[large["name"]].ratios["gradient_norm"] == 1e19


def test_TRN_010_the_name_of_the_preset_is_not_compared(written):
    named = RUN | {"settings": RUN["settings"] | {"preset": "another"}}
    assert len(read(written([*SMALL, named])).steps) == 6


MALFORMED = {
    "cut inside": (2, b'{"type": "step", "st'),
    "no JSON": (2, b"step 1"),
    "an empty line": (2, b""),
    "not UTF-8": (2, b'{"type": "warning", "step": 1, "name": "\xff", "message": ""}'),
    "no object": (2, b"[1, 2]"),
    "no type": (2, {"step": 1}),
    "a type that is no text": (2, {"type": {}}),
    "an unknown type": (2, {"type": "epoch"}),
    "a loss that is NaN": (2, b'{"type": "step", "step": 1, "loss": NaN}'),
    "a loss beyond binary64": (2, b'{"type": "step", "step": 1, "loss": 1e999}'),
    "a loss that is a text": (2, {"type": "step", "step": 1, "loss": "2.0"}),
    "a loss that is true": (2, {"type": "step", "step": 1, "loss": True}),
    "no loss": (2, {"type": "step", "step": 1}),
    "step 0": (2, {"type": "step", "step": 0, "loss": 1.0}),
    "half a step": (2, {"type": "step", "step": 0.5, "loss": 1.0}),
    "a number of 5000 digits": (2, b'{"type": "step", "step": ' + b"9" * 5000 + b"}"),
    "too deep": (2, b'{"a":' * 100_000),
    "an event without a count": (2, without(EVENT, "pruned")),
    "an event of nothing": (2, without(EVENT, "matrices")),
    "a matrix that is none": (2, EVENT | {"matrices": [5]}),
    "a matrix nobody knows": (2, EVENT | {"matrices": [EVENT["matrices"][0] | {"name": "w"}]}),
    "a negative churn": (2, EVENT | {"matrices": [EVENT["matrices"][0] | {"churn": -0.5}]}),
    "a boundary that is none": (2, EVENT | {"matrices": [EVENT["matrices"][0] | {"boundaries": {"drop": 3}}]}),
    "a warning without words": (2, {"type": "warning", "step": 1, "name": "divergence"}),
    "an end of nothing": (2, {"type": "end", "step": 1}),
    "a negative norm": (2, EVENT | {"matrices": [EVENT["matrices"][0] | {"gradient_norm": -1.0}]}),
    "no churn": (2, EVENT | {"matrices": [without(EVENT["matrices"][0], "churn")]}),
    "other stored weights": (2, RUN | {"matrices": [RUN["matrices"][0] | {"stored": 1}, *RUN["matrices"][1:]]}),
    "another run": (2, RUN | {"settings": RUN["settings"] | {"steps": 7}}),
    "other matrices": (2, RUN | {"matrices": RUN["matrices"][1:]}),
    "a later version": (1, RUN | {"log": 2}),
    "no run first": (1, {"type": "step", "step": 1, "loss": 1.0}),
    "no shape": (1, RUN | {"matrices": [without(RUN["matrices"][0], "shape")]}),
    "a size of 0": (1, RUN | {"matrices": [RUN["matrices"][0] | {"shape": [0, 3]}]}),
    "a setting that is no JSON": (
        1,
        b'{"type": "run", "log": 1, "settings": {"lr": NaN}, "matrices": [], "budget": 0}',
    ),
    "settings as a list": (1, RUN | {"settings": []}),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_TRN_010_a_malformed_line_is_refused_by_its_number(plot, written, tmp_path, case):
    number, line = MALFORMED[case]
    line = line if isinstance(line, bytes) else json.dumps(line).encode()
    before = [as_text([RUN]).encode()] * (number - 1)
    file = written(b"".join(before) + line + b"\n" + as_text(SMALL[1:3]).encode())
    code, _, err = plot(file, tmp_path / "out.png")
    assert code == 2
    assert err.startswith("error: ")
    assert f"run.jsonl, line {number}: " in err
    assert err.count("\n") == 1
    assert len(err) < 500
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("content", "options", "said"),
    [
        (None, ("{tmp}/absent.jsonl", "{tmp}/out.png"), "there is no log"),
        (None, ("{tmp}", "{tmp}/out.png"), "there is no log"),
        (b"", ("{log}", "{tmp}/out.png"), "no whole line"),
        (b'{"type": "run", "lo', ("{log}", "{tmp}/out.png"), "no whole line"),
        (b"word", ("{log}", "{tmp}/out.png"), "line 1: not JSON"),
        (SMALL, ("{log}", "{tmp}/out.pdf"), ".png nor .svg nor .html"),
        (SMALL, ("{log}", "{tmp}/out"), ".png nor .svg nor .html"),
        (SMALL, ("{log}", "{tmp}/out.pdf", "--html"), ".png nor .svg nor .html"),
        (SMALL, ("{log}", "{log}/out.png"), "is no folder"),
    ],
)
def test_what_cannot_be_drawn_ends_in_one_line_and_writes_nothing(plot, written, tmp_path, content, options, said):
    log = written(content) if content is not None else None
    before = sorted(tmp_path.iterdir())
    code, _, err = plot(*(option.format(tmp=tmp_path, log=log) for option in options))
    assert code == 2
    assert err.startswith("error: ")
    assert said in err
    assert err.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_without_matplotlib_it_says_how_to_get_it(plot, written, tmp_path, monkeypatch):
    for name in [
        n for n in sys.modules if n.split(".")[0] == "matplotlib" or n in ("seft_cli.log.figures", "seft_cli.log.page")
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    file = written(SMALL)
    for out in ("out.png", "out.html"):
        code, _, err = plot(file, tmp_path / out)
        assert (code, err.count("\n")) == (2, 1)
        assert "'.[plot]'" in err
    assert list(tmp_path.iterdir()) == [file]


def test_a_drawing_that_fails_leaves_the_older_picture(plot, written, tmp_path, monkeypatch):
    file, out = written(SMALL), tmp_path / "out.svg"
    out.write_text("older")
    monkeypatch.setattr("formats.atomic.write_bytes", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    code, _, err = plot(file, out)
    assert (code, err) == (2, "error: disk full\n")
    assert sorted(tmp_path.iterdir()) == [out, file]
    assert out.read_text() == "older"


# drawing


def texts(svg):
    return [" ".join(element.itertext()) for element in ET.fromstring(svg).iter(f"{SVG}text")]


@pytest.mark.parametrize("name", RUNS)
def test_a_picture_of_every_run(plot, written, tmp_path, name):
    code, out, err = plot(written(run_log(**RUNS[name])), tmp_path / "out.svg")
    assert (code, err) == (0, "")
    assert "out.svg" in out
    svg = (tmp_path / "out.svg").read_bytes()
    said = texts(svg)
    assert any(text.startswith(RUNS[name].get("preset", "seft") + ": ") for text in said)
    assert {"Loss", "Support and density", "step"} <= set(said)
    assert ("Churn: mean and range of matrices" in said) == ("preset" not in RUNS[name] or name == "denser")
    warned = {"jumps": ["loss-jump-after-growth: step 41"], "denser": ["denser-at-end: step 80"]}
    for text in warned.get(name, []):
        assert text in said
    assert len([text for text in said if "denser-at-end" in text or "loss-jump" in text]) == len(warned.get(name, []))
    assert b"dc:date" not in svg


def test_a_picture_is_a_png_that_is_the_same_twice(plot, written, tmp_path):
    file = written(SMALL)
    assert plot(file, tmp_path / "one.png")[0] == plot(file, tmp_path / "two.png")[0] == 0
    png = (tmp_path / "one.png").read_bytes()
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert png[-8:-4] == b"IEND"
    width, height = struct.unpack(">II", png[16:24])
    assert width == 1650
    assert 1000 < height < 3000
    assert (tmp_path / "two.png").read_bytes() == png


DRAW = """
import sys
from pathlib import Path
from seft_cli.commands import plot
for out in sys.argv[2:]:
    plot.main(Path(sys.argv[1]), Path(out), html=False)
"""


def test_another_process_draws_the_same_bytes(written, tmp_path, plot):
    file = written(run_log(**RUNS["jumps"]))
    there, here = ([tmp_path / f"{name}.{suffix}" for suffix in ("svg", "html")] for name in ("there", "here"))
    # both by one process, because matplotlib takes a second to import
    command = [sys.executable, "-c", DRAW, file, *there]
    done = subprocess.run(command, cwd=ROOT, env={"PYTHONHASHSEED": "1"}, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    for out in here:
        assert plot(file, out)[0] == 0
    assert [out.read_bytes() for out in there] == [out.read_bytes() for out in here]


class Page(HTMLParser):
    """Checks that elements are closed in order, and collects what a page says and where it points."""

    VOID = ("meta",)

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.ids, self.links, self.words, self.declared = [], [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_decl(self, decl):
        self.declared.append(decl)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.open += [tag] if tag not in self.VOID else []
        self.ids += [value for key, value in attrs if key == "id"]
        self.links += [
            value for key, value in attrs if key.split(":")[-1] in ("href", "src", "srcset", "data", "action")
        ]
        self.links += [link for _, value in attrs for link in re.findall(r"url\((.*?)\)", value or "")]

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.words.append(data.strip())


@pytest.mark.parametrize("name", ["denser", "static"])
def test_a_page_needs_nothing_but_itself(plot, written, tmp_path, name):
    records = run_log(**RUNS[name])
    records[0]["settings"]["note"] = "<script>alert('5 & 6')</script>"
    assert plot(written(records), tmp_path / "out.html")[0] == 0
    text = (tmp_path / "out.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.declared == ["DOCTYPE html"]
    assert not re.search(r"https?:|//www|@import", text)
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert len(page.ids) == len(set(page.ids)) > 10
    assert all(link.startswith("data:image/png;base64,") or link[1:] in page.ids for link in page.links)
    assert "<script>alert('5 & 6')</script>" in page.words
    assert page.tags.count("svg") == {"denser": 7, "static": 2}[name]
    for record in records:
        if record["type"] == "warning":
            assert record["message"] in page.words
        elif record["type"] == "event":
            assert f"{record['support']:,}" in page.words
    for matrix in records[0]["matrices"]:
        assert matrix["name"].removeprefix("model.").removesuffix(".weight") in page.words
    assert {"preset", "optimizer.beta1", "0.001"} <= set(page.words)


def test_html_takes_the_place_of_a_picture(plot, written, tmp_path):
    file = written(run_log(**RUNS["one step"]))
    assert plot(file, tmp_path / "out.png", "--html")[0] == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.html", "run.jsonl"]


def test_a_long_run_is_drawn_quickly_and_small(plot, written, tmp_path):
    file = written(run_log(steps=10_000, every=50, blocks=2, jump_at=5000))
    began = time.perf_counter()
    assert plot(file, tmp_path / "out.svg")[0] == 0
    assert time.perf_counter() - began < 20
    assert (tmp_path / "out.svg").stat().st_size < 400_000
    assert "loss-jump-after-growth: step 5001" in texts((tmp_path / "out.svg").read_bytes())


def test_what_a_log_may_hold_does_not_break_a_picture(plot, written, tmp_path):
    records = json.loads(json.dumps(SMALL))
    records[0]["settings"]["preset"] = "$\\alpha$ 稀疏 & <b>"
    for record in records:
        if record["type"] == "step":
            record["loss"] = 1.7e308
        for part in record.get("matrices", []) if record["type"] == "event" else []:
            # ties everywhere, and a matrix that names no block
            part["boundaries"] = {"drop": None, "grow": {"inside": 0.0, "outside": 0.0, "gap": 0.0}, "adapt": None}
    odd = "lm_head.weight"
    records[0]["matrices"].append({"name": odd, "shape": [3], "stored": 3, "slots": 0})
    records += [{"type": "warning", "step": 0, "name": "a name of later", "message": "news"}]
    file = written(records)
    assert plot(file, tmp_path / "out.svg")[0] == 0
    said = texts((tmp_path / "out.svg").read_bytes())
    assert "0: a tie decided" in said
    assert "a name of later: step 0" in said
    for record in records:
        if record["type"] == "event":
            record["matrices"] = []
    assert plot(written(records), tmp_path / "out.html")[0] == 0


def test_help_explains_every_option(plot):
    code, out, _ = plot("--help")
    assert code == 0
    for word in ("LOG", "OUT", "--html"):
        assert word in out
