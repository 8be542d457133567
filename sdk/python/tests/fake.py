"""A daemon that says what a test wants, on a unix socket."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
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


class Daemon(ThreadingMixIn, UnixStreamServer):
    """Asks ``reply`` for what to answer, and remembers what it was asked."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, path: str, reply: Callable[[str, str], Answer]) -> None:
        self.reply = reply
        self.asked: list[str] = []
        self.url = "unix://" + path
        super().__init__(path, _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Daemon

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: object) -> None:
        pass

    def _any(self) -> None:
        path = self.path.split("?")[0]
        self.server.asked.append(f"{self.command} {path}")
        status, headers, body = self.server.reply(self.command, path)
        if headers.pop("early", None) is None:
            self._receive()
        else:
            self.close_connection = True
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _receive(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                self.rfile.read(size + 2)
            self.rfile.readline()

    do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = _any


@contextmanager
def fake(tmp_path: Path, reply: Callable[[str, str], Answer]) -> Iterator[Daemon]:
    """Gives a daemon that answers as reply says."""
    with Daemon(str(tmp_path / "fake.sock"), reply) as daemon:
        thread = threading.Thread(target=daemon.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield daemon
        finally:
            daemon.shutdown()
            thread.join()


@contextmanager
def silent(tmp_path: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """Gives the address of a daemon that takes everything and says nothing, and what ends
    it, together with all of its connections."""
    path = str(tmp_path / "silent.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(128)
        taken: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    taken.append(listener.accept()[0])
                except OSError:
                    return

        def end() -> None:
            listener.shutdown(socket.SHUT_RDWR)
            for connection in taken:
                connection.close()

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield "unix://" + path, end
        finally:
            try:
                end()
            except OSError:
                pass
            thread.join()
