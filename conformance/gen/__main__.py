"""Write the vector files, or with ``--check`` compare them byte for byte."""

import sys
from collections.abc import Iterator
from importlib import import_module
from itertools import chain
from pkgutil import iter_modules

from conformance import gen
from conformance.cases.case import VECTORS, dump


def files() -> Iterator[tuple[str, str]]:
    """Yield name and text of every vector file: one for each function in AREAS of a module of this folder."""
    modules = (import_module(f"conformance.gen.{module.name}") for module in iter_modules(gen.__path__))
    for make in chain.from_iterable(getattr(module, "AREAS", ()) for module in modules):
        area = make()
        yield f"{area.name}.json", dump(area.cases)


def main() -> int:
    """Write the vector files, or check them; return 1 if a file differs."""
    checks = "--check" in sys.argv[1:]
    wrong = []
    for name, text in files():
        path = VECTORS / name
        if not checks:
            path.write_text(text, encoding="utf-8", newline="\n")
        elif not path.is_file() or path.read_bytes() != text.encode():
            wrong.append(name)
    for name in wrong:
        print(f"vectors/{name} is not what the generator writes; run python -m conformance.gen and look")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
