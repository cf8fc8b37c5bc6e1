"""Null ports with right answers that break the protocol, each in one way."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from conformance.cases.ops import PROFILES
from conformance.protocol.serve import _answer
from conformance.protocol.values import line, parse
from conformance.wrong.nulls import files
from conformance.wrong.nulls.answers import Right, Table

__all__ = ["MODES", "serve_lines"]

Message = dict[str, Any]
Spoil = Callable[[Message, int], bytes]
"""(right answer, number of the call) -> bytes that are sent."""


def _is_call(answer: Message) -> bool:
    return answer.get("type") in ("ok", "rejected")


def _on_calls(change: Callable[[Message, int], bytes]) -> Spoil:
    return lambda answer, n: change(answer, n) if _is_call(answer) else line(answer)


def _with_out(value: Any) -> Spoil:
    """Return a spoiler that sets all outputs to the same JSON value."""

    def spoil(answer: Message, _: int) -> bytes:
        return line(answer | {"out": dict.fromkeys(answer.get("out", ()), value)})

    return _on_calls(spoil)


def _crash(answer: Message, n: int) -> bytes:
    if n % 3 == 0:
        os.abort()
    return line(answer)


def _half(answer: Message, _: int) -> bytes:
    os.write(1, line(answer)[:-2])
    os._exit(0)


def _exit(_: Message, __: int) -> bytes:
    os._exit(0)


def _late(answer: Message, _: int) -> bytes:
    time.sleep(3)
    return line(answer)


def _hang(_: Message, __: int) -> bytes:
    time.sleep(600)
    return b""


def _close(_: Message, __: int) -> bytes:
    os.close(1)
    time.sleep(600)
    return b""


def _old_hello(answer: Message, _: int) -> bytes:
    return line(answer | {"protocol": 0} if answer["type"] == "hello" else answer)


_JUNK = {"dtype": "f32", "shape": [1], "b64": "AAAA!AAA"}

ENDS = ("crashes-on-what-it-lacks", "status-at-stop", "deaf-to-stop", "status-at-the-end")
"""Null ports with right answers; one crashes at calls it does not offer (PRT-007), the others end wrongly (PRT-008)."""

MODES: dict[str, Spoil] = {
    "slow": lambda answer, _: line(answer),
    "prints": _on_calls(lambda answer, _: line(answer)),
    "wrong-id": _on_calls(lambda answer, _: line(answer | {"id": "0"})),
    "duplicate-reply": _on_calls(lambda answer, _: line(answer) * 2),
    "late-reply": _on_calls(_late),
    "two-on-a-line": _on_calls(lambda answer, _: line(answer)[:-1] + line(answer)),
    "log-on-stdout": _on_calls(lambda answer, _: b"working ...\n" + line(answer)),
    "empty-line": _on_calls(lambda answer, _: b"\n" + line(answer)),
    "crash": _on_calls(_crash),
    "half-a-line": _on_calls(_half),
    "hang": _on_calls(_hang),
    "exits-at-once": _exit,
    "exits-on-call": _on_calls(_exit),
    "closes-stdout": _on_calls(_close),
    "junk-base64": _with_out(_JUNK),
    "json-float": _with_out(0.5),
    "no-object": _on_calls(lambda _, __: b"[]\n"),
    "nan-literal": _on_calls(lambda _, __: b"NaN\n"),
    "unknown-type": _on_calls(lambda answer, _: line(answer | {"type": "okay"})),
    "invalid-utf8": _on_calls(lambda _, __: b'{"type": "ok", "\xff": 0}\n'),
    "unasked": lambda answer, _: line(answer),
    "old-hello": _old_hello,
    **dict.fromkeys(ENDS, lambda answer, _: line(answer)),
    **dict.fromkeys(files.MODES, lambda answer, _: line(answer)),
}
"""Null port -> function that spoils its lines; the protocol allows `slow` and `prints`."""


def _pieces(raw: bytes, mode: str) -> Iterator[bytes]:
    if mode != "slow":
        yield raw
        return
    for i in range(0, len(raw), 64):
        time.sleep(0.0005)
        yield raw[i : i + 64]


def serve_lines(mode: str) -> None:
    """Answer requests in the way of a mode, until `stop` or the end of the input."""
    spoil = MODES[mode]
    if mode == "exits-at-once":
        return
    port: Table = Right()
    port.name = mode
    if mode == "unasked":
        os.write(1, line({"type": "pong", "id": "0"}))
    if mode == "crashes-on-what-it-lacks":
        port.ops = PROFILES["kernels"]
    calls, folder = 0, Path()
    for raw in sys.stdin.buffer:
        message = parse(raw)
        if message.get("type") == "stop":
            if mode == "deaf-to-stop":
                continue
            sys.exit(3 if mode == "status-at-stop" else 0)
        if message.get("type") == "call" and message["op"] not in port.ops:
            os._exit(7)
        answer = _answer(port, message)
        if mode in files.MODES:
            folder = Path(message.get("folder", folder))
            answer = _by_file(mode, answer, folder)
        calls += _is_call(answer)
        for piece in _pieces(spoil(answer, calls), mode):
            rest = memoryview(piece)
            while rest:
                rest = rest[os.write(1, rest) :]
    sys.exit(4 if mode == "status-at-the-end" else 0)


def _by_file(mode: str, answer: Message, folder: Path) -> Message:
    if answer["type"] == "hello":
        return answer | {"flags": {"deterministic": True, "files": mode in files.OFFERED}}
    if answer["type"] != "ok":
        return answer
    return answer | {"out": files.in_files(answer["out"], folder, files.MODES[mode])}
