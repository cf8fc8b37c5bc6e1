"""Fuzzing guided by the lines of the first reader that an input reaches: atheris, in a process of its own.

Atheris instruments modules when they are imported, so no module of `formats` may be imported before it. It cannot
instrument compiled loops. Its own mutations of bytes fail at the first digest, so those of `mutate.py` replace them.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conformance.fuzz.judge import Judge

_COMPILED = ["formats.fast"]
_LONGEST = 1 << 16
"""The most bytes of an input: enough for headers of dozens of tensors, while longer sections reach no new code."""

_SEEDS = 100


def main(words: Sequence[str] | None = None) -> None:
    """Run until the time is over or something is found, then end the process, because libFuzzer does not return."""
    parser = argparse.ArgumentParser(prog="python -m conformance.fuzz.guided", description=__doc__)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--corpus", type=Path, action="append", default=[])
    parser.add_argument("--save", type=Path, required=True)
    options = parser.parse_args(words)
    try:
        import atheris
    except ImportError:
        sys.exit("needs atheris, which is there for Linux on x86-64: pip install 'atheris>=2.3'")
    with atheris.instrument_imports(include=["formats"], exclude=_COMPILED):
        import conformance.fuzz.first_reader  # noqa: F401 - imports formats, to be instrumented
    _fuzz(atheris, options)


def _fuzz(atheris: ModuleType, options: argparse.Namespace) -> None:
    from conformance.fuzz import corpus
    from conformance.fuzz.__main__ import report, tell
    from conformance.fuzz.content import Disagreement
    from conformance.fuzz.judge import Judge
    from conformance.fuzz.loop import Inputs, Tally, execute

    corpus_raws = [i.raw for path in options.corpus for i in corpus.load(path)]
    inputs, judge, tally = Inputs(options.seed, corpus_raws), Judge(), Tally()
    folder = judge.path / "seeds"
    folder.mkdir()
    end = time.monotonic() + options.seconds

    def one(raw: bytes) -> None:
        try:
            execute(judge, tally, raw)
        except Disagreement as finding:
            report(tally)
            _end(judge, tell(finding, finding.culprit or raw, options.save))
        if time.monotonic() > end:
            report(tally)
            _end(judge, 0)

    def mutated(raw: bytes, most: int, seed: int) -> bytes:
        return inputs.mutated(raw, seed)[:most]

    for number, raw in enumerate([*corpus_raws, *(inputs[n] for n in range(_SEEDS))]):
        (folder / str(number)).write_bytes(raw)
    flags = [f"-seed={options.seed}", f"-max_len={_LONGEST}", "-len_control=0", "-rss_limit_mb=0", "-verbosity=0"]
    flags += [f"-artifact_prefix={options.save}/", "-timeout=60", "-mutate_depth=1"]
    options.save.mkdir(parents=True, exist_ok=True)
    atheris.Setup(["fuzz", *flags, str(folder)], one, custom_mutator=mutated)
    atheris.Fuzz()


def _end(judge: "Judge", code: int) -> None:
    """End the process with os._exit, because libFuzzer would report a normal exit as a crash."""
    judge.__exit__(None, None, None)
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
