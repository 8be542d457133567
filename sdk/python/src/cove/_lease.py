"""Sandboxes that belong to this process, and end with it.

A sandbox is made with a short time to live, which a thread renews while the process lives.
So the daemon removes it soon after a process that was killed, and at once after one that
ends in order. The thread and its connections have nothing to do with those of the SDK's
users: a blocked event loop does not lose a sandbox, and nothing of it is used after a fork.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ._daemon import Address

if TYPE_CHECKING:
    import ssl
    from http.client import HTTPConnection

#: How long a sandbox outlives a process that was killed, in seconds.
LEASE = 120.0
_ENOUGH = 10.0  # for one request


@dataclass
class Lease:
    """One sandbox that this process owns."""

    id: str
    address: Address
    key: str | None
    deadline: float | None
    """When the sandbox is to end in any case, by time.monotonic; None: never."""
    verify: bool | str | ssl.SSLContext = True
    renews: bool = True
    """Whether its time to live is a lease; otherwise it is only removed at the end."""

    def ttl(self) -> float:
        """Returns for how long it is to be renewed now."""
        left = LEASE if self.deadline is None else self.deadline - time.monotonic()
        return max(min(LEASE, left), 0.001)


class Keeper:
    """Renews the leases of this process and removes their sandboxes at its end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._leases: dict[str, Lease] = {}
        self._thread: threading.Thread | None = None
        self._ending = threading.Event()
        self._registered = False

    def add(self, lease: Lease) -> None:
        """Keeps a sandbox alive from now on."""
        with self._lock:
            self._leases[lease.id] = lease
            if not self._registered:
                self._registered = True
                _at_exit_of_a_worker(self.end)
            if lease.renews and self._thread is None:
                self._thread = threading.Thread(target=self._run, name="cove-lease", daemon=True)
                self._thread.start()

    def drop(self, id: str) -> Lease | None:
        """Does nothing more for a sandbox, and returns its lease if it had one."""
        with self._lock:
            return self._leases.pop(id, None)

    def get(self, id: str) -> Lease | None:
        """Returns a sandbox's lease, if it belongs to this process."""
        return self._leases.get(id)

    def owns(self, id: str) -> bool:
        """Whether a sandbox belongs to this process."""
        return id in self._leases

    def _run(self) -> None:
        beat = wait = LEASE / 4
        while not self._ending.wait(wait):
            with self._lock:
                leases = [lease for lease in self._leases.values() if lease.renews]
            renewed = [self._renew(lease) for lease in leases]
            # One that did not get through is tried again long before it matters.
            wait = beat if all(renewed) else beat / 6

    def _renew(self, lease: Lease) -> bool:
        try:
            status = _send(lease, "PATCH", f'{{"ttl": {lease.ttl()}}}')
        except OSError:
            return False
        if status in (404, 410):
            self.drop(lease.id)
        return status < 500

    def end(self) -> None:
        """Removes every sandbox of this process, all at the same time."""
        self._ending.set()
        leases, self._leases = self._leases, {}
        connections: list[HTTPConnection] = []
        for lease in leases.values():
            try:
                connection = _connect(lease)
                connection.request("DELETE", _path(lease), headers=_headers(lease))
                connections.append(connection)
            except OSError:
                continue  # its time runs out soon
        for connection in connections:
            try:
                connection.getresponse().read()
            except Exception:  # noqa: BLE001, S110 - the interpreter is ending, and the lease too
                pass
            connection.close()


def _at_exit_of_a_worker(end: Callable[[], None]) -> None:
    # Processes of multiprocessing end without what atexit knows; this is what they do run.
    util = sys.modules.get("multiprocessing.util")
    if util is not None:
        util.Finalize(None, end, exitpriority=10)


def _path(lease: Lease) -> str:
    from urllib.parse import quote, urlsplit

    return urlsplit(lease.address.base).path + "/v1/sandboxes/" + quote(lease.id, safe="")


def _headers(lease: Lease) -> dict[str, str]:
    headers = {"Content-Type": "application/json"}
    if lease.key:
        headers["Authorization"] = "Bearer " + lease.key
    return headers


def _send(lease: Lease, method: str, body: str) -> int:
    from http.client import HTTPException

    connection = _connect(lease)
    try:
        connection.request(method, _path(lease), body, _headers(lease))
        return connection.getresponse().status
    except HTTPException as error:
        raise OSError(str(error)) from error
    finally:
        connection.close()


def _connect(lease: Lease) -> HTTPConnection:
    import http.client
    import socket
    from urllib.parse import urlsplit

    if lease.address.socket:
        connection = http.client.HTTPConnection("cove", timeout=_ENOUGH)
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.settimeout(_ENOUGH)
        connection.sock.connect(lease.address.socket)
        return connection
    parts = urlsplit(lease.address.base)
    host = parts.hostname or ""
    if parts.scheme == "http":
        return http.client.HTTPConnection(host, parts.port, timeout=_ENOUGH)
    return http.client.HTTPSConnection(host, parts.port, timeout=_ENOUGH, context=tls(lease.verify))


def tls(verify: bool | str | ssl.SSLContext) -> ssl.SSLContext:
    """Returns the context for verify: True, False, a file of authorities, or a context."""
    import ssl

    if isinstance(verify, ssl.SSLContext):
        return verify
    context = ssl.create_default_context(cafile=verify if isinstance(verify, str) else None)
    if verify is False:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


_keeper = Keeper()


def keeper() -> Keeper:
    """Returns this process's keeper."""
    return _keeper


def _end() -> None:
    _keeper.end()


def _after_fork() -> None:
    # What the parent owns stays the parent's. Its lock may be held by a thread that does
    # not exist here, so nothing of it is touched.
    global _keeper
    _keeper = Keeper()


atexit.register(_end)
os.register_at_fork(after_in_child=_after_fork)
