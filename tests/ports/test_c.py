"""The port in C: judged by the kit through the pipe, with sanitizers, and fed with lines that are none."""

import base64
import ctypes
import json
import random
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import zstandard

import seft_ports
from conformance.cases.case import load_all
from conformance.judge.harness import Variant, run
from conformance.judge.judgement import cases_of
from conformance.protocol.child import Child
from conformance.protocol.values import encode, line
from formats import FormatError
from formats.compress import unpack
from tests.conformance.zstd_frames import unconsumed

FOLDER = Path(seft_ports.__file__).parent / "c"
CC = shutil.which("cc")
STRICT = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-ffp-contract=off"]
SANITIZERS = ["-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
LIBRARY = [
    FOLDER / f"{name}.c"
    for name in ("topology", "kernels", "select", "schedule", "update", "optimizer", "delta", "zstd")
]
PORT = [FOLDER / f"{name}.c" for name in ("port", "port_numbers", "port_rules", "port_files", "call", "json")]
CLASSES = {"exact64": "float64", "fp32": "float32"}

pytestmark = pytest.mark.skipif(CC is None, reason="needs a C compiler named cc")


def built(folder, *flags):
    """The program, without a warning."""
    program = folder / "seft-port"
    subprocess.run([CC, *STRICT, *flags, "-o", program, *PORT, *LIBRARY, "-lm"], check=True)
    return str(program)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return built(tmp_path_factory.mktemp("port"), "-O2")


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    return built(tmp_path_factory.mktemp("checked"), *SANITIZERS)


CASES = cases_of(["core", "kernels", "ckpt-read"], load_all()) + [c for c in load_all() if c.op == "prune.pattern"]


def judged(program, cases, order=1):
    """What went wrong, how many passed, and how often the port was lost; each case in every class that has it."""
    with Child([program]) as child:
        hello = child.hello()
        offered = {name: frozenset(op for op, of in hello.ops.items() if name in of) for name in CLASSES}
        variants = [Variant(child, dtype, offers=offered[name], deterministic=True) for name, dtype in CLASSES.items()]
        results = run(cases, variants, order=random.Random(order))
        wrong = [f"{r.case.id}: {f.variant}: {f.detail}" for r in results for f in r.failures]
        return wrong, sum(r.outcome == "pass" for r in results), child.restarts


def test_every_offered_case_passes(program):
    assert len(CASES) > 500
    assert judged(program, CASES) == ([], len(CASES), 0)


def test_cases_with_sanitizers(checked):
    some = random.Random(2).sample(CASES, 120)
    assert judged(checked, some) == ([], len(some), 0)


def test_a_build_with_ties_the_other_way_is_refused(tmp_path):
    ranked = [case for case in CASES if case.op.startswith(("select", "update"))]
    wrong, passed, _ = judged(built(tmp_path, "-O0", "-DSEFT_BROKEN_TIES"), ranked)
    assert any(text.startswith("select.largest-three-levels") for text in wrong)
    assert any(text.startswith("select.smallest-three-levels") for text in wrong)
    # what rests on a selection is blocked
    assert passed + len(wrong) < len(ranked)


def answers(program, raw, status=0):
    """The answers to raw bytes; the program has ended by itself, without a word of a sanitizer."""
    done = subprocess.run([program], input=raw, capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (status, b"")
    return [json.loads(text) for text in done.stdout.split(b"\n")[:-1]]


PING = b'{"type":"ping","id":"still here"}\n'
PONG = {"type": "pong", "id": "still here"}
SCORES = encode(np.array([1.0, 3.0]))


def asked(op="select.largest", dtype="float64", **given):
    return line({"type": "call", "id": "7", "op": op, "dtype": dtype, "in": given})


def base(values=(), **keys):
    return {"dtype": "i64", "shape": [len(values)], "b64": base64.b64encode(np.array(values, "<i8")).decode()} | keys


GARBAGE = {
    "nothing": b"",
    "broken": b'{"type":"ping"',
    "no object": b"[1,2]",
    "a number": b"1e999999",
    "huge number": b"9" * 100000,
    "deep": b"[" * 100000,
    "deep and closed": b'{"a":' * 70 + b"1" + b"}" * 70,
    "many values": b"[" + b"0," * 1100000 + b"0]",
    "NUL": b'{"type":"ping"\0,"id":1}',
    "NUL in a string": b'{"type":"pi\0ng","id":1}',
    "bad UTF-8": b'{"type":"ping","id":"\xc3("}',
    "surrogate": b'{"type":"ping","id":"\\ud800"}',
    "control character": b'{"type":"pi\x01ng"}',
    "trailing": b'{"type":"ping"} {}',
    "unknown type": b'{"type":"sing","id":3}',
    "type no string": b'{"type":["ping"],"id":3}',
    "no inputs": b'{"type":"call","id":"x","op":"select.largest","dtype":"float64"}',
    "dtype": asked(dtype="int64", scores=SCORES)[:-1],
    "missing input": asked(ids=base([5, 7]), k=1)[:-1],
    "input no array": asked(scores=3, ids=[1], k="2")[:-1],
    "fraction": b'{"type":"call","id":"x","op":"adamw.clip","dtype":"float64","in":{"norm":1.5,"max_norm":1}}',
    "hexadecimal": asked("adamw.clip", norm={"f64": "0x1.zp1"}, max_norm={"f64": ""})[:-1],
    "long integer": asked(
        "delta.initial_random", **{"out": 1, "in": 1}, base=base(), n=0, seed=0, matrix={"int": "9" * 20}
    )[:-1],
    "base64": asked(scores=SCORES, ids=base([5, 7], b64="A==="), k=1)[:-1],
    "shape too large": asked(scores=SCORES, ids=base([5, 7], shape=[3]), k=1)[:-1],
    "shape overflows": asked(scores=SCORES, ids=base([5, 7], shape=[2**31 - 1] * 4), k=1)[:-1],
    "shape negative": asked(scores=SCORES, ids=base([5, 7], shape=[-2]), k=1)[:-1],
    "too many axes": asked(scores=SCORES, ids=base([5, 7], shape=[1] * 8 + [2]), k=1)[:-1],
    "sides": asked("topology.of", **{"out": 2**40, "in": 2**40}, positions=base([0]))[:-1],
    "memory": asked("topology.of", **{"out": 2**31 - 1, "in": 3}, positions=base([0]))[:-1],
    "events": asked("schedule.events", steps=2**53 - 1, evolve_every=1)[:-1],
    "no schedule": asked("schedule.events", steps=5, evolve_every=0)[:-1],
    "no steps": asked("count.drop", drop_fraction={"f64": "0x1p-2"}, step=0, steps=0, slots=10)[:-1],
    "count": asked("count.budget", density={"f64": "inf"}, **{"out": 3, "in": 3}, stored=3)[:-1],
}


@pytest.mark.parametrize("name", GARBAGE)
def test_a_line_of_garbage_gets_an_error_and_the_port_goes_on(checked, name):
    first, *rest = answers(checked, GARBAGE[name] + b"\n" + PING)
    assert (first["type"], rest) == ("error", [PONG])


def test_the_end_of_the_input_ends_the_program(checked):
    for raw in (b"", b"{", PING[:-1], b"\0" * 5000):
        assert answers(checked, raw) == []
    assert answers(checked, b'{"type":"stop"}\n' + PING) == []


def test_names_escaped_and_keys_in_any_order(checked):
    raw = b' { "id" : "\\u00fc\\ud83d\\ude00\\n" , "t\\u0079pe" :\t"pin\\u0067" } \r\n'
    assert answers(checked, raw) == [{"type": "pong", "id": "ü\U0001f600\n"}]


def test_what_is_not_offered_is_unsupported(checked):
    # PRT-007
    classes = asked(dtype="bfloat16") + asked(dtype="float16")
    told = answers(checked, asked("train.run") + asked("") + classes + b'{"type":"call","id":"9"}\n')
    assert [(one["type"], one["id"]) for one in told] == [("unsupported", "7")] * 4 + [("unsupported", "9")]


def test_requests_cut_and_changed_anywhere(checked):
    """Every answer to a mutant is a line of JSON, and the port lives; sanitizers watch."""
    chance = random.Random(5)
    cases = chance.sample([case for case in CASES if case.op != "file.read"], 60)
    files = chance.sample([case for case in CASES if case.op == "file.read"], 10)
    raw = b""
    for case in cases + files:
        given = {name: encode(value) for name, value in case.inputs.items() if value is not None}
        request = asked(case.op, **given)[:-1]
        for _ in range(6):
            at, to = sorted(chance.choices(range(len(request)), k=2))
            mutant = chance.choice(
                [
                    request[:at],
                    request[:at] + request[to:],
                    request[:at] + bytes([chance.choice(b'"{}[],:0-9AZaz\\')]) + request[at + 1 :],
                    request[:at] + request[min(at, to) : to] * 2 + request[to:],
                ]
            )
            raw += mutant.replace(b"\n", b" ").replace(b"stop", b"")[:200000] + b"\n"
    told = answers(checked, raw + PING)
    assert len(told) == raw.count(b"\n") + 1
    assert told[-1] == PONG
    assert {one["type"] for one in told} <= {"ok", "error", "rejected", "unsupported", "pong"}


def test_products_by_groups_are_those_of_plain_loops(program):
    """N:M and CSR against a dense product in integers; both layouts are met, and none shows."""
    chance = np.random.default_rng(7)
    with Child([program]) as child:
        for out, inner, kept in [(5, 8, 2), (3, 12, 1), (4, 8, 3), (1, 4, 0), (6, 7, 2), (2, 16, 2)]:
            mask = np.zeros((out, inner), bool)
            for group in np.arange(out * inner)[: out * inner // 4 * 4].reshape(-1, 4):
                mask.reshape(-1)[chance.choice(group, min(kept, 4), replace=False)] = True
            weight = np.where(mask, chance.integers(-9, 9, mask.shape), 0)
            x, dy = chance.integers(-9, 9, (3, inner)), chance.integers(-9, 9, (3, out))
            positions = np.flatnonzero(mask)
            for dtype in CLASSES.values():
                given = {"out": out, "in": inner, "positions": positions, "values": weight.reshape(-1)[positions]}
                given |= {"x": x, "dy": dy}
                floats = {k: given[k].astype(dtype) for k in ("values", "x", "dy")}
                got = child.call("kernel.sparse", given | floats, dtype)
                assert np.array_equal(got["y"], x @ weight.T)
                assert np.array_equal(got["dx"], dy @ weight)
                assert np.array_equal(got["dvalues"], (dy.T @ x).reshape(-1)[positions])


def test_frozen_cases_reach_the_product_by_groups():
    """TOP-005: at most two of every four columns, with tokens, with groups that store less and with none."""
    held = {}
    for case in load_all():
        if case.op == "kernel.sparse" and not case.refused and case.inputs["in"] % 4 == 0:
            given = case.inputs
            stored = np.bincount(given["positions"] // 4, minlength=given["out"] * given["in"] // 4)
            if stored.size and 0 < stored.max() <= 2 and len(given["x"]):
                held[case.id] = set(stored.tolist())
    assert len(held) >= 5
    assert {0, 1, 2} in held.values()


def test_sums_lose_nothing_however_long(program):
    """KRN-006: 1 + n · 2⁻⁵⁴ in float64, which a plain loop leaves at 1."""
    n = 4096
    values, x = np.full(n, 2.0**-54), np.ones((1, n))
    values[0] = 1.0
    given = {"out": 1, "in": n, "positions": np.arange(n), "values": values, "x": x, "dy": np.ones((1, 1))}
    with Child([program]) as child:
        assert child.call("kernel.sparse", given, "float64")["y"][0, 0] == 1 + 4095 * 2.0**-54


def frames():
    """Bytes of several kinds, of sizes at the edges of blocks, and frames of them as a writer makes them (FMT-142)."""
    chance = np.random.default_rng(3)
    for size in (1, 5, 255, 256, 5000, 65536, 131072, 131073, 300000):
        weights = chance.normal(size=size // 4 + 1).astype("<f4").view(np.uint8).reshape(-1, 4).T.tobytes()[:size]
        few = chance.choice(np.array([0, 1, 2, 255], np.uint8), size, p=[0.7, 0.2, 0.05, 0.05]).tobytes()
        words = (b"the quick brown fox " + chance.bytes(9)) * (size // 29 + 1)
        for data in (chance.bytes(size), bytes(size), weights, few, words[:size]):
            for level in (1, 9, 19) if size < 10000 else (9,):
                yield data, zstandard.ZstdCompressor(level=level, write_checksum=False).compress(data)


def test_frames_of_zstd_are_expanded_FMT_140_FMT_142(tmp_path):
    source, library = FOLDER / "zstd.c", tmp_path / "zstd.so"
    subprocess.run([CC, *STRICT, "-O2", "-shared", "-fPIC", "-o", library, source], check=True)
    expand = ctypes.CDLL(str(library)).seft_zstd
    expand.argtypes = (ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t)
    for data, frame in frames():
        out = ctypes.create_string_buffer(len(data) + 1)
        assert expand(frame, len(frame), out, len(data)) == 1
        assert out.raw[:-1] == data
        assert expand(frame, len(frame), out, len(data) + 1) == 0
        assert expand(frame + b"\0", len(frame) + 1, out, len(data)) == 0
        assert expand(frame[:-1], len(frame) - 1, out, len(data)) == 0
    checked = zstandard.ZstdCompressor(write_checksum=True).compress(bytes(100))
    assert expand(checked, len(checked), out, 100) == 0


def test_frames_that_leave_a_huffman_stream_unconsumed_are_refused_FMT_142(tmp_path):
    """RFC 8878 calls such a frame faulty; a library that does not notice gives the bytes that it holds all the same."""
    source, library = FOLDER / "zstd.c", tmp_path / "zstd.so"
    subprocess.run([CC, *STRICT, "-O2", "-shared", "-fPIC", "-o", library, source], check=True)
    expand = ctypes.CDLL(str(library)).seft_zstd
    expand.argtypes = (ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t)
    tried = 0
    for size in (100, 300, 5000, 60000):
        for data, frame in unconsumed(size):
            tried += 1
            out = ctypes.create_string_buffer(size)
            assert expand(frame, len(frame), out, size) == 0
            try:
                read = unpack(np.frombuffer(frame, np.uint8), size, 1, "w#values").tobytes()
            except FormatError as error:
                if error.clause != "FMT-142":
                    raise
                continue
            assert read == data
    assert tried == 3 * (1 + 4 + 4 + 4)


def test_compressed_files_changed_anywhere_are_refused(checked):
    """Sections are expanded before their digests are known to hold; sanitizers watch."""
    chance, raw = random.Random(6), b""
    for case in load_all():
        if case.id.startswith("file.read-zstd"):
            data = case.inputs["raw"].tobytes()
            for at in range(1024, len(data)):
                changed = data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]
                raw += asked("file.read", raw=encode(np.frombuffer(changed, np.uint8)))
    assert {one["type"] for one in answers(checked, raw)} == {"rejected"}


def test_the_makefile_builds_the_port_and_the_library(tmp_path):
    if shutil.which("make") is None:
        pytest.skip("needs make")
    copy = tmp_path / "c"
    shutil.copytree(FOLDER, copy, ignore=shutil.ignore_patterns("seft-port*", "*.a"))
    done = subprocess.run(
        ["make", "-C", copy, "CFLAGS=-O0", "seft-port", "library"], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert answers(str(copy / "seft-port"), PING) == [PONG]
    program = tmp_path / "example.c"
    program.write_text(EXAMPLE)
    command = [CC, *STRICT, f"-I{copy}", program, copy / "libseft.a", "-lm", "-o", tmp_path / "example"]
    subprocess.run(command, check=True)
    assert subprocess.run([tmp_path / "example"], capture_output=True, text=True, check=True).stdout == "7 9\n"


EXAMPLE = """#include "seft.h"
#include <stdio.h>
int main(void)
{
    double scores[] = {1, 3, 3, 2};
    int64_t ids[] = {5, 7, 9, 11}, chosen[2];
    seft_error error;
    if (!seft_largest(scores, ids, 4, 2, chosen, &error))
        return 1;
    printf("%d %d\\n", (int)chosen[0], (int)chosen[1]);
    return 0;
}
"""


def test_every_clause_of_core_stands_above_a_line():
    written = "".join(path.read_text(encoding="utf-8") for path in (*LIBRARY, *PORT, FOLDER / "sum.h"))
    shown = {clause for case in cases_of(["core"], load_all()) for clause in case.clauses}
    # how a comparison is made, and what a matrix is held in (KRN-011), are no matter of the port
    assert {clause for clause in shown if clause not in written} == {"NUM-001", "KRN-015", "KRN-016", "KRN-018"}
