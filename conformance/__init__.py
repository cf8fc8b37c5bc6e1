"""The conformance kit: it tests a program against SPEC.md, clause by clause.

    SPEC.md -> cases/clauses      oracle -> answers -> vectors/ -> judge <-> protocol <-> your port

What lives where:

    cases/       clauses, operations, profiles, frozen cases, and the comparison of outputs
    vectors/     the frozen cases, one JSON file for each group; they are their own source
    oracle/      expected answers, computed from SPEC.md alone; the second reader of files
    answers/     the expected answer of each operation, from its inputs as the protocol has them
    protocol/    the interface of a port, and the messages to and from it
    engine/      our engine as a port
    judge/       runs cases on a port, compares its answers, and decides what it may claim
    properties/  the same operations on inputs that each run draws at random
    wrong/       programs that must fail: mutants, null ports, wrong versions
    fuzz/        readers of checkpoints against broken files
    report/      reports of a run: terminal, pages, JUnit
    expect/      manifests of the failures that are expected of a port
    templates/   ports of two operations, to start from
    registry/    tables that tools write: clauses, signatures, margins
    schemas/     JSON schemas of the archive of cases and of reports, and the first page of that archive
    command/     the command line
    threads.py   settings that libraries read when they are loaded

Neither the engine nor the file format lives here, and neither imports the kit. Start with README.md for a port, with
`judge/harness.py` for the kit.
"""

from conformance.protocol.port import Port, Refused, Unsupported

__all__ = ["Port", "Refused", "Unsupported"]


def __getattr__(name: str) -> str:
    """Return `__version__`, which is that of `formats`. It is read late, because `formats` loads NumPy."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from formats import __version__

    return __version__
