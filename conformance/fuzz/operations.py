"""Operations that take files: inputs of stored cases, mutated, for the engine and for `conformance.answers`.

A finding is what the judge of ports calls a failure.
If both refuse an input, they may name different clauses (FMT-097), which the fuzzer only counts.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from contextlib import AbstractContextManager
from copy import deepcopy
from functools import cache
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from conformance.answers import Answer, answer
from conformance.answers.files_content import content, raw_array, tensors_of
from conformance.cases.case import Case, dump, load_all
from conformance.cases.inputs import same_values
from conformance.engine.port import reference_numpy
from conformance.fuzz import base_models, foreign_spoil, frames, mutate
from conformance.fuzz.content import Disagreement
from conformance.fuzz.foreign_files import taken_apart
from conformance.fuzz.judge import Verdict, traced
from conformance.judge import harness
from conformance.oracle.files import BITS
from conformance.oracle.files_deltas import cells, number
from conformance.protocol.port import Refused

FILES = ("files", "deltas", "raw", "base")
"""Inputs that are files: by name, or one."""

FIXED, TIMES = 12 << 20, 256
"""Bytes that an operation may take: a fixed part, as row pointers may take 8 MiB, and a multiple of the input."""


class Inputs:
    """The inputs of an operation by seed and number: each depends on these only."""

    def __init__(self, op: str, seed: int) -> None:
        self._op, self._seed = op, seed
        self._kinds = [*Counter(case.inputs.get("kind") for case in stored(op))]

    def __getitem__(self, number: int) -> dict[str, Any]:
        """Return the inputs of a stored case: mutated, or one in twenty as they are."""
        chance = Random(f"{self._op}:{self._seed}:{number}")  # noqa: S311 - tests need reproducible numbers
        # every kind gets as many executions, because some have few cases
        kind = chance.choice(self._kinds)
        own = [case for case in stored(self._op) if case.inputs.get("kind") == kind]
        accepted = [case for case in own if not case.refused]
        case, second = chance.choice(accepted if chance.random() < 0.85 else own), chance.choice(own)
        inputs = deepcopy(case.inputs)
        return inputs if chance.random() < 0.05 else mutated(chance, self._op, inputs, second.inputs)


@cache
def stored(op: str) -> tuple[Case, ...]:
    """Return the stored cases of an operation."""
    return tuple(case for case in load_all() if case.op == op)


def mutated(chance: Random, op: str, inputs: dict[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Return inputs with one of their values changed, mostly files; some changes take parts from second inputs."""
    options = [name for name in inputs if name not in FILES]
    if options and chance.random() < (0.08 if "tensors" in inputs else 0.2):
        name = chance.choice(options)
        if name == "tensors" and chance.random() < 0.8:
            _disturb(chance, inputs["tensors"])
            return inputs
        if not same_values(inputs[name], second.get(name, inputs[name])):
            return inputs | {name: deepcopy(second[name])}
    name = chance.choice([name for name in FILES if name in inputs])
    if not isinstance(inputs[name], dict):
        inputs[name] = raw_array(foreign_spoil.whole(chance, inputs[name].tobytes(), second[name].tobytes()))
        return inputs
    folder, other = (taken_apart({n: raw.tobytes() for n, raw in one[name].items()}) for one in (inputs, second))
    foreign_spoil.spoil(chance, folder, foreign_spoil.exchanging(words(op), other))
    if inputs.get("kind") == "weight-sync" and chance.random() < 0.7:
        frames.seal(folder, inputs["tensors"])
    tree = foreign_spoil.pack(folder)
    inputs[name] = {n if raw is not None else f"{n}/": raw_array(raw or b"") for n, raw in tree.items()}
    return inputs


def _disturb(chance: Random, base: dict[str, Any]) -> None:
    """Change the base: remove a tensor, or give one other bits, another dtype or another shape."""
    name = chance.choice(sorted(base))
    t, kind = base[name], chance.randrange(5)
    shape = tuple(t["shape"].tolist())
    dtype = chance.choice(sorted(BITS)) if kind == 1 else t["dtype"]
    if kind == 2:
        shape = chance.choice((*base_models.SHAPES, *base_models.ODD_SHAPES, (int(np.prod(shape)),)))
    if kind == 0:
        base.pop(name)
    elif BITS[dtype] >= 8:
        base |= content({name: base_models.random_tensor(chance, dtype, shape).tensor()})


