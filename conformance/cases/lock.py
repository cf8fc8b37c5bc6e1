"""The lock of the cases: id -> digest of what a case asks and expects, by release, so that no published case changes.

    python -m conformance.cases.lock          add the cases that are new, under "next"
    python -m conformance.cases.lock 0.3.0    at a release: move them under its number

Ports are judged by these cases, so a case that should have asked something else gets a new id. A case that should not
be asked at all is taken out of the vectors, and `registry/withdrawn.json` says why.
"""

import hashlib
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from conformance.cases.case import Case, load_all

__all__ = ["LOCK", "NEXT", "WITHDRAWN", "digest", "faults", "locked", "seal"]

_REGISTRY = Path(__file__).resolve().parents[1] / "registry"
LOCK = _REGISTRY / "cases.json"
WITHDRAWN = _REGISTRY / "withdrawn.json"
NEXT = "next"
"""The release of cases that no release has yet."""
Releases = dict[str, dict[str, str]]


def digest(case: Case) -> str:
    """Return the SHA-256 of the operation, clauses, inputs, answer and bounds of a case, whatever file stores it.

    The purpose may be worded anew, because no port is judged by it.
    """
    hashed = hashlib.sha256()
    bounds = {name: [bound.gauge, bound.terms] for name, bound in case.bounds.items()}
    for part in (case.op, case.clauses, case.inputs, case.expected, case.refused, bounds, case.zeros, case.dtypes):
        _add(hashed, part)
    return hashed.hexdigest()


def _add(hashed: Any, value: Any) -> None:
    """Add a value to a hash, with its kind and its size first, so that no two values give the same bytes."""
    if isinstance(value, np.ndarray):
        little = np.ascontiguousarray(value.astype(value.dtype.newbyteorder("<")))
        hashed.update(f"array {little.dtype.str} {little.shape};".encode() + little.tobytes())
    elif isinstance(value, dict):
        hashed.update(f"dict {len(value)};".encode())
        for name in sorted(value):
            _add(hashed, name)
            _add(hashed, value[name])
    elif isinstance(value, list | tuple):
        hashed.update(f"list {len(value)};".encode())
        for entry in value:
            _add(hashed, entry)
    else:
        text = value.hex() if isinstance(value, float) else str(value)
        hashed.update(f"{type(value).__name__} {len(text)};{text}".encode())


def locked() -> Releases:
    """Return the ids and digests of each release, after comparing them with the seal of the release.

    Raises:
        ValueError: a release differs from its seal.
    """
    content = json.loads(LOCK.read_text(encoding="utf-8"))
    releases: Releases = content["releases"]
    for release, sealed in content["seals"].items():
        if seal(releases[release]) != sealed:
            msg = f"{LOCK.name}: the cases of release {release} are not those that were published"
            raise ValueError(msg)
    return releases


def seal(cases: Mapping[str, str]) -> str:
    """Return the SHA-256 of the ids and digests of a release."""
    return hashlib.sha256("".join(f"{name} {value}\n" for name, value in sorted(cases.items())).encode()).hexdigest()


def faults(cases: Iterable[Case], releases: Releases, withdrawn: Mapping[str, str]) -> list[str]:
    """Return a line for each case that changed, went without a reason, came back, or is not in the lock."""
    known = {name: value for of_release in releases.values() for name, value in of_release.items()}
    present = {case.id: digest(case) for case in cases}
    return [
        *(f"{name} changed; give it a new id" for name in known if present.get(name, known[name]) != known[name]),
        *(
            f"{name} is gone, and {WITHDRAWN.name} gives no reason"
            for name in known
            if name not in {*present, *withdrawn}
        ),
        *(f"{name} was withdrawn; give it a new id" for name in withdrawn if name in present),
        *(f"{name} is new; run python -m conformance.cases.lock" for name in present if name not in known),
    ]


def main() -> int:
    """Add new cases to the lock, and return 1 if a locked case changed."""
    releases, present = locked(), {case.id: digest(case) for case in load_all()}
    known = {name for of_release in releases.values() for name in of_release}
    releases.setdefault(NEXT, {}).update({name: value for name, value in present.items() if name not in known})
    wrong = faults(load_all(), releases, json.loads(WITHDRAWN.read_text(encoding="utf-8")))
    for line in wrong:
        print(line, file=sys.stderr)
    if wrong:
        return 1
    if sys.argv[1:]:
        releases[sys.argv[1]] = releases.pop(NEXT)
    seals = {release: seal(of_release) for release, of_release in releases.items() if release != NEXT}
    LOCK.write_text(json.dumps({"seals": seals, "releases": releases}, indent=0) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
