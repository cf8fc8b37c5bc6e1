"""python -m conformance.fuzz --seconds 60 --seed 1: readers of checkpoints against inputs made to break them.

--mode structure gives single files to three readers, atheris the same under coverage, folders gives folders of parts
and chains of deltas to two readers, foreign gives files of other programs to the readers of their formats.

Exit status: 0 nothing was found, 1 readers disagree or one broke down (the input is saved), 2 wrong use.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from conformance.fuzz import corpus, foreign, judge_folders
from conformance.fuzz.content import Disagreement
from conformance.fuzz.judge import Judge
from conformance.fuzz.judge_folders import FolderJudge
from conformance.fuzz.loop import FolderInputs, Inputs, Tally, execute


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the selected modes until the time is over or a finding ends them; return the exit status."""
    options = _asked(arguments)
    corpus_raws = [i.raw for path in options.corpus for i in corpus.load(path)]
    seconds = options.seconds / (2 if options.mode == "both" else 1)
    if options.mode == "foreign":
        return of_foreign(options)
    if options.mode == "folders":
        return of_folders(options.seed, seconds, options.executions, options.save)
    if options.mode in ("structure", "both"):
        code = structured(Inputs(options.seed, corpus_raws), corpus_raws, seconds, options.save, options.collect)
        if code or options.mode == "structure":
            return code
    # a separate process, because atheris can only instrument modules of `formats` that are imported after it
    words = ["--seconds", str(seconds), "--seed", str(options.seed), "--save", str(options.save)]
    words += [word for path in options.corpus for word in ("--corpus", str(path))]
    return subprocess.run([sys.executable, "-m", "conformance.fuzz.guided", *words], check=False).returncode


def _asked(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m conformance.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--mode", choices=("structure", "atheris", "both", "folders", "foreign"), default="structure")
    parser.add_argument("--executions", type=int, help="stop after so many; of modes folders and foreign")
    parser.add_argument("--reader", choices=foreign.READERS, help="of mode foreign; all share the time by default")
    parser.add_argument("--forged", action="store_true", help="of mode foreign: the memory that forged inputs take")
    parser.add_argument("--corpus", type=Path, action="append", default=[], help="folder of files, or a .jsonl.gz")
    parser.add_argument(
        "--save", type=Path, default=Path("fuzz-findings"), help="folder for inputs that find something"
    )
    parser.add_argument("--collect", type=Path, help="write the smallest input of each verdict to a .jsonl.gz")
    return parser.parse_args(words)


def structured(inputs: Inputs, corpus_raws: list[bytes], seconds: float, save: Path, collect: Path | None) -> int:
    """Run the inputs of the corpus, then mutations until the time is over; return the exit status."""
    tally, keeper = Tally(), corpus.Keeper()
    number, end = 0, time.monotonic() + seconds
    with Judge() as judge:
        while number < len(corpus_raws) or time.monotonic() < end:
            raw = corpus_raws[number] if number < len(corpus_raws) else inputs[number - len(corpus_raws)]
            try:
                verdict = execute(judge, tally, raw)
            except Disagreement as finding:
                report(tally)
                return tell(finding, finding.culprit or raw, save)
            if collect is not None:
                keeper(raw, verdict)
            number += 1
        judge.flush()
    if collect is not None:
        corpus.save(collect, keeper.inputs())
    report(tally)
    return 0


def of_folders(seed: int, seconds: float, executions: int | None, save: Path) -> int:
    """Run scenarios of folders and chains until the time or the executions are over; return the exit status."""
    tally, inputs = Tally(), FolderInputs(seed)
    end = time.monotonic() + seconds
    with FolderJudge() as judge:
        while time.monotonic() < end and tally.executions != executions:
            scenario = inputs[tally.executions]
            try:
                execute(judge, tally, scenario)
            except Disagreement as finding:
                report(tally)
                print(f"FOUND: {finding}\nsaved as {judge_folders.save(scenario, save)}", flush=True)
                return 1
    report(tally)
    return 0


def of_foreign(options: argparse.Namespace) -> int:
    """Run one reader of foreign formats, or each for its share of the time; return the exit status."""
    if options.forged:
        from conformance.fuzz import forged  # imported here, because it needs the libraries of all readers

        return forged.table()
    names = [options.reader] if options.reader else foreign.READERS
    share = options.seconds / len(names)
    return max(foreign.run(name, options.seed, share, options.executions, options.save) for name in names)


def report(tally: Tally) -> None:
    """Print the lines of a tally."""
    print("\n".join(tally.lines()), flush=True)


def tell(disagreement: Disagreement, raw: bytes, save: Path) -> int:
    """Save and report an input on which the readers disagree; return the exit status 1."""
    save.mkdir(parents=True, exist_ok=True)
    path = save / f"{sha256(raw).hexdigest()[:16]}.safetensors"
    path.write_bytes(raw)
    print(f"FOUND: {disagreement}\nsaved as {path}", flush=True)
    return 1


if __name__ == "__main__":
    sys.exit(main())
