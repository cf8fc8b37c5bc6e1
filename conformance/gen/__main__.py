"""Write the vector files, or with ``--check`` compare them byte for byte."""

import sys
from collections.abc import Iterator
from itertools import chain

from conformance.cases.case import VECTORS, dump
from conformance.gen import (
    adapters,
    around,
    bad_files,
    batches,
    choices,
    config_edges,
    convert,
    criteria,
    deltas,
    depth,
    events,
    file_edges,
    file_faults,
    folders,
    forks,
    generate,
    holes,
    holes_files,
    holes_rules,
    kernels,
    layers,
    models,
    optimizers,
    packing,
    presets,
    rule_edges,
    rule_events,
    rules,
    sparsegpt,
    states,
    steps,
    texts,
    train,
    update,
    windows,
)
from conformance.gen import files as containers

_FORMATS = (containers, bad_files, file_edges, file_faults, deltas)
_RULES = (kernels, rules, update, events, layers, models, texts, sparsegpt, adapters, train, steps, generate)
_RUNS = (states, batches, forks, around, folders, packing, convert)
_CHOICES = (criteria, choices, windows, optimizers, rule_events, presets, depth, rule_edges, config_edges)
_HOLES = (holes, holes_rules, holes_files)
MODULES = (*_FORMATS, *_RULES, *_RUNS, *_CHOICES, *_HOLES)


def files() -> Iterator[tuple[str, str]]:
    """Yield the name and text of every vector file."""
    for make in chain.from_iterable(module.AREAS for module in MODULES):
        area = make()
        yield f"{area.name}.json", dump(area.cases)


def main() -> int:
    """Write or check; 1 if a file differs."""
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