@cache
def words(op: str) -> dict[str, list[Any]]:
    """Return the keys of JSON texts and metadata in stored cases of an operation, each with its values."""
    values: dict[str, dict[str, Any]] = defaultdict(dict)
    for case in stored(op):
        folder = taken_apart({name: raw.tobytes() for name, raw in case.inputs.get("files", {}).items()})
        texts = (*folder.texts.values(), *(stock.metadata for stock in folder.files.values()))
        for place in (value for text in texts for _, value in mutate.walk(text) if isinstance(value, dict)):
            for key, value in place.items():
                values[key][json.dumps(value)] = value
    return {key: [*own.values()] for key, own in sorted(values.items())}


class OperationJudge(AbstractContextManager["OperationJudge"]):
    """Compares the engine with the answer as the judge of ports does. Its context needs no end."""

    name = "engine"

    def __init__(self, op: str) -> None:
        self._op, self._engine, self._deep = op, reference_numpy(), False
        self._clause, self._peak = "", 0
        self.stricter: list[str] = []
        """for each input that both refuse for different clauses, these"""

    def __exit__(self, *error: object) -> None:
        return None

    def call(self, op: str, inputs: dict[str, Any], dtype: str) -> dict[str, Any]:
        """Return the answer of the engine, as a port; note the clause of a refusal, and the memory."""
        self._clause = ""
        try:
            # the judge ignores warnings of NumPy, here each is a finding
            with np.errstate(divide="warn", over="warn", invalid="warn", under="ignore"):
                answered, self._peak = traced(lambda: self._engine.call(op, inputs, dtype), deep=self._deep)
        except Refused as refusal:
            self._clause = refusal.clause
            raise
        return answered

    def __call__(self, inputs: dict[str, Any], *, deep: bool = False) -> Verdict:
        """Return the verdict on inputs: the clauses of the engine and of the answer, empty if they accept.

        Raises:
            Disagreement: for a finding.
        """
        meant, self._deep = answer(self._op, inputs), deep
        if unspecified(inputs, meant):
            return Verdict(("unspecified",))
        (result,) = harness.run([case_of(self._op, inputs, meant)], [harness.Variant(self, "float64")])
        if self._clause and meant.refused:
            if self._clause in meant.refused:
                return Verdict((self._clause,))
            self.stricter.append(f"{self._clause} for {' '.join(meant.refused)}")
            return Verdict((self._clause, *meant.refused))
        if result.failures:
            raise Disagreement("; ".join(f"{one.output} {one.detail}" for one in result.failures)[:2000])
        allowed = FIXED + TIMES * sum(map(size_of, inputs.values()))
        if self._peak > allowed:
            raise Disagreement(f"the engine takes {self._peak} bytes, {allowed} would be enough")
        return Verdict((self._clause,))

    def keep(self, inputs: dict[str, Any], parent: Path) -> Path:
        """Write inputs as a vector file without an answer to a folder; return its path."""
        text = dump([case_of(self._op, inputs, Answer())])
        parent.mkdir(parents=True, exist_ok=True)
        path = parent / f"{sha256(text.encode()).hexdigest()[:16]}.json"
        path.write_text(text, encoding="utf-8")
        return path


def unspecified(inputs: Mapping[str, Any], meant: Answer) -> bool:
    """Return whether SPEC.md leaves the answer open: bits of a NaN that was cast (FMT-129.4), a config that is no JSON.

    The output `config` of `convert.codes` is the value of a JSON text, but a converter copies what is none.
    """
    if inputs.get("cast") is not None and not meant.refused:
        tensors = tensors_of(meant.outputs.get("files", meant.outputs)["tensors"]).values()
        cast = [t for t in tensors if t.dtype == inputs["cast"]]
        return any(number(t.dtype, raw) != number(t.dtype, raw) for t in cast for raw in cells(t).values())
    try:
        json.loads(inputs["files"]["config.json"].tobytes())
    except ValueError:
        return inputs.get("expand_quantised") == 0
    except KeyError:
        return False
    return False


def size_of(value: Any) -> int:
    """Return the number of bytes of the arrays in inputs."""
    if isinstance(value, dict):
        # an integer in a dict is the size of a file of zeros
        return sum(value if isinstance(value, int) else size_of(value) for value in value.values())
    return value.nbytes if isinstance(value, np.ndarray) else 0


def case_of(op: str, inputs: dict[str, Any], meant: Answer) -> Case:
    """Return inputs and their answer as a case."""
    return Case("fuzz.input", op, (), "", inputs, dict(meant.outputs), tuple(meant.refused), dict(meant.bounds))
