"""The request loop of a port that is written in Python:

    from conformance.protocol.serve import serve
    serve(MyPort())

`python -m conformance.protocol.serve pkg.mod:Port` does the same for a class that needs no arguments.
"""

import importlib
import io
import os
import sys
import traceback
from typing import Any, BinaryIO

from conformance.cases.ops import OPS
from conformance.protocol.files import read_any
from conformance.protocol.port import Port, Refused, Unsupported
from conformance.protocol.values import Malformed, decode, encode, line, parse

__all__ = ["load", "serve"]

PROTOCOL = 1


def serve(port: Port, requests: BinaryIO | None = None, answers: BinaryIO | None = None) -> None:
    """Answer requests until `stop` or the end of the input (PRT-001 to PRT-008).

    Standard output is moved aside first, so that texts that a library prints go to standard error.
    """
    if requests is None or answers is None:
        requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb", buffering=0)
        os.dup2(2, 1)
        sys.stdout = io.TextIOWrapper(os.fdopen(os.dup(2), "wb", buffering=0), write_through=True)
    for raw in requests:
        try:
            message = parse(raw)
            if message.get("type") == "stop":
                return
            answer = _answer(port, message)
        except Malformed as error:
            answer = {"type": "error", "id": None, "message": str(error)}
        whole = memoryview(line(answer))
        while whole:
            whole = whole[answers.write(whole) or 0 :]


def _answer(port: Port, message: dict[str, Any]) -> dict[str, Any]:
    kind, number = message.get("type"), message.get("id")
    if kind == "hello":
        return {"type": "hello", "protocol": PROTOCOL, **_hello(port)}
    if kind == "ping":
        return {"type": "pong", "id": number}
    if kind != "call":
        return {"type": "error", "id": number, "message": f"a message of type {kind!r} is not known"}
    try:
        op = message["op"]
        absent = dict.fromkeys(OPS[op].inputs if op in OPS else ())
        inputs = absent | {name: decode(value, read_any) for name, value in message["in"].items()}
        out = port.call(op, inputs, message["dtype"])
        return {"type": "ok", "id": number, "out": {name: encode(value) for name, value in out.items()}}
    except Refused as refusal:
        return {"type": "rejected", "id": number, "code": refusal.clause, "detail": str(refusal)}
    except Unsupported:
        return {"type": "unsupported", "id": number, "what": message.get("op")}
    except Exception as error:  # noqa: BLE001  any exception becomes an error answer, and the loop goes on
        trace = traceback.format_exc(limit=-4)
        return {"type": "error", "id": number, "message": f"{type(error).__name__}: {error}", "trace": trace}


def _hello(port: Port) -> dict[str, Any]:
    """Return the hello of a port: defaults, overridden by its `describe` if it has one."""
    defaults: dict[str, Any] = {"port": {"name": port.name, "language": "Python"}, "flags": {"deterministic": True}}
    describe = getattr(port, "describe", None)
    return defaults | (describe() if describe is not None else {})


def load(name: str) -> Port:
    """Return an instance of the class that ``pkg.mod:Class`` names.

    Raises:
        SystemExit: there is no such module or class.
    """
    module, _, attribute = name.partition(":")
    if not attribute:
        raise SystemExit(f"serve: {name!r} is not of the form pkg.mod:Class")
    try:
        factory = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise SystemExit(f"serve: there is no {name}: {error}") from error
    port: Port = factory()
    return port


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m conformance.protocol.serve pkg.mod:Class")
    sys.path.insert(0, "")
    serve(load(sys.argv[1]))
