"""Try the properties on programs that are right, with fresh seeds: whatever fails is a fault of the kit.

python -m conformance.properties --runs 100 --variants numpy,numba,strict,permuted,split,fma
"""

import argparse
import json
import os
import platform
import secrets
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from conformance import threads as threads  # this must precede every import that loads NumPy
from conformance.cases.ops import PROFILES
from conformance.judge.harness import Variant
from conformance.judge.judgement import PropertyResult
from conformance.properties import run_properties

RIGHT = {
    "numpy": "port:reference_numpy",
    "numba": "port:compiled",
    "strict": "port:strict",
    "permuted": "sums:permuted",
    "split": "sums:split",
    "fma": "sums:fused",
}
"""Right programs: name -> module and function of conformance.engine that makes the port."""


def variants_of(name: str) -> list[Variant]:
    """Return a variant of a program for every class that its description offers."""
    from conformance.cases.profiles import CLASSES
    from conformance.protocol.serve import load

    port = load(f"conformance.engine.{RIGHT[name]}")
    ops = port.describe()["ops"]  # type: ignore[attr-defined]
    classes = sorted({c for offered in ops.values() for c in offered})
    return [
        Variant(port, CLASSES[c], offers=frozenset(op for op, offered in ops.items() if c in offered)) for c in classes
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the properties and print a line for each program; return 1 if one failed or showed nothing."""
    parser = argparse.ArgumentParser(
        prog="python -m conformance.properties", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--runs", type=int, default=1, help="how many runs, each with a seed of its own")
    parser.add_argument("--variants", default=",".join(RIGHT), help="programs, separated by commas")
    parser.add_argument("--examples", type=int, default=100, help="examples of a property in each class")
    parser.add_argument("--seconds", type=float, default=120.0, help="time for a property")
    parser.add_argument("--seed", help="hexadecimal; for one run that is to be repeated")
    parser.add_argument("--only", help="a glob of names of properties")
    parser.add_argument("--artifacts", type=Path, default=Path("artifacts"), help="where failing examples go")
    parser.add_argument("--json", type=Path, help="where the counts go, for the page of false failures")
    options = parser.parse_args(arguments)
    names = options.variants.split(",")
    unknown = [name for name in names if name not in RIGHT]
    if unknown:
        parser.error(f"there is no program {unknown[0]}; there are {', '.join(RIGHT)}")
    wrong = 0
    programs: list[dict[str, object]] = []
    for name in names:
        variants, bad = variants_of(name), 0
        begun, examples, tried = time.monotonic(), 0, 0
        counts = Counter[str]()
        for run in range(options.runs):
            seed = options.seed or secrets.token_hex(16)
            folder = options.artifacts / f"{name}-{seed}"
            results = run_properties(
                variants, list(PROFILES), seed, examples=options.examples, only=options.only, artifacts=folder,
                seconds=options.seconds,
            )  # fmt: skip
            shown = [r for r in results if r.failure or r.skipped.startswith("the kit's fault")]
            for r in shown:
                print(_line(name, run, seed, r), flush=True)
            bad += len(shown)
            counts.update({f"{r.name}: {what}": n for r in results for what, n in r.counts.items()})
            tried += sum(r.status == "passed" for r in results)
            examples += sum(r.examples for r in results)
        seconds = time.monotonic() - begun
        print(f"{name}: {options.runs} runs, {tried} properties passed, {examples} examples, {bad} false failures, "
              f"{seconds:.0f} s", flush=True)  # fmt: skip
        for what, n in counts.items():
            print(f"    {what}: {n}", flush=True)
        wrong += bad
        programs.append(
            {"program": name, "runs": options.runs, "properties": tried, "examples": examples, "false failures": bad,
             "seconds": round(seconds), "counts": counts}
        )  # fmt: skip
    if options.json:
        about = {"date": time.strftime("%Y-%m-%d"), "cores": os.cpu_count(), "python": platform.python_version()}
        options.json.write_text(
            json.dumps(about | {"examples": options.examples, "programs": programs}, indent=1) + "\n"
        )
    return 1 if wrong else 0


def _line(name: str, run: int, seed: str, r: PropertyResult) -> str:
    return f"{name} run {run} seed {seed}: {r.name}: {r.failure or r.skipped}" + (
        f" ({r.artifact})" if r.artifact else ""
    )


if __name__ == "__main__":
    sys.exit(main())
