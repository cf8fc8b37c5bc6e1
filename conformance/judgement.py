"""A whole run of the kit as a value, and what may be claimed on the strength of it (PRT-010).

Run(...).verdict()      what a report's first line says
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conformance.cases import VECTORS, Case
from conformance.clauses import SPEC, Clause
from conformance.coverage import Coverage
from conformance.harness import Result
from conformance.ops import OPS
from conformance.profiles import profiles_of_case

__all__ = ["PropertyResult", "Run", "Verdict", "kit_digest"]

REVISION = "1.0-r1"
"""Version of SPEC.md, and of the cases for it: a revision adds or withdraws cases, it changes none."""


@dataclass(slots=True)
class PropertyResult:
    """The outcome of one property over its examples.

    Attributes:
        name: ``area.name``.
        clauses: ids of SPEC.md that it shows.
        profile: the profile it belongs to.
        examples: how many were tried.
        failure: what failed in the smallest example found, empty if none did.
        artifact: the folder that replays it, None if nothing failed.
        skipped: why it was not run, else empty.
        counts: what it counts in its examples, by name; among it what could not be judged exactly.
    """

    name: str
    clauses: tuple[str, ...]
    profile: str
    examples: int = 0
    failure: str = ""
    artifact: Path | None = None
    skipped: str = ""
    seconds: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def told(self) -> str:
        """The counts in words."""
        return ", ".join(f"{n} {what}" for what, n in self.counts.items())

    @property
    def status(self) -> str:
        """Return passed, failed or skipped."""
        if self.failure:
            return "failed"
        return "skipped" if self.skipped else "passed"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What may be said of the port.

    Attributes:
        line: one sentence, "conformant: core, nm in exact64, fp32 (SPEC 1.0, kit 1.0-r1)" or "not conformant: ...".
        conformant: everything passed.
        met: nothing is wrong but what an expected-failure manifest forgives.
        reasons: why not; empty if it is.
    """

    line: str
    conformant: bool = False
    met: bool = False
    reasons: tuple[str, ...] = ()


@dataclass(slots=True)
class Run:
    """Everything that a report tells.

    Attributes:
        port: what the port's hello says of it: name, version, language.
        profiles: those asked for, or all that the port can claim.
        classes: numeric classes judged.
        results: one a case of these profiles.
        properties: one a property of these profiles.
        coverage: how each clause of SPEC.md is shown.
        clauses: the clauses themselves.
        seed: of the order of calls and of properties, hexadecimal.
        fresh: the seed was drawn for this run.
        filtered: the option that left cases out, empty if none did.
        waivers: number of results that an expected-failure manifest forgave.
        complaints: what is wrong with that manifest.
        command: the options that name the port, as typed.
        started: UTC, ISO 8601.
    """

    port: dict[str, Any]
    profiles: tuple[str, ...]
    classes: tuple[str, ...]
    results: list[Result]
    coverage: list[Coverage]
    clauses: dict[str, Clause]
    properties: list[PropertyResult] = field(default_factory=list)
    seed: str = ""
    fresh: bool = True
    filtered: str = ""
    complaints: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    started: str = ""
    seconds: float = 0.0
    spec_sha256: str = field(default_factory=lambda: hashlib.sha256(SPEC.read_bytes()).hexdigest())
    kit_sha256: str = field(default_factory=lambda: kit_digest())

    @property
    def name(self) -> str:
        """What the report calls the port."""
        version = self.port.get("version")
        return str(self.port.get("name", "port")) + (f" {version}" if version else "")

    @property
    def waivers(self) -> int:
        """Number of results that the expected-failure manifest forgave."""
        return sum(bool(r.waived) for r in self.results)

    def outcomes(self) -> Counter[str]:
        """Return how many cases came out how."""
        return Counter(r.outcome for r in self.results)

    def counts(self) -> tuple[int, int, int]:
        """Return how many checks passed, failed and were skipped: cases and properties."""
        found = Counter([r.status for r in self.results] + [p.status for p in self.properties])
        return found["passed"], found["failed"] + len(self.complaints), found["skipped"]

    def of_profile(self, profile: str) -> list[Result]:
        """Return the results of a profile's cases."""
        return [r for r in self.results if profile in profiles_of_case(r.case)]

    def claimable(self) -> tuple[str, ...]:
        """Return the profiles of which everything passed."""
        return tuple(p for p in self.profiles if self._holds(p))

    def _holds(self, profile: str) -> bool:
        results = self.of_profile(profile)
        own = [p for p in self.properties if p.profile == profile]
        return bool(results) and all(r.outcome == "pass" for r in results) and all(p.status == "passed" for p in own)

    def verdict(self) -> Verdict:
        """Return what may be claimed: the profiles asked for, all or nothing (PRT-010)."""
        reasons = list(self.complaints)
        if self.filtered:
            reasons.append(f"cases were left out by {self.filtered}")
        if not self.fresh:
            reasons.append("the seed was given, not drawn")
        reasons += [reason for profile in self.profiles for reason in self._against(profile)]
        what = f"{', '.join(self.profiles)} in {', '.join(self.classes)} (SPEC 1.0, kit {REVISION})"
        if reasons or not self.profiles:
            shown = "; ".join(reasons[:3]) or "nothing was asked for"
            return Verdict(f"not conformant: {shown} (SPEC 1.0, kit {REVISION})", reasons=tuple(reasons))
        if self.waivers:
            return Verdict(f"conformant with {self.waivers} waivers: {what}", met=True)
        return Verdict(f"conformant: {what}", conformant=True, met=True)

    def _against(self, profile: str) -> list[str]:
        """Return why a profile cannot be claimed."""
        results = self.of_profile(profile)
        bad = Counter(r.outcome for r in results if r.outcome not in ("pass", "waived"))
        own = Counter(p.status for p in self.properties if p.profile == profile and p.status != "passed")
        told = [f"{n} {outcome}" for outcome, n in sorted(bad.items())]
        told += [f"{n} properties {status}" for status, n in sorted(own.items())]
        if not results:
            return [f"{profile}: no case ran"]
        return [f"{profile}: {', '.join(told)} of {len(results)}"] if told else []


def cases_of(profiles: Sequence[str], cases: Sequence[Case]) -> list[Case]:
    """Return the cases of profiles."""
    return [case for case in cases if profiles_of_case(case) & set(profiles)]


def kit_digest() -> str:
    """Return one digest of all vectors and operations: two reports with the same one judged by the same cases."""
    whole = hashlib.sha256()
    for path in sorted(VECTORS.glob("*.json")):
        whole.update(hashlib.sha256(path.read_bytes()).digest())
    whole.update(repr(sorted((name, op.inputs, sorted(op.outputs.items())) for name, op in OPS.items())).encode())
    return whole.hexdigest()
