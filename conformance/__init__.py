"""The kit that judges a program by SPEC.md, clause by clause.

    SPEC.md -> cases/clauses      oracle -> gen -> vectors/ -> judge <-> protocol <-> your port

What lives where:

    cases/       what is asked: clauses, operations, profiles, frozen cases, how an output is compared
    vectors/     the frozen cases, a JSON file for each group that a generator writes
    oracle/      expected answers, worked out from SPEC.md alone; the second reader of files
    gen/         the generators of the vectors
    protocol/    the interface of a port, and messages to and from it
    engine/      our engine as a port
    judge/       asks a port, compares, and says what may be claimed
    properties/  the same questions on inputs that each run draws
    wrong/       programs that must fail: mutants, null ports, wrong versions
    fuzz/        readers of checkpoints against broken files
    report/      reports of a run: terminal, pages, JUnit
    expect/      failures that are expected of a port
    templates/   ports of two operations, to start from
    registry/    tables that tools write: clauses, signatures, margins
    command/     the command line
    threads.py   settings that libraries read when they are loaded

Neither the engine nor the file format lives here, and neither imports the kit. Start with README.md for a port, with
`judge/harness.py` for the kit.
"""

from conformance.protocol.port import Port, Refused, Unsupported

__all__ = ["Port", "Refused", "Unsupported"]
