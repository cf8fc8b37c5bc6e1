"""A port as a child process: `Child` starts it, asks it with a timeout, and restarts it after a crash.

    with Child(["./my_port"]) as child:
        child.hello()
        out = child.call("select.largest", {"scores": ..., "ids": ..., "k": 2}, "float32")

`Child` raises a `PortFault` for whatever a port does wrong; its `status` becomes the status of the case.
"""

import os
import secrets
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from conformance.protocol.ends import Ends
from conformance.protocol.faults import Breach, Crash, Late, PortError, PortFault, StartError
from conformance.protocol.files import Folder, Read
from conformance.protocol.hello import PROTOCOL, Hello
from conformance.protocol.memory import AddressSpace
from conformance.protocol.port import Refused, Unsupported
from conformance.protocol.values import Malformed, decode, encode, line, parse

__all__ = ["Breach", "Child", "Crash", "Hello", "Late", "PortError", "PortFault", "StartError"]

_LONGEST_LINE = 1 << 28
_LAST_READS = 64
"""Reads of standard error after the end of a port; a process that it has started may go on writing."""


class Child:
    """A child process that speaks the protocol.

    Attributes:
        restarts: how many calls lost the process, so that it must be started again.
        folder: the folder for large arrays (PRT-014).
        on_line: is called with ``->`` or ``<-`` and every line.
    """

    def __init__(self, command: Sequence[str], timeout: float = 20.0, start_timeout: float = 120.0) -> None:
        if os.name != "posix":
            raise StartError("programs are judged over pipes of POSIX; use Linux, macOS or WSL")
        self.command, self.timeout, self.start_timeout = list(command), timeout, start_timeout
        self.restarts = 0
        self._process: subprocess.Popen[bytes] | None = None
        self.folder = Folder()
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
        """The name of the port in reports."""
        return self._hello.name if self._hello is not None else self.command[0]

    @property
    def stderr(self) -> str:
        """The standard error of the port; of a long one only the beginning and the end."""
        return self._stderr.text

    def said(self) -> str:
        """Return the first and last lines of `stderr`, each after a line feed. The first often name the cause."""
        return "".join(f"\n  stderr: {text}" for text in self._stderr.lines())

    def hello(self) -> Hello:
        """Start the port if it does not run, and return its hello.

        Raises:
            StartError: it cannot be started, or the handshake fails.
        """
        if self._hello is not None and self._process is not None:
            return self._hello
        try:
            self._start()
            greeting = {"type": "hello", "protocol": PROTOCOL, "spec": "1.0", "folder": str(self.folder.path)}
            answer = self._ask(greeting, time.monotonic() + self.start_timeout)
            self._hello = Hello(answer)
        except PortFault as fault:
            self._kill()
            self.restarts += self._hello is not None  # so that a port that does not come up again is not waited for
            raise StartError(f"{self.command[0]}: {fault}{self.said()}") from fault
        return self._hello

    def call(self, op: str, inputs: dict[str, Any], dtype: str) -> dict[str, Any]:
        """Return the outputs of an operation; see `conformance.protocol.port.Port`.

        Raises:
            Refused: the port refuses the inputs by a clause.
            Unsupported: the port does not offer the operation.
            PortFault: the port answers in any other way, or not at all.
        """
        hello = self.hello()
        number = secrets.token_hex(8)
        write = self.folder.write if hello.files else None
        encoded = {name: encode(value, write) for name, value in inputs.items() if value is not None}
        message = {"type": "call", "id": number, "op": op, "dtype": dtype, "in": encoded}
        deadline = time.monotonic() + self.timeout
        try:
            with self._limited(op):
                answer = self._ask(message, deadline)
            return self._outputs(answer, number, self.folder.reader(deadline) if hello.files else None)
        except PortFault as fault:
            if fault.lost:
                self._kill()
                self.restarts += 1
                raise type(fault)(f"{fault}{self.said()}") from fault
            raise
        finally:
            self.folder.clear()

    def raw_answer(self) -> bytes:
        """Return the bytes of the last answer to a call without its id, so that two answers can be compared."""
        return self._last_raw

    def ping(self) -> None:
        """Ask whether the port still answers (PRT-008).

        Raises:
            PortFault: it does not.
        """
        number = secrets.token_hex(8)
        try:
            answer = self._ask({"type": "ping", "id": number}, time.monotonic() + self.timeout)
        except PortFault:
            # killed, because what it writes late would be taken for an answer to the next call
            self._kill()
            self.restarts += 1
            raise
        if answer != {"type": "pong", "id": number}:
            raise Breach(f"to a ping it answered {str(answer)[:200]}")

    def end(self, *, by_stop: bool) -> str:
        """End the port, and return an error text if it does not end as PRT-008 says, else an empty text.

        A port that was lost is started again first.

        by_stop  whether to send `stop`; otherwise the input of the port is closed
        """
        after = "at stop" if by_stop else "at the end of its input"
        try:
            self.hello()
            status, more = self._ended(by_stop=by_stop)
        except (PortFault, StartError) as fault:
            return f"{after}: {fault}"
        finally:
            self._kill()
        if status is None:
            return f"{after} it does not end within {self.timeout:g} seconds; it is to end with status 0"
        if status:
            how = f"signal {-status}" if status < 0 else f"exit status {status}"
            return f"{after} it ends with {how}, not with status 0{self.said()}"
        return f"{after} it writes {more[:80]!r}, which nobody asked for" if more else ""

    def _ended(self, *, by_stop: bool) -> tuple[int | None, bytes]:
        """Return the exit status (None if the port does not end in time) and the standard output until then."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        deadline = time.monotonic() + self.timeout
        if by_stop:
            # the input stays open, because closing it would also end a port that ignores `stop`
            request = line({"type": "stop"})
            self.on_line("->", request)
            # writing fails if the port has ended already; its exit status is checked all the same
            with suppress(OSError):
                process.stdin.write(request)
        else:
            process.stdin.close()
        more, tick = bytearray(self._buffer), 0.001
        while process.poll() is None and time.monotonic() < deadline:
            more += self._leftover(process)
            time.sleep(tick)
            tick = min(2 * tick, 0.05)
        more += self._leftover(process)
        return process.poll(), bytes(more)

    def _leftover(self, process: "subprocess.Popen[bytes]") -> bytes:
        """Return the unread standard output, and add the unread standard error to `stderr`."""
        assert process.stdout is not None
        assert process.stderr is not None
        self._stderr.add(_available(process.stderr.fileno()))
        return _available(process.stdout.fileno())

    def close(self) -> None:
        """Stop the port, by `stop` and after 2 seconds by killing it, and delete its folder."""
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
        self.folder.remove()

    def _outputs(self, answer: dict[str, Any], number: str, read: Read | None) -> dict[str, Any]:
        kind = answer.get("type")
        if answer.get("id") != number:
            raise Breach(f"its answer has the id {answer.get('id')!r}, the request had {number!r}")
        if kind == "ok" and isinstance(answer.get("out"), dict):
            out, name = {}, ""
            try:
                for name, value in answer["out"].items():
                    out[name] = decode(value, read)
            except RecursionError as error:
                raise Breach(f"{name}: it is nested too deep") from error
            except Malformed as error:
                kind_of_fault = Late if isinstance(error.__cause__, TimeoutError) else Breach
                raise kind_of_fault(f"{name}: {error}") from error
            if b'"path"' in self._last_raw:
                # equal answers may name different files, so arrays are compared instead of paths (PRT-013)
                self._last_raw = line({name: encode(value) for name, value in out.items()})
            return out
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
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,
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
            # the whole session, because the command may be a wrapper that has started the port
            with suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()

    def _ask(self, message: dict[str, Any], deadline: float) -> dict[str, Any]:
        """Return the answer to a message, which is one line; output without a request is a breach (PRT-001)."""
        process = self._process
        assert process is not None
        if self._buffer or self._drain(process):
            raise Breach(f"it wrote without being asked: {self._buffer[:80]!r}")
        request = line(message)
        self.on_line("->", request)
        raw = self._exchange(process, request, deadline)
        self.on_line("<-", raw)
        if message["type"] == "call":
            self._last_raw = raw.replace(message["id"].encode(), b"")
        try:
            return parse(raw)
        except Malformed as error:
            raise Breach(str(error)) from error

    def _drain(self, process: "subprocess.Popen[bytes]") -> bool:
        """Read the waiting output into `_buffer`, and return whether there was any."""
        assert process.stdout is not None
        try:
            self._buffer += os.read(process.stdout.fileno(), 1 << 16)
        except BlockingIOError:
            return False
        return bool(self._buffer)

    def _exchange(self, process: "subprocess.Popen[bytes]", request: bytes, deadline: float) -> bytes:
        """Write a request and read a line at the same time, because a full pipe in one direction blocks the other."""
        stdin, stdout, stderr = process.stdin, process.stdout, process.stderr
        assert stdin is not None
        assert stdout is not None
        assert stderr is not None
        rest = memoryview(request)
        answer = bytearray()
        with selectors.DefaultSelector() as ready:
            ready.register(stdin, selectors.EVENT_WRITE)
            ready.register(stdout, selectors.EVENT_READ)
            ready.register(stderr, selectors.EVENT_READ)
            while b"\n" not in answer[-(1 << 16) :]:
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise Late("no answer came in time; is standard output flushed after each line?")
                for key, _ in ready.select(remaining):
                    if key.fileobj is stdin:
                        rest = self._write(stdin.fileno(), rest)
                        if not rest:
                            ready.unregister(stdin)
                    elif key.fileobj is stderr:
                        self._take_stderr(stderr.fileno(), ready, stderr)
                    else:
                        more = os.read(stdout.fileno(), 1 << 16)
                        if not more:
                            raise Crash(self._how_it_ended(process, bool(answer)))
                        answer += more
                        if len(answer) > _LONGEST_LINE:
                            raise Breach(f"its answer is longer than {_LONGEST_LINE} bytes")
        end = answer.index(b"\n")
        self._buffer = bytes(answer[end + 1 :])
        return bytes(answer[:end])

    @staticmethod
    def _write(fileno: int, rest: memoryview) -> memoryview:
        try:
            return rest[os.write(fileno, rest[: 1 << 16]) :]
        except BlockingIOError:
            return rest
        except BrokenPipeError:
            # the port has ended, which the read of its standard output reports
            return rest[:0]

    def _take_stderr(self, fileno: int, ready: selectors.BaseSelector, stream: Any) -> None:
        chunk = os.read(fileno, 1 << 16)
        if not chunk:
            ready.unregister(stream)
        self._stderr.add(chunk)

    def _how_it_ended(self, process: "subprocess.Popen[bytes]", started: bool) -> str:  # noqa: FBT001  private
        try:
            status = process.wait(2)
        except subprocess.TimeoutExpired:
            return "it closed its standard output"
        assert process.stderr is not None
        with suppress(BlockingIOError):
            for _ in range(_LAST_READS):  # a child of the port may still be writing
                if not (chunk := os.read(process.stderr.fileno(), 1 << 16)):
                    break
                self._stderr.add(chunk)
        how = f"signal {-status}" if status < 0 else f"exit status {status}"
        return f"it ended with {how}{' in the middle of an answer' if started else ''}"

    def _limited(self, op: str) -> AddressSpace:
        assert self._process is not None
        return AddressSpace(self._process.pid if op.startswith(("file.", "delta.apply")) else None)


def _available(fileno: int) -> bytes:
    try:
        return os.read(fileno, 1 << 16)
    except BlockingIOError:
        return b""
