"""A port as a child process: it is started, asked, waited for, and started again when it is lost.

    with Child(["./my_port"]) as child:
        child.hello()
        out = child.call("select.largest", {"scores": ..., "ids": ..., "k": 2}, "float32")

What a port does wrong comes out as an exception whose class is the status of the case.
"""

import os
import resource
import secrets
import selectors
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from conformance.port import Refused, Unsupported
from conformance.protocol.ends import Ends
from conformance.protocol.values import Malformed, decode, encode, line, parse

__all__ = ["Breach", "Child", "Crash", "Hello", "Late", "PortError", "PortFault", "StartError"]

PROTOCOL = 1
_LONGEST_LINE = 1 << 28
_FILE_OPS_MEMORY = 2 << 30
"""Bytes of address space beyond what the port has that an operation on files may take."""


class PortFault(Exception):
    """What a port did instead of answering; `status` is what the case is called."""

    status = "error"
    lost = True
    """whether the process must be started again"""


class PortError(PortFault):
    """The port caught an error of its own and says so (PRT-005)."""

    status, lost = "error", False


class Crash(PortFault):
    """The process ended."""

    status = "crash"


class Late(PortFault):
    """No whole answer came in time (PRT-009)."""

    status = "timeout"


class Breach(PortFault):
    """What came was no answer of the protocol (PRT-001 to PRT-006)."""

    status = "protocol"


class StartError(Exception):
    """The program cannot be started, or does not introduce itself."""


class Hello:
    """What a port says of itself (PRT-004).

    Attributes:
        port: name, version, language and whatever else it tells.
        ops: operation to the numeric classes in which it is offered; None where the port does not list them.
        flags: deterministic, files, zstd.
    """

    def __init__(self, message: dict[str, Any]) -> None:
        told = message.get("port")
        if message.get("type") != "hello" or message.get("protocol") != PROTOCOL or not isinstance(told, dict):
            raise Breach(f"its hello is no hello of protocol {PROTOCOL}: {str(message)[:200]}")
        ops = message.get("ops")
        if not isinstance(ops, dict) or not all(isinstance(v, list) for v in ops.values()):
            raise Breach("its hello has no ops, an object of operation to list of numeric classes")
        self.port: dict[str, Any] = told
        self.ops: dict[str, list[str]] = ops
        flags = message.get("flags") or {}
        if not isinstance(flags, dict):
            raise Breach("its hello has flags that are no object")
        self.flags: dict[str, Any] = flags

    @property
    def name(self) -> str:
        """What reports call the port."""
        version = self.port.get("version")
        return str(self.port.get("name", "port")) + (f" {version}" if version else "")

    @property
    def deterministic(self) -> bool:
        """It says that the same call gets the same bytes (PRT-013)."""
        return self.flags.get("deterministic") is True

    @property
    def zstd(self) -> bool:
        """It reads compressed files, which is so unless it says that it does not (PRT-006)."""
        return self.flags.get("zstd") is not False


