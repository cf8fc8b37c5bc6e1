"""Write the vector files, or with ``--check`` compare them.

Files are equal byte for byte, apart from last bits of binary64 numbers, because exponentials differ between processors.
A file that is equal in this sense is not written again.
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
    """Return whether two values of vector files are equal, apart from last bits of binary64 numbers."""
    if frozen == made:
        return True
    if isinstance(frozen, list) and isinstance(made, list):
        return len(frozen) == len(made) and all(map(alike, frozen, made))
    if not isinstance(frozen, dict) or not isinstance(made, dict) or frozen.keys() != made.keys():
        return False
    if frozen.keys() == {"hex"} or frozen.get("dtype") == made.get("dtype") == "f64":
        a, b = np.asarray(decode(frozen)), np.asarray(decode(made))
        return a.shape == b.shape and np.allclose(a, b, rtol=0, atol=LAST_BITS * np.abs(a).max(initial=0))
    return all(alike(value, made[key]) for key, value in frozen.items())


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
