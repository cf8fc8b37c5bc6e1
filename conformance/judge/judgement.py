"""The results of a whole run of the kit, and the claim that they support (PRT-010).

Run(...).verdict()      counts, claim, exit status: everything that terminal, report and badge say

Only `Run.verdict` decides; terminal, report and badge display its result.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any

from conformance.cases.case import VECTORS, Case
from conformance.cases.clauses import SPEC, Clause
from conformance.cases.coverage import Coverage
from conformance.cases.ops import OPS
from conformance.cases.profiles import needs_zstd, profiles_of_case
from conformance.judge.harness import Result, classes_of

__all__ = ["BLOCKED", "PROTOCOL", "UNTRIED", "PropertyResult", "Run", "Status", "Verdict", "asked_in", "kit_digest"]

REVISION = "1.0-r1"
"""Version of SPEC.md, and revision of its cases: a revision adds or withdraws cases, but changes none."""
UNTRIED = ("the kit's fault", "hypothesis is not installed")
"""Beginnings of `skipped` for a property that could not be tried, though not through a fault of the port."""
BLOCKED = "blocked"
"""Beginning of `skipped` for a property that was not tried because an operation that it asks fails (PRT-012)."""
PROTOCOL = "protocol"
"""The profile of the checks that every claim needs (PRT-007, PRT-008); it cannot be selected by name."""
_FINE = ("pass", "waived")


class Status(IntEnum):
    """Exit status of a run."""

    MET = 0
    NOT_MET = 1
    KIT = 4


@dataclass(slots=True)
class PropertyResult:
    """The outcome of one property over its examples.

    Attributes:
        name: ``area.name``.
        clauses: ids of the clauses of SPEC.md that it tests.
        profile: the profile it belongs to.
        examples: number of examples that were tried.
        failure: a description of the smallest failing example, empty if none failed.
        artifact: the folder that replays the failure, None if nothing failed.
        skipped: why it was not run, else empty.
        waived: the issues that an expected-failure manifest names for it; else empty.
        counts: numbers of examples by description, such as those that could not be judged exactly.
        asked_new: operations that answered inputs drawn in this run (PRT-018), each as `asked_in` spells it.
        text: the statement that has to hold, in one line.
    """

    name: str
    clauses: tuple[str, ...]
    profile: str
    examples: int = 0
    failure: str = ""
    artifact: Path | None = None
    skipped: str = ""
    seconds: float = 0.0
    waived: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    asked_new: tuple[str, ...] = ()
    text: str = ""

    @property
    def told(self) -> str:
        """The counts in words."""
        return ", ".join(f"{n} {what}" for what, n in self.counts.items())

    @property
    def status(self) -> str:
        """Return passed, failed or skipped."""
        if self.failure and not self.waived:
            return "failed"
        return "skipped" if self.skipped or self.waived else "passed"

    @property
    def outcome(self) -> str:
        """Return waived if a manifest forgives it, else the finding."""
        return "waived" if self.waived else self.finding

    @property
    def finding(self) -> str:
        """Return pass, fail, unsupported, blocked or notrun (not tried, though not through a fault of the port)."""
        if self.failure:
            return "fail"
        if self.skipped.startswith(BLOCKED):
            return "blocked"
        if self.skipped:
            return "notrun" if self.skipped.startswith(UNTRIED) else "unsupported"
        return "pass"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict on a port: its claim, or the reasons against one.

    Attributes:
        line: one sentence, "conformant: core, nm in exact64, fp32 (SPEC 1.0, kit 1.0-r1)", "not conformant: ..." or,
            if the run left something out and nothing failed, "no claim: ...".
        conformant: everything passed.
        met: there are no reasons; failures that an expected-failure manifest forgives are none.
        reasons: the reasons against a claim; empty if `met`.
        claimable: the profiles that could be claimed.
        badge: the text of a badge.
        passed, failed, skipped: numbers of checks; each complaint about a manifest counts as failed.
        status: the exit status.
    """

    line: str
    conformant: bool = False
    met: bool = False
    reasons: tuple[str, ...] = ()
    claimable: tuple[str, ...] = ()
    badge: str = "not conformant"
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    status: Status = Status.NOT_MET