class Child:
    """A child process that speaks the protocol.

    Attributes:
        restarts: how often it had to be started again.
        on_line: is called with ``->`` or ``<-`` and every line.
    """

    def __init__(self, command: Sequence[str], timeout: float = 20.0, start_timeout: float = 120.0) -> None:
        self.command, self.timeout, self.start_timeout = list(command), timeout, start_timeout
        self.restarts = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._scratch = Path(tempfile.mkdtemp(prefix="seft-port-"))
        self._buffer = b""
        self._stderr = Ends()
        self._hello: Hello | None = None
        self._last_raw = b""
        self.on_line: Callable[[str, bytes], object] = lambda arrow, raw: None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def name(self) -> str:
        """What reports call the port."""
        return self._hello.name if self._hello is not None else self.command[0]

    @property
    def stderr(self) -> str:
        """What the port wrote to standard error, without the middle where it is long."""
        return self._stderr.text

    def said(self) -> str:
        """Return the first and the last lines of it, each after a line feed; the first often hold the cause."""
        return "".join(f"\n  stderr: {text}" for text in self._stderr.lines())

    def hello(self) -> Hello:
        """Start the port if it does not run, and return what it says of itself.

        Raises:
            StartError: it cannot be started, or the handshake fails.
        """
        if self._hello is not None and self._process is not None:
            return self._hello
        try:
            self._start()
            answer = self._ask({"type": "hello", "protocol": PROTOCOL, "spec": "1.0"}, self.start_timeout)
            self._hello = Hello(answer)
        except PortFault as fault:
            self._kill()
            raise StartError(f"{self.command[0]}: {fault}{self.said()}") from fault
        return self._hello

    def call(self, op: str, inputs: dict[str, Any], dtype: str) -> dict[str, Any]:
        """Return the outputs of an operation; see `conformance.port.Port`.

        Raises:
            Refused: the port refuses the inputs by a clause.
            Unsupported: the port does not offer the operation.
            PortFault: anything else that the port does.
        """
        hello = self.hello()
        number = secrets.token_hex(8)
        scratch = self._scratch if hello.flags.get("files") else None
        given = {name: encode(value, scratch) for name, value in inputs.items() if value is not None}
        message = {"type": "call", "id": number, "op": op, "dtype": dtype, "in": given}
        try:
            with self._limited(op):
                answer = self._ask(message, self.timeout)
            return self._outputs(answer, number)
        except PortFault as fault:
            if fault.lost:
                self._kill()
                self.restarts += 1
                raise type(fault)(f"{fault}{self.said()}") from fault
            raise
        finally:
            for path in self._scratch.iterdir():
                path.unlink()

    def raw_answer(self) -> bytes:
        """Return the bytes of the last answer to a call without its id, to compare two."""
        return self._last_raw

    def ping(self) -> None:
        """Ask whether the port still answers (PRT-008).

        Raises:
            PortFault: it does not.
        """
        number = secrets.token_hex(8)
        answer = self._ask({"type": "ping", "id": number}, self.timeout)
        if answer != {"type": "pong", "id": number}:
            raise Breach(f"to a ping it answered {str(answer)[:200]}")

    def close(self) -> None:
        """Stop the port: it is asked first (PRT-008)."""
        process = self._process
        if process is not None and process.poll() is None:
            try:
                assert process.stdin is not None
                process.stdin.write(line({"type": "stop"}))
                process.stdin.close()
                process.wait(2)
            except (OSError, subprocess.TimeoutExpired):
                pass
        self._kill()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _outputs(self, answer: dict[str, Any], number: str) -> dict[str, Any]:
        kind = answer.get("type")
        if answer.get("id") != number:
            raise Breach(f"its answer has the id {answer.get('id')!r}, the request had {number!r}")
        if kind == "ok" and isinstance(answer.get("out"), dict):
            try:
                return {name: decode(value) for name, value in answer["out"].items()}
            except Malformed as error:
                raise Breach(str(error)) from error
        if kind == "rejected" and isinstance(answer.get("code"), str):
            raise Refused(answer["code"], str(answer.get("detail", "")))
        if kind == "unsupported":
            raise Unsupported(str(answer.get("what", "")))
        if kind == "error":
            raise PortError(f"it answers with an error: {answer.get('message', '')}\n{answer.get('trace', '')}".strip())
        raise Breach(f"its answer is of no known type: {str(answer)[:200]}")

    def _start(self) -> None:
        self._buffer, self._stderr = b"", Ends()
        try:
            self._process = subprocess.Popen(
                self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
            )
        except OSError as error:
            raise Crash(f"it cannot be started: {error}") from error
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert stream is not None
            os.set_blocking(stream.fileno(), False)

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()

    def _ask(self, message: dict[str, Any], timeout: float) -> dict[str, Any]:
        """Return the answer to a message: one line, and nothing before it or behind it (PRT-001)."""
        process = self._process
        assert process is not None
        if self._buffer or self._drain(process):
            raise Breach(f"it wrote without being asked: {self._buffer[:80]!r}")
        request = line(message)
        self.on_line("->", request)
        raw = self._exchange(process, request, time.monotonic() + timeout)
        self.on_line("<-", raw)
        if message["type"] == "call":
            self._last_raw = raw.replace(message["id"].encode(), b"")
        try:
            return parse(raw)
        except Malformed as error:
            raise Breach(str(error)) from error

    def _drain(self, process: "subprocess.Popen[bytes]") -> bool:
        """Take what lies in the pipe already; tell whether there was any."""
        assert process.stdout is not None
        try:
            self._buffer += os.read(process.stdout.fileno(), 1 << 16)
        except BlockingIOError:
            return False
        return bool(self._buffer)

    def _exchange(self, process: "subprocess.Popen[bytes]", request: bytes, deadline: float) -> bytes:
        """Write a request and read up to the end of a line, whichever can go on."""
        stdin, stdout, stderr = process.stdin, process.stdout, process.stderr
        assert stdin is not None
        assert stdout is not None
        assert stderr is not None
        rest = memoryview(request)
        got = bytearray()
        with selectors.DefaultSelector() as ready:
            ready.register(stdin, selectors.EVENT_WRITE)
            ready.register(stdout, selectors.EVENT_READ)
            ready.register(stderr, selectors.EVENT_READ)
            while b"\n" not in got[-(1 << 16) :]:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise Late("no answer came in time")
                for key, _ in ready.select(left):
                    if key.fileobj is stdin:
                        rest = self._write(stdin.fileno(), rest)
                        if not rest:
                            ready.unregister(stdin)
                    elif key.fileobj is stderr:
                        self._take_stderr(stderr.fileno(), ready, stderr)
                    else:
                        more = os.read(stdout.fileno(), 1 << 16)
                        if not more:
                            raise Crash(self._how_it_ended(process, bool(got)))
                        got += more
                        if len(got) > _LONGEST_LINE:
                            raise Breach(f"its answer is longer than {_LONGEST_LINE} bytes")
        end = got.index(b"\n")
        self._buffer = bytes(got[end + 1 :])
        return bytes(got[:end])

    @staticmethod
    def _write(fileno: int, rest: memoryview) -> memoryview:
        try:
            return rest[os.write(fileno, rest[: 1 << 16]) :]
        except BlockingIOError:
            return rest
        except BrokenPipeError:
            # its end is seen on standard output
            return rest[:0]

    def _take_stderr(self, fileno: int, ready: selectors.BaseSelector, stream: Any) -> None:
        said = os.read(fileno, 1 << 16)
        if not said:
            ready.unregister(stream)
        self._stderr.add(said)

    def _how_it_ended(self, process: "subprocess.Popen[bytes]", started: bool) -> str:  # noqa: FBT001  private
        try:
            status = process.wait(2)
        except subprocess.TimeoutExpired:
            return "it closed its standard output"
        assert process.stderr is not None
        try:
            while said := os.read(process.stderr.fileno(), 1 << 16):
                self._stderr.add(said)
        except BlockingIOError:
            pass
        told = f"signal {-status}" if status < 0 else f"exit status {status}"
        return f"it ended with {told}{' in the middle of an answer' if started else ''}"

    def _limited(self, op: str) -> "_AddressSpace":
        assert self._process is not None
        return _AddressSpace(self._process.pid if op.startswith(("file.", "delta.apply")) else None)


class _AddressSpace:
    """While an operation on files runs, a forged size cannot be refused by taking all memory there is."""

    def __init__(self, pid: int | None) -> None:
        self.pid, self.before = pid, (-1, -1)

    def __enter__(self) -> None:
        if self.pid is None or not hasattr(resource, "prlimit"):
            return
        try:
            pages = int(Path(f"/proc/{self.pid}/statm").read_text(encoding="ascii").split()[0])
            self.before = resource.prlimit(self.pid, resource.RLIMIT_AS)
            limit = pages * resource.getpagesize() + _FILE_OPS_MEMORY
            resource.prlimit(self.pid, resource.RLIMIT_AS, (limit, self.before[1]))
        except (OSError, ValueError, IndexError):
            self.pid = None

    def __exit__(self, *_: object) -> None:
        if self.pid is None or not hasattr(resource, "prlimit"):
            return
        try:
            resource.prlimit(self.pid, resource.RLIMIT_AS, self.before)
        except (OSError, ValueError):
            self.pid = None
