"""The frames of a process's output, and what is kept of it."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from ._model import integer, nonsense, outcome
from .errors import from_body
from .types import CommandResult, Output

CONTENT_TYPE = "application/vnd.cove.stream"
STDOUT, STDERR, PTY, START, EXIT, ERROR = 1, 2, 3, 16, 17, 18
_HEADER = 1 + 8 + 4
_MAX_FRAME = 16 << 20

#: What is kept of each stream unless more is asked for, as by the daemon.
MAX_OUTPUT = 1 << 20


class Frame(NamedTuple):
    """A kind, and bytes for STDOUT, STDERR and PTY, or an object for START and EXIT."""

    kind: int
    data: bytes
    object: dict[str, Any]


class FrameParser:
    """Cuts bytes into frames: 1 byte kind, 8 offset, 4 length, payload; big-endian."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yields the frames that are whole now. Raises the error that a frame carries."""
        buffer = self._buffer
        buffer += data
        at = 0
        while len(buffer) - at >= _HEADER:
            length = int.from_bytes(buffer[at + 9 : at + 13], "big")
            if length > _MAX_FRAME:
                raise nonsense(f"a frame of {length} bytes")
            end = at + _HEADER + length
            if len(buffer) < end:
                break
            kind, payload = buffer[at], bytes(buffer[at + _HEADER : end])
            at = end
            if kind in (STDOUT, STDERR, PTY):
                yield Frame(kind, payload, {})
            elif kind in (START, EXIT, ERROR):
                yield _decode(kind, payload)
        del buffer[:at]


def _decode(kind: int, payload: bytes) -> Frame:
    try:
        value = json.loads(payload)
    except ValueError as error:
        raise nonsense("a frame that is no JSON") from error
    if kind == ERROR:
        raise from_body(value)
    if not isinstance(value, dict):
        raise nonsense("a frame that is no object")
    return Frame(kind, b"", value)


class Text:
    """Decodes the pieces of a stream; a character may be cut by their borders."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, data: bytes) -> str:
        """Returns the characters that are whole now."""
        return self._decoder.decode(data)

    def end(self) -> str:
        """Returns what is left over."""
        return self._decoder.decode(b"", True)


class Texts:
    """Makes an Output of frames."""

    def __init__(self) -> None:
        self._stdout = Text()
        self._stderr = Text()

    def output(self, frame: Frame) -> Output | None:
        """Returns what a frame brings, if that is a whole character."""
        if frame.kind == PTY:
            return Output(pty=frame.data)
        if frame.kind == STDOUT:
            text = self._stdout.feed(frame.data)
            return Output(stdout=text) if text else None
        if frame.kind == STDERR:
            text = self._stderr.feed(frame.data)
            return Output(stderr=text) if text else None
        return None

    def end(self) -> Iterator[Output]:
        """Yields what is left over at the end."""
        stdout, stderr = self._stdout.end(), self._stderr.end()
        if stdout:
            yield Output(stdout=stdout)
        if stderr:
            yield Output(stderr=stderr)


class Excerpt:
    """Keeps the head and the tail of a stream, half of limit each, as the daemon does."""

    def __init__(self, limit: int) -> None:
        self._head_limit = limit - limit // 2
        self._tail_limit = limit // 2
        self._head = bytearray()
        self._tail = bytearray()
        self.truncated = False

    def add(self, data: bytes) -> None:
        """Keeps data or a part of it."""
        room = self._head_limit - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        self._tail += data
        if len(self._tail) > 2 * self._tail_limit + 65536:
            self._cut()

    def _cut(self) -> None:
        over = len(self._tail) - self._tail_limit
        if over > 0:
            self.truncated = True
            del self._tail[:over]

    def bytes(self) -> bytes:
        """Returns what was kept, with a note where bytes are missing."""
        self._cut()
        note = b"\n... output left out ...\n" if self.truncated else b""
        return bytes(self._head) + note + bytes(self._tail)


class Collector:
    """Makes a CommandResult of frames."""

    def __init__(self, limit: int) -> None:
        self._stdout = Excerpt(limit)
        self._stderr = Excerpt(limit)
        self._pid = 0

    def add(self, frame: Frame) -> CommandResult | None:
        """Returns the result with the last frame."""
        if frame.kind in (STDOUT, PTY):
            self._stdout.add(frame.data)
        elif frame.kind == STDERR:
            self._stderr.add(frame.data)
        elif frame.kind == START:
            self._pid = integer(frame.object.get("pid"))
        elif frame.kind == EXIT:
            return self._result(frame.object.get("exit") or {})
        return None

    def _result(self, exit: object) -> CommandResult:
        return CommandResult(
            **outcome(exit, "code"),
            stdout_bytes=self._stdout.bytes(),
            stderr_bytes=self._stderr.bytes(),
            truncated=self._stdout.truncated or self._stderr.truncated,
            pid=self._pid,
        )