@dataclass(slots=True)
class Run:
    """Everything that a report shows.

    Attributes:
        port: the port in its hello: name, version, language.
        profiles: the profiles asked for, or all that the port can claim.
        classes: numeric classes judged.
        results: one per case of these profiles.
        chosen: by name of a case or property that was to be asked, the number of answers that a pass needs.
        properties: one per property of these profiles.
        coverage: how each clause of SPEC.md is covered.
        clauses: the clauses themselves.
        seed: seed of the order of calls and of properties, hexadecimal.
        fresh: whether the seed was drawn for this run.
        filtered: the option that left cases out, empty if none did.
        quick: a text that says what a quick run leaves out; empty if the run is not quick.
        deterministic: whether the port promises the same bytes for the same call (PRT-013).
        zstd: whether the port reads compressed files; if not, its claim says so (PRT-010).
        waivers: number of results that an expected-failure manifest forgave.
        complaints: errors of that manifest.
        command: the options that name the port, as typed.
        started: UTC, ISO 8601.
    """

    port: dict[str, Any]
    profiles: tuple[str, ...]
    classes: tuple[str, ...]
    results: list[Result]
    coverage: list[Coverage]
    clauses: dict[str, Clause]
    chosen: Mapping[str, int] = field(default_factory=dict)
    properties: list[PropertyResult] = field(default_factory=list)
    seed: str = ""
    fresh: bool = True
    filtered: str = ""
    quick: str = ""
    deterministic: bool = True
    zstd: bool = True
    complaints: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    started: str = ""
    seconds: float = 0.0
    spec_sha256: str = field(default_factory=lambda: hashlib.sha256(SPEC.read_bytes()).hexdigest())
    kit_sha256: str = field(default_factory=lambda: kit_digest())

    @property
    def name(self) -> str:
        """The name of the port in the report."""
        version = self.port.get("version")
        return str(self.port.get("name", "port")) + (f" {version}" if version else "")

    @property
    def waivers(self) -> int:
        """Number of results that the expected-failure manifest forgave."""
        return sum(bool(r.waived) for r in self.results) + sum(bool(p.waived) for p in self.properties)

    @property
    def fault(self) -> str:
        """An error text if the results do not match `chosen`, which is a fault of the kit; else empty."""
        counts = Counter([r.name for r in self.results] + [p.name for p in self.properties])
        short = [r.name for r in self.results if r.outcome == "pass" and r.ran < self.chosen.get(r.name, 0)]
        for what, names in (
            ("without a result", [name for name in self.chosen if name not in counts]),
            ("with several results", [name for name, n in counts.items() if n > 1]),
            ("that nobody was to ask", [name for name in counts if name not in self.chosen]),
            ("passed without an answer in each form and class", short),
        ):
            if names:
                return f"{names[0]}, {len(names)} of {len(self.chosen)} checks {what}"
        return ""

    def outcomes(self) -> Counter[str]:
        """Return the number of cases by outcome."""
        return Counter(r.outcome for r in self.results)

    def of_profile(self, profile: str) -> list[Result]:
        """Return the results of a profile's cases."""
        return [r for r in self.results if profile in profiles_of_case(r.case)]

    def verdict(self) -> Verdict:
        """Return the verdict: the port may claim all profiles that were asked for, or none (PRT-010)."""
        statuses = Counter([r.status for r in self.results] + [p.status for p in self.properties])
        passed, failed, skipped = statuses["passed"], statuses["failed"] + len(self.complaints), statuses["skipped"]
        reasons = self._reasons(failed)
        conformant = not reasons and not self.waivers
        # a run that left something out claims nothing, but the port is at fault only if something failed
        partial = bool(self.filtered) or not self.fresh
        if self.fault or not (failed or self.waivers or self._asked_anything()):
            status, badge = Status.KIT, "not conformant"
        elif failed or (reasons and not partial):
            status, badge = Status.NOT_MET, "not conformant"
        else:
            status, badge = Status.MET, "not conformant" if self.waivers else "no claim"
        if conformant:
            badge = f"1.0 {'+'.join(map(self.claimed, self.profiles))} {'+'.join(self.classes)}"
            badge += "" if self.deterministic else ", not deterministic"
            badge += ", some by frozen cases only" if self.frozen_only() else ""
        line = f"{self._said(status, reasons)} (SPEC 1.0, kit {REVISION})"
        counts = passed, failed, skipped
        return Verdict(line, conformant, not reasons, tuple(reasons), self._claimable(), badge, *counts, status)

    def claimed(self, profile: str) -> str:
        """Return the name of a profile in a claim, marked if the port refused its compressed files (PRT-010)."""
        lacks = not self.zstd and any(needs_zstd(r.case) for r in self.of_profile(profile))
        return f"{profile} without zstd" if lacks else profile

    def _asked_anything(self) -> bool:
        judged = [r.status for r in self.results] + [p.status for p in self.properties if p.profile != PROTOCOL]
        return bool(set(judged) - {"skipped"})

    def _said(self, status: Status, reasons: Sequence[str]) -> str:
        """Return the line of the verdict."""
        # PRT-010: a check whose result was lost is not known to pass
        if self.fault:
            return f"no verdict, the kit is at fault: {self.fault}"
        if reasons:
            return f"{'no claim' if status == Status.MET else 'not conformant'}: {'; '.join(reasons[:3])}"
        # PRT-013.3: a claim says "not deterministic" unless the port promises the same bytes
        steady = "" if self.deterministic else ", not deterministic"
        frozen = self.frozen_only()
        # PRT-018.2: a claim lists the operations that were asked frozen cases only
        suffix = f", frozen cases only: {', '.join(frozen)}" if frozen else ""
        what = f"{', '.join(map(self.claimed, self.profiles))} in {', '.join(self.classes)}{steady}{suffix}"
        if self.waivers:
            return f"not conformant: {self.waivers} known failures were forgiven, nothing else failed: {what}"
        return f"conformant: {what}"

    def _reasons(self, failed: int) -> list[str]:
        """Return the reasons against a claim; empty if there are none."""
        if self.fault:
            return [self.fault]
        reasons = list(self.complaints)
        if self.filtered:
            reasons.append(f"cases were left out by {self.filtered}")
        if not self.fresh:
            reasons.append("the seed was given, not drawn")
        reasons += [reason for profile in self.profiles for reason in self._against(profile)]
        reasons += [f"{p.name} fails ({' '.join(p.clauses)})" for p in self._of_protocol() if p.outcome not in _FINE]
        if not self.profiles:
            reasons.append("nothing was asked for")
        if failed and not reasons:
            # any failure withholds the claim, even of a case outside its profiles (PRT-010)
            reasons.append(f"{failed} failed")
        return reasons

    def _of_protocol(self) -> list[PropertyResult]:
        return [p for p in self.properties if p.profile == PROTOCOL]

    def _claimable(self) -> tuple[str, ...]:
        """Return the profiles of which everything passed; none if something was left out, or the protocol is broken."""
        strange = any(r.status == "failed" and not self._belongs(r) for r in self.results)
        partial = self.filtered or self.complaints or not self.fresh
        if self.fault or partial or strange or any(p.status == "failed" for p in self._of_protocol()):
            return ()
        return tuple(p for p in self.profiles if self._holds(p))

    def classes_of(self, profile: str) -> tuple[str, ...]:
        """Return the numeric classes in which a profile was judged; only kernels have cases in 16 bits (PRT-011)."""
        arrays = [r.case for r in self.of_profile(profile) if OPS[r.case.op].kind != "scalar"]
        asked = {name for case in arrays for name in classes_of(case, self.classes)}
        return tuple(name for name in self.classes if name in asked or not arrays)

    def _belongs(self, result: Result) -> bool:
        return bool(profiles_of_case(result.case) & set(self.profiles))

    def _holds(self, profile: str) -> bool:
        results = self.of_profile(profile)
        own = [p for p in self.properties if p.profile == profile]
        return bool(results) and all(r.outcome == "pass" for r in results) and all(p.status == "passed" for p in own)

    def frozen_only(self) -> list[str]:
        """Return the operations without new inputs from a property (PRT-018), with the class if only some lack them."""
        new = {pair for one in self.properties if one.status == "passed" for pair in one.asked_new}
        cases = [result.case for result in self.results if profiles_of_case(result.case) & set(self.profiles)]
        ops_by_pair = {asked_in(case.op, name): case.op for case in cases for name in classes_of(case, self.classes)}
        answered = {op for pair, op in ops_by_pair.items() if pair in new}
        # an operation that no property asks at all is named once, without its classes
        return sorted({pair if op in answered else op for pair, op in ops_by_pair.items() if pair not in new})

    def _against(self, profile: str) -> list[str]:
        """Return the reasons against a claim of one profile; empty if there are none."""
        results = self.of_profile(profile)
        bad = Counter(r.outcome for r in results if r.outcome not in _FINE)
        own = Counter(p.outcome for p in self.properties if p.profile == profile and p.outcome not in _FINE)
        parts = [f"{n} {outcome}" for outcome, n in sorted(bad.items())]
        parts += [f"{n} {'property' if n == 1 else 'properties'} {outcome}" for outcome, n in sorted(own.items())]
        if not results:
            return [f"{profile}: no case ran"]
        return [f"{profile}: {', '.join(parts)} of {len(results)}"] if parts else []


def asked_in(op: str, class_name: str) -> str:
    """Return the name of an operation in a class; scalar operations have no class (PRT-015)."""
    return op if OPS[op].kind == "scalar" else f"{op} in {class_name}"


def cases_of(profiles: Sequence[str], cases: Sequence[Case]) -> list[Case]:
    """Return the cases that belong to at least one of the profiles."""
    return [case for case in cases if profiles_of_case(case) & set(profiles)]


def kit_digest() -> str:
    """Return one digest of all vectors and operations: two reports with equal digests judged by the same cases."""
    whole = hashlib.sha256()
    for path in sorted(VECTORS.glob("*.json")):
        whole.update(hashlib.sha256(path.read_bytes()).digest())
    whole.update(repr(sorted((name, dict(op.inputs), dict(op.outputs)) for name, op in OPS.items())).encode())
    return whole.hexdigest()
