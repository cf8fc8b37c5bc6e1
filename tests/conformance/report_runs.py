"""Runs to report on: small ones made by hand, and one of all cases of a profile."""

from functools import cache

import numpy as np

from conformance.cases.case import Case, load_all
from conformance.cases.clauses import read_clauses
from conformance.cases.coverage import coverage, elsewhere
from conformance.cases.ops import OPS
from conformance.judge.harness import Failure, Result
from conformance.judge.judgement import PropertyResult, Run, cases_of

LARGEST = Case(
    "select.largest-ties",
    "select.largest",
    ("SEL-001",),
    "ties by the highest id",
    {"scores": np.array([1.0, 3.0, 3.0]), "ids": np.array([5, 7, 9]), "k": 1},
    {"chosen": np.array([7])},
)
STEP = Case(
    "adamw.one",
    "adamw.step",
    ("OPT-001", "OPT-002"),
    "eps inside the root",
    {"values": np.array([1.0]), "lr": 0.5},
    {"values": np.array([0.5])},
)


@cache
def clauses():
    return read_clauses()


@cache
def all_cases():
    return load_all()


@cache
def covered():
    return list(coverage(clauses(), all_cases(), elsewhere()).values())


def run_of(results=(), **more):
    told = {
        "port": {"name": "small", "version": "1"},
        "profiles": ("core",),
        "classes": ("exact64", "fp32"),
        "results": list(results),
        "coverage": covered(),
        "clauses": clauses(),
        "seed": "0a",
        "command": ["--port ./my_port"],
        "started": "2026-01-02T03:04:05Z",
        "seconds": 1.5,
    }
    run = Run(**told | more)
    return chosen(run)


def chosen(run):
    """The run, with nothing to be asked but what it has results of."""
    run.chosen = {one.name: 0 for one in [*run.results, *run.properties]}
    return run


def passed(case, ratio=0.25):
    return Result(case, ran=1 if OPS[case.op].kind == "scalar" else 2, ratio=ratio, seconds=0.001)


def failed(case=LARGEST, detail="at [0] expected 7, got 9", **more):
    failure = {"output": "chosen", "got": np.array([9]), **more}
    return Result(case, [Failure("small float32", detail=detail, **failure)], ran=2, seconds=0.002)


def whole(profiles=("nm",), **more):
    """A conformant run: every case of the profiles passes."""
    return run_of([passed(case) for case in cases_of(profiles, all_cases())], profiles=profiles, **more)


def broken(n=30):
    """A run in which n cases fail, in every way there is, and the rest passes."""
    run = whole(("core", "nm"), properties=[PropertyResult("select.order", ("SEL-001",), "core", 7, failure="[0]")])
    ways = ("fail", "error", "crash", "timeout", "protocol")
    for at, result in enumerate(run.results[:n]):
        output = next(iter(result.case.expected), "")
        got = result.case.expected.get(output)
        result.failures = [Failure("small float64", output, f"way {at}", 2.5, ways[at % 5], got)]
    return run
