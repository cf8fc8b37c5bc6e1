"""Write the vector files, or with ``--check`` compare them.

Files are equal byte for byte, apart from last bits of expected numbers, because exponentials differ between processors.
A file that is equal in this sense is not written again; remove it to have it written.
"""

import json
import sys
from collections.abc import Iterator
from importlib import import_module
from itertools import chain
from pkgutil import iter_modules
from typing import Any

import numpy as np

from conformance import gen
from conformance.cases.case import VECTORS, decode, dump

LAST_BITS = 1e-12
"""How far numbers of two processors may lie apart, as a share of the largest number of an array."""


def files() -> Iterator[tuple[str, str]]:
    """Yield name and text of every vector file: one for each function in AREAS of a module of this folder."""
    modules = (import_module(f"conformance.gen.{module.name}") for module in iter_modules(gen.__path__))
    for make in chain.from_iterable(getattr(module, "AREAS", ()) for module in modules):
        area = make()
        yield f"{area.name}.json", dump(area.cases)


def alike(frozen: Any, made: Any) -> bool:
    """Return whether two vector files, as `json` reads them, are equal apart from last bits of expected numbers."""
    return len(frozen) == len(made) and all(map(_same_case, frozen, made))


def _same_case(frozen: dict[str, Any], made: dict[str, Any]) -> bool:
    others = [json.dumps({key: value for key, value in case.items() if key != "expected"}) for case in (frozen, made)]
    return others[0] == others[1] and _close(frozen.get("expected"), made.get("expected"))


def _close(frozen: Any, made: Any) -> bool:
    if isinstance(frozen, list) and isinstance(made, list):
        return len(frozen) == len(made) and all(map(_close, frozen, made))
    if not isinstance(frozen, dict) or not isinstance(made, dict) or frozen.keys() != made.keys():
        return type(frozen) is type(made) and bool(frozen == made)
    if frozen.keys() != {"hex"} and not {frozen.get("dtype"), made.get("dtype")} <= {"f32", "f64"}:
        return all(_close(value, made[key]) for key, value in frozen.items())
    a, b = np.asarray(decode(frozen)), np.asarray(decode(made))
    # an infinity or NaN must be there in both
    finite = np.isfinite(a)
    if a.shape != b.shape or not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return False
    return bool((np.abs(a[finite] - b[finite]) <= LAST_BITS * np.abs(a[finite]).max(initial=0)).all())


def main() -> int:
    """Write the vector files that differ, or name them; return 1 if a file differs and was not written."""
    if sys.argv[1:] not in ([], ["--check"]):
        print("python -m conformance.gen takes no option but --check")
        return 2
    wrong = []
    for name, text in files():
        path = VECTORS / name
        if path.is_file():
            frozen = path.read_bytes()
            if frozen == text.encode() or alike(json.loads(frozen), json.loads(text)):
                continue
        if sys.argv[1:]:
            wrong.append(name)
        else:
            path.write_text(text, encoding="utf-8", newline="\n")
    for name in wrong:
        print(f"vectors/{name} is not what the generator writes; run python -m conformance.gen and look")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
