"""A daemon that says what a test wants, on a unix socket."""

from __future__ import annotations

import inspect
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import TCPServer, ThreadingMixIn
from typing import Any

#: What a handler returns: a status, headers and a body.
Answer = tuple[int, dict[str, str], bytes]


def answer(body: Any, status: int = 200, **headers: str) -> Answer:
    """Returns an answer of JSON, or of bytes as they are."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return status, {name.replace("_", "-"): value for name, value in headers.items()}, data


def frame(kind: int, payload: bytes) -> bytes:
    """Returns a frame of a process's output."""
    return bytes([kind]) + bytes(8) + len(payload).to_bytes(4, "big") + payload


def events(*pairs: tuple[str, Any]) -> bytes:
    """Returns server-sent events, of names and data."""
    return b"".join(f"event: {name}\nid: 1\ndata: {json.dumps(data)}\n\n".encode() for name, data in pairs)


class Daemon(ThreadingMixIn, TCPServer):
    """Asks ``reply`` for what to answer, and remembers what it was asked. What is answered
    by None hangs, and what has the header ``cut`` hangs in its middle, until ``die``."""

    daemon_threads = True
    request_queue_size = 256
    allow_reuse_address = True

    def __init__(self, path: str, reply: Callable[[str, str], Answer | None]) -> None:
        self.reply = reply
        self.asked: list[str] = []
        self.dying = threading.Event()
        self.hanging = threading.Semaphore(0)
        self.address_family = socket.AF_UNIX if path else socket.AF_INET
        super().__init__(path or ("127.0.0.1", 0), _Handler)  # type: ignore[arg-type]
        self.url = "unix://" + path if path else f"http://127.0.0.1:{self.server_address[1]}"

    def hung(self, calls: int) -> None:
        """Waits until so many calls hang."""
        for n in range(calls):
            assert self.hanging.acquire(timeout=30), f"only {n} calls arrived: {self.asked}"

    def die(self) -> None:
        """Ends every connection and takes no other."""
        self.socket.close()
        self.dying.set()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Daemon

    def address_string(self) -> str:
        return "somewhere"

    def log_message(self, *_: object) -> None:
        pass

    def _any(self) -> None:
        path = self.path.split("?")[0]
        self.server.asked.append(f"{self.command} {path}")
        answered = self.server.reply(self.command, path)
        if answered is None:
            self._hang()
            return
        status, headers, body = answered
        headers = dict(headers)
        early = headers.pop("early", None) is not None
        if early:
            self.close_connection = True
        else:
            self._receive()
        cut = headers.pop("cut", None) is not None
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header(*(("Transfer-Encoding", "chunked") if cut else ("Content-Length", str(len(body)))))
        self.end_headers()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(body), body) if cut else body)
        if cut:
            self._hang()
        if early:
            # As servers do, so that what was said arrives before the connection is reset.
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_WR)
            self.server.dying.wait(0.3)

    def _hang(self) -> None:
        self.wfile.flush()
        self.close_connection = True
        self.server.hanging.release()
        self.server.dying.wait(60)

    def _receive(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                self.rfile.read(size + 2)
            self.rfile.readline()

    do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = _any


@contextmanager
def fake(tmp_path: Path | None, reply: Callable[[str, str], Answer | None]) -> Iterator[Daemon]:
    """Gives a daemon that answers as reply says: at a socket in a directory, or without one
    at a port of the loopback."""
    with Daemon(str(tmp_path / "fake.sock") if tmp_path else "", reply) as daemon:
        thread = threading.Thread(target=_serve, args=(daemon,))
        thread.start()
        try:
            yield daemon
        finally:
            daemon.dying.set()
            daemon.shutdown()
            thread.join()


def _serve(daemon: Daemon) -> None:
    try:
        daemon.serve_forever(0.05)
    except (OSError, ValueError):
        assert daemon.dying.wait(5)  # its socket was closed


async def settle(value: Any) -> Any:
    """Waits for what a call of either half returns, and takes the first of what it yields."""
    if inspect.isawaitable(value):
        value = await value
    if hasattr(value, "__anext__"):
        value = await value.__anext__()
    elif hasattr(value, "__next__"):
        value = next(value)
    return value
