"""Kills the trainer and the follower of `examples.rl_sync` at random moments, and judges what a reader gets.

    python -m tests.formats.steps_torture --kills 200 --seed 1 --json torture.json

The judge trains the same policy alone, without files, so it knows the bits of every version. It reads the followed file
with the stock library safetensors, all the time, and after each kill.
"""

import json
import multiprocessing
import os
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated

import numpy as np
import safetensors.torch
import torch
import typer

from examples import rl_sync
from examples.rl_sync import new_policy, reinforce
from formats.check import violations

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["examples.rl_sync", "formats.fast", __name__])
"""Starts a process as a copy of one that has imported torch already, which would take seconds each time."""
EVERY, KEEP = 10, 5
"""Versions between whole checkpoints, and deltas that stay: a follower that was killed finds some of them gone."""
PATIENCE = 120
"""Seconds in which a process must have come up, or caught up."""


def bits_of(state):
    """Return a digest of names, shapes and bits of a state_dict in bfloat16."""
    told = sha256()
    for name in sorted(state):
        told.update(f"{name} {tuple(state[name].shape)}".encode())
        told.update(state[name].detach().contiguous().view(torch.int16).numpy().tobytes())
    return told.hexdigest()


def read_version(path):
    """Return the version that a file says it is, and the digest of what it holds.

    The file is opened once: `safetensors.safe_open` opens it twice, and what it returns is mixed if the file is
    replaced in between.
    """
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    manifest = json.loads(header["__metadata__"]["seft.manifest"])
    tensors = safetensors.torch.load(data)
    state = {name.removesuffix("#values"): x for name, x in tensors.items() if name.endswith("#values")}
    return manifest["attributes"]["published"]["version"], bits_of(state)


class Judge:
    """Knows every version, and looks at the followed file."""

    def __init__(self, served: Path) -> None:
        self.served, self.policy = served, new_policy()
        self.digests = [bits_of(self.policy.state_dict())]
        self.last, self.looks, self.versions, self.jumps = -1, 0, set(), 0

    def digest(self, version):
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        while len(self.digests) <= version:
            reinforce(self.policy, len(self.digests))
            self.digests.append(bits_of(self.policy.state_dict()))
            assert self.digests[-1] != self.digests[-2], "a step changes nothing, so that versions are no steps"
        torch.set_num_threads(threads)
        return self.digests[version]

    def look(self):
        """Read the file; it must be one version, bit for bit, and none before the one that was read last."""
        if not self.served.exists():
            assert self.last == -1, "the file was there and is gone"
            return
        version, digest = read_version(self.served)
        if digest != (expected := self.digest(version)):
            held = self.digests.index(digest) if digest in self.digests else "no version"
            raise AssertionError(f"the file says version {version} of digest {expected} and holds {held}, {digest}")
        assert version >= self.last, f"version {version} came after version {self.last}"
        self.jumps += version - self.last > KEEP
        self.looks, self.last = self.looks + 1, version
        self.versions.add(version)


def run(log, command, arguments):
    """Run a command of examples.rl_sync in this process, with a file for what it prints; end with the judge."""
    threading.Thread(target=lambda: multiprocessing.parent_process().join() or os._exit(1), daemon=True).start()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(output, stream)
    getattr(rl_sync, command)(**arguments)


class Program:
    """A process that runs a command; it is killed and started again, and must never end by itself."""

    def __init__(self, log: Path, command: str, **arguments: object) -> None:
        self.log, self.command, self.arguments = log, command, arguments
        self.start()

    def start(self):
        self.log.write_text("")
        self.process = SERVER.Process(target=run, args=(self.log, self.command, self.arguments))
        self.process.start()

    def lines(self):
        """Return the whole lines that it has printed; fail if it has ended."""
        text = self.log.read_text()
        assert self.process.is_alive(), f"{self.command} ended by itself:\n{text}"
        return text.split("\n")[:-1]

    def works(self):
        """Tell whether it has published or served a version."""
        return len(self.lines()) > 1

    def kill(self):
        lines = self.lines()
        self.process.kill()
        self.process.join()
        return lines


@dataclass
class Counts:
    trainer: int = 0
    follower: int = 0
    while_starting: int = 0
    amid_a_write: int = 0
    published: int = 0
    looks: int = 0
    versions_read: int = 0
    jumps_over_removed_deltas: int = 0
    seconds: float = 0.0


def newest_in(steps):
    return max((int(path.stem) for path in steps.glob("[0-9]*.*")), default=-1)


def wait(judge, until, seconds=PATIENCE):
    end = time.monotonic() + seconds
    while not until() and time.monotonic() < end:
        judge.look()
        time.sleep(0.003)
    return until()


def torture(kills: int, seed: int, root: Path, pause: float = 0.0) -> Counts:
    """Kill one of the two at a random moment, as often as asked, and start it again; return what happened."""
    random, counts, start = np.random.default_rng(seed), Counts(), time.monotonic()
    steps, served = root / "steps", root / "current.sparse"
    judge, seen = Judge(served), set()
    options = {"run": "torture", "until": 10**9, "every": EVERY, "keep": KEEP, "pause": pause}
    programs = {
        "trainer": Program(root / "trainer.log", "publish", steps=steps, **options),
        "follower": Program(root / "follower.log", "follow", steps=steps, path=served, pause=0.002),
    }
    try:
        for _ in range(kills):
            name = ("trainer", "follower")[random.integers(2)]
            program = programs[name]
            if random.random() < 0.8:
                assert wait(judge, program.works), f"{name} did not come up"
            wait(judge, lambda: False, random.uniform(0, 0.6))
            lines = program.kill()
            judge.look()
            setattr(counts, name, getattr(counts, name) + 1)
            counts.while_starting += len(lines) < 2
            # the other one is writing into its own folder
            left = set((steps if name == "trainer" else root).glob(".*.tmp-*"))
            counts.amid_a_write += bool(left - seen)
            seen |= left
            if name == "trainer":
                # nothing that was published is lost, and the next trainer goes on after it
                newest = newest_in(steps)
                assert newest >= max([int(line.split()[-1]) for line in lines], default=-1), (newest, lines[-1])
            program.start()
            if name == "trainer" and newest >= 0 and random.random() < 0.5:
                assert wait(judge, program.lines), "the trainer did not come up"
                assert program.lines()[0] == f"trains from version {newest}"
        programs["trainer"].kill()
        newest = newest_in(steps)
        assert wait(judge, lambda: judge.last == newest), f"{judge.last} is served, {newest} is there"
        programs["follower"].kill()
    finally:
        for program in programs.values():
            program.process.kill()
            program.process.join()
    broken = [(path.name, str(error)) for path in steps.glob("[0-9]*.*") for _, error in violations(path)]
    assert broken == []
    counts.published, counts.looks, counts.versions_read = newest, judge.looks, len(judge.versions)
    counts.jumps_over_removed_deltas, counts.seconds = judge.jumps, round(time.monotonic() - start, 1)
    return counts


def main(
    kills: Annotated[int, typer.Option(min=1)] = 200,
    seed: Annotated[int, typer.Option()] = 1,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Kill, and judge; an AssertionError says what was lost or mixed."""
    from benchmarks.rounds import machine

    with tempfile.TemporaryDirectory() as folder:
        counts = torture(kills, seed, Path(folder))
    told = {"machine": machine(1), "kills": kills, "seed": seed, **asdict(counts)}
    print(json.dumps(told, indent=1))
    if json_file:
        json_file.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
