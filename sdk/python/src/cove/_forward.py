"""A port of this machine's loopback that leads to a port inside a sandbox."""

from __future__ import annotations

import os
import socket
import threading

_CHUNK = 64 << 10
_lock = threading.Lock()
_ports: dict[tuple[int, str, str], int] = {}


def forward(daemon: str, path: str) -> int:
    """Returns the port at which this process forwards to the API path of a port inside. It
    is opened once, and lasts as long as the process."""
    key = (os.getpid(), daemon, path)
    with _lock:
        if key not in _ports:
            listener = socket.create_server(("127.0.0.1", 0))
            _ports[key] = listener.getsockname()[1]
            threading.Thread(target=_serve, args=(listener, daemon, path), name="cove-forward", daemon=True).start()
        return _ports[key]


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


def _serve(listener: socket.socket, daemon: str, path: str) -> None:
    with listener:
        while True:
            try:
                here, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=_connect, args=(here, daemon, path), name="cove-forward", daemon=True).start()


def _connect(here: socket.socket, daemon: str, path: str) -> None:
    with here, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as there:
        try:
            there.connect(daemon)
            rest = _upgrade(there, path)
            if rest is None:
                return
            here.sendall(rest)
            back = threading.Thread(target=_copy, args=(there, here), name="cove-forward", daemon=True)
            back.start()
            _copy(here, there)
            back.join()
        except OSError:
            return  # one of the two went away, and the other sees that


def _upgrade(there: socket.socket, path: str) -> bytes | None:
    """Asks the daemon for a raw connection; returns what came of it already."""
    request = f"GET {path} HTTP/1.1\r\nHost: cove\r\nConnection: Upgrade\r\nUpgrade: cove-tcp\r\n\r\n"
    there.sendall(request.encode())
    reply = b""
    while b"\r\n\r\n" not in reply:
        piece = there.recv(4096)
        if not piece or len(reply) > 65536:
            return None
        reply += piece
    head, _, rest = reply.partition(b"\r\n\r\n")
    return rest if head.split(b" ", 2)[1:2] == [b"101"] else None


def _copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(_CHUNK):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        for end in (source, target):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
