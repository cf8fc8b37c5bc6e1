"""Adds a case to a vector file, with the answer that `answer` gives; from then on the file is its source.

    freeze("pools", "one-more", "select.pools", "SEL-007", "ties to a higher id", {"scores": reals([1, 1]), ...})

Call it from a script that is thrown away, then run `python -m conformance.cases.lock`.
"""

from typing import Any

from conformance.answers import answer
from conformance.cases.case import VECTORS, Case, dump, load

__all__ = ["freeze"]


def freeze(
    file: str,
    name: str,
    op: str,
    clauses: str,
    purpose: str,
    inputs: dict[str, Any],
    *,
    dtypes: tuple[str, ...] = ("float64", "float32"),
    zeros: tuple[str, ...] = (),
) -> Case:
    """Append a case to ``vectors/FILE.json`` and return it; its id is ``FILE.NAME``.

    Args:
        file: name of a vector file, a new one too.
        name: what no other case of the file is called.
        op: the operation.
        clauses: the clauses that the case tests, separated by spaces.
        purpose: the mistake that it catches.
        inputs: the inputs by name, float arrays in binary64.
        dtypes: the dtypes in which the case is asked.
        zeros: the outputs whose zeros have to be zeros exactly.

    Raises:
        ValueError: there is such a case; published cases never change.
    """
    path = VECTORS / f"{file}.json"
    cases = load(path) if path.is_file() else []
    if any(case.id == f"{file}.{name}" for case in cases):
        msg = f"{file}.{name} exists, and a case never changes; give the new one another name"
        raise ValueError(msg)
    # an answer that depends on how operations are rounded is asked in that dtype alone
    made = answer(op, inputs, dtypes[0] if len(dtypes) == 1 else "float64")
    case = Case(
        f"{file}.{name}",
        op,
        tuple(clauses.split()),
        purpose,
        inputs,
        dict(made.outputs),
        tuple(made.refused),
        dict(made.bounds),
        dtypes=dtypes,
        zeros=zeros,
    )
    path.write_text(dump([*cases, case]), encoding="utf-8", newline="\n")
    return case
