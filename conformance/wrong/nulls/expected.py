"""Outcomes and verdicts that null ports must get, and functions that run the kit on one and compare.

outcomes, verdict = judged("echo")
"""

import random
import secrets
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from conformance.cases.case import VECTORS, load, load_all
from conformance.cases.ops import PROFILES
from conformance.cases.profiles import offered_in
from conformance.judge.conduct import declining, ending, repeating
from conformance.judge.harness import Result, Variant, run
from conformance.judge.judgement import PropertyResult, Run, Verdict
from conformance.properties import run_properties
from conformance.protocol.child import Child, PortFault, StartError
from conformance.protocol.port import Refused, Unsupported
from conformance.wrong.nulls import files, known, lines

__all__ = ["ASKED", "CONFORMANT", "EXPECTED", "Judged", "complaints", "judged"]

ASKED = (
    "kernel.dense-lattice",
    "kernel.dense-real",
    "kernel.refuse-dense-width",
    "kernel.refuse-dense-integers",
    "kernel.store-dense-some",
    "exceeding.special",
    "exceeding.zero",
    "exceeding.refuse-matrix",
)
"""The cases that null ports are asked by default: answers of every class, and refusals."""
_FEW = ("kernel.dense-real", "kernel.refuse-dense-width", "exceeding.special")
"""Fewer cases, for ports that are started again for every case."""
_FEWER = ("exceeding.special",)
_ALIKE = (
    *("wrong-id", "empty-line", "no-object", "two-on-a-line", "log-on-stdout", "nan-literal", "unknown-type"),
    *("invalid-utf8", "half-a-line", "exits-at-once", "exits-on-call", "late-reply", "hang", "closes-stdout"),
)
"""Ports that do the same for every case, so that one case is enough."""
_OF_FILES = ("file.read-dense", "file.read-zstd-bitmask", "file-refused.zstd-no-frame", "exceeding.special")
_ZSTD = ("no-zstd-and-says-so", "no-zstd", "no-zstd-unnamed", "says-no-zstd-and-reads", "reads-no-file")
_OF_MODE = {
    **dict.fromkeys(_ZSTD, _OF_FILES),
    **dict.fromkeys(("unsteady", "unsteady-and-says-so"), ("kernel.dense-real", "exceeding.special")),
    "memory-hog": ("file-refused.short", "exceeding.special"),
    **dict.fromkeys(set(lines.MODES) - {"slow", "prints"}, _FEW),
    **dict.fromkeys(_ALIKE, _FEWER),
}
_SILENT = ("late-reply", "hang", "closes-stdout")
"""Ports that do not answer in time. Their timeout is short, because each call takes all of it."""

CONFORMANT = ("right", "slow", "prints", "files", "unsteady-and-says-so", "no-zstd-and-says-so")
"""Right ports, which the kit must accept, because a kit that refuses every port would pass otherwise."""

EXPECTED: dict[str, set[str]] = {
    **{mode: {"pass"} for mode in CONFORMANT},
    "table": {"pass"},
    **{mode: {"pass"} for mode in known.MODES},
    "empty-outputs": {"fail"},
    "empty-lists": {"fail"},
    "nulls": {"fail"},
    "echo": {"fail"},
    "zeros": {"fail", "pass"},
    "nan": {"fail", "pass"},
    "unsupported-all": {"protocol"},
    "declares-nothing": {"unsupported"},
    # the kit reports once for each operation that it is answered but not offered; its other cases are `unsupported`
    "offers-less": {"protocol", "unsupported"},
    "rejects-all": {"fail"},
    "accepts-all": {"fail", "pass"},
    "error-all": {"error"},
    "wrong-dtype": {"fail", "pass"},
    "wrong-shape": {"fail", "pass"},
    "wrong-endianness": {"fail", "pass"},
    "more-outputs": {"fail", "pass"},
    "memory-hog": {"error", "pass"},
    "no-zstd": {"fail", "pass"},
    "no-zstd-unnamed": {"fail", "pass"},
    "says-no-zstd-and-reads": {"fail", "pass"},
    "reads-no-file": {"fail", "pass"},
    "unsteady": {"fail", "pass"},
    "second-answer-wrong": {"fail", "pass"},
    "wrong-id": {"protocol"},
    "duplicate-reply": {"protocol"},
    "late-reply": {"timeout"},
    "two-on-a-line": {"protocol"},
    "log-on-stdout": {"protocol"},
    "empty-line": {"protocol"},
    "crash": {"crash", "pass"},
    "half-a-line": {"crash"},
    "hang": {"timeout"},
    "exits-at-once": {"crash"},
    "exits-on-call": {"crash"},
    "closes-stdout": {"crash"},
    "junk-base64": {"protocol", "pass"},
    "json-float": {"protocol", "pass"},
    "no-object": {"protocol"},
    "nan-literal": {"protocol"},
    "unknown-type": {"protocol"},
    "invalid-utf8": {"protocol"},
    "unasked": {"crash", "protocol"},
    "old-hello": {"crash"},
    **{mode: {"pass"} for mode in lines.ENDS},
    # the refusal among _FEW gets `pass`, because it is right and has no array
    **{mode: {"protocol", "pass"} for mode in files.MODES if mode != "files"},
}
"""Null port -> outcomes of its cases; `pass` is among them if a refusal or an empty answer is right."""


