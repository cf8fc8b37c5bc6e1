"""Results and entries for the tests of expected failures."""

import numpy as np

from conformance.cases.case import Case
from conformance.expect import Expect, read
from conformance.judge.harness import Failure, Result
from conformance.judge.judgement import PropertyResult

URL = "https://example.org/issues/1"


def case(name):
    return Case(name, "select.largest", ("SEL-001",), "ties", {}, {"chosen": np.array([7])})


def good(name="a.one"):
    return Result(case(name), ran=2)


def bad(name="a.one", *told, status="fail"):
    told = told or ("at [0] expected 7, got 9",)
    failures = [Failure(f"port {dtype}", "chosen", text, status=status) for text in told for dtype in ("f32", "f64")]
    return Result(case(name), failures, ran=2)


def skipped(name="a.one", reason="unsupported", why="port 1.2 does not offer select.largest"):
    return Result(case(name), reason=reason, skipped=why)


def entry(name="a.one", status="fail", match="at [0] expected", issue=URL, **more):
    return Expect(name, status, match, issue, **more)


def held(name="select.order", **more):
    return PropertyResult(name, ("SEL-001",), "core", 7, **more)


def listed(name="select.order", status="fail", **more):
    return Expect(name, status, "", URL, of_property=True, **more)


def in_classes(name="a.one", **told):
    """A case that was asked in exact64 and fp32, and tells one thing in each."""
    dtypes = {"exact64": "float64", "fp32": "float32"}
    failures = [Failure(f"port 1.0 {dtypes[cls]}", "chosen", *one) for cls, one in told.items()]
    return Result(case(name), failures, ran=2)


def text_of(**change):
    row = {"id": "a.one", "status": "fail", "match": "at [0]", "issue": URL} | change
    told = {k: v if isinstance(v, int | list) else f'"{v}"' for k, v in row.items() if v is not None}
    return "[[expect]]\n" + "".join(f"{k} = {v}\n" for k, v in told.items())


def filled(path):
    path.write_text(path.read_text().replace('issue = ""', f'issue = "{URL}"'))
    return read(path)