@dataclass(frozen=True, slots=True)
class Judged:
    """The results of cases, the verdict, and the number of processes left running."""

    results: list[Result]
    verdict: Verdict
    left: int


def judged(mode: str) -> Judged:
    """Ask a null port its cases in float32 and a property with a fresh seed; return results and verdict."""
    timeout = 0.3 if mode in _SILENT else 1.0
    if mode in known.MODES:
        return _judged_by_properties(mode)
    case_ids = _OF_MODE.get(mode, ASKED)
    names = dict.fromkeys(id_.split(".")[0] for id_ in case_ids)
    cases = [case for name in names for case in load(VECTORS / f"{name}.json") if case.id in case_ids]
    profiles = ("kernels", "ckpt-read") if mode in ("memory-hog", *_ZSTD) else ("kernels",)
    seed = secrets.token_hex(16)
    with Child([sys.executable, "-m", "conformance.wrong.nulls", mode], timeout=timeout) as child:
        offers = _offers(child)
        steady = child.hello().deterministic if offers is not None else True
        zstd = child.hello().zstd if offers is not None else True
        variant = Variant(child, "float32", offers=offers, deterministic=steady, zstd=zstd)
        results = run(cases, [variant], order=random.Random(seed))  # noqa: S311  the order is no secret
        port = {"name": mode}
        properties = [exceeding(child, seed)]
        if mode in CONFORMANT or mode in lines.ENDS:
            properties += [
                declining([child], load_all()),
                repeating([child], load_all()),
                *(ending([child], by_stop=by_stop) for by_stop in (True, False)),
            ]
        chosen = {case.id: 1 for case in cases} | {one.name: 0 for one in properties}
        whole = Run(
            port, profiles, ("fp32",), results, [], {}, chosen, properties, seed, deterministic=steady, zstd=zstd
        )
        process = child._process
    return Judged(results, whole.verdict(), 0 if process is None or process.poll() is not None else 1)


def _judged_by_properties(mode: str) -> Judged:
    """Return results and verdict of a null port that passes all frozen cases, but fails a property of its profile."""
    profile, name = known.FOUND_BY[mode]
    cases, seed = known.cases_of_mode(mode), secrets.token_hex(16)
    with Child([sys.executable, "-m", "conformance.wrong.nulls", mode], timeout=60.0) as child:
        variant = Variant(child, "float32", offers=_offers(child), deterministic=True)
        results = run(cases, [variant])
        with tempfile.TemporaryDirectory() as folder:
            properties = run_properties(
                [variant], [profile], seed, examples=4, only=name, artifacts=Path(folder), seconds=2.0
            )
        chosen = dict.fromkeys([case.id for case in cases] + [one.name for one in properties], 0)
        whole = Run({"name": mode}, (profile,), ("fp32",), results, [], {}, chosen, properties, seed)
    return Judged(results, whole.verdict(), 0)


def _offers(child: Child) -> frozenset[str] | None:
    try:
        return offered_in("fp32", child.hello().ops)
    except StartError:
        return None


def exceeding(child: Child, seed: str, examples: int = 20) -> PropertyResult:
    """Return the result of `kernel.exceeding` on random numbers, which no table can know (KRN-014)."""
    result = PropertyResult("kernels.exceeding", ("KRN-014",), "kernels")
    draw = random.Random(seed)  # noqa: S311  it draws test data
    for _ in range(examples):
        values = np.array([draw.randrange(-8, 9) for _ in range(draw.randrange(1, 20))], dtype=np.float32)
        least = float(draw.randrange(0, 8))
        want = [i for i, x in enumerate(values.tolist()) if abs(x) > least]
        result.examples += 1
        try:
            indices = child.call("kernel.exceeding", {"values": values, "least": least}, "float32").get("indices")
        except (PortFault, StartError, Refused, Unsupported) as error:
            result.failure = str(error)
            return result
        if not isinstance(indices, np.ndarray) or indices.tolist() != want:
            result.failure = f"expected {want}, got {indices}"
            return result
    return result


def complaints(mode: str, judged: Judged) -> list[str]:
    """Return the differences between the judgement of a null port and the expected one."""
    outcomes = {result.outcome for result in judged.results}
    differences = []
    if outcomes != EXPECTED[mode] and not (mode == "unasked" and outcomes <= EXPECTED[mode]):
        differences.append(f"{mode}: outcomes {sorted(outcomes)}, expected {sorted(EXPECTED[mode])}")
    if judged.verdict.conformant != (mode in CONFORMANT):
        differences.append(f"{mode}: {judged.verdict.line}")
    if mode == "unsteady-and-says-so" and "not deterministic" not in judged.verdict.line:
        differences.append(f"{mode}: {judged.verdict.line}")
    if mode == "no-zstd-and-says-so" and "kernels, ckpt-read without zstd in" not in judged.verdict.line:
        differences.append(f"{mode}: {judged.verdict.line}")
    broken = {"crashes-on-what-it-lacks": "PRT-007"} | dict.fromkeys(lines.ENDS[1:], "PRT-008")
    if broken.get(mode, "") not in judged.verdict.line:
        differences.append(f"{mode}: {judged.verdict.line}")
    if judged.left:
        differences.append(f"{mode}: a process is left behind")
    return differences


assert "kernel.exceeding" in PROFILES["kernels"]
