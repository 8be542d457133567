"""What differs between asyncio and threads. Its twin is ``cove._async._io``; both are
written by hand, everything else is generated."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")


def here() -> object:
    """Returns what a stream belongs to: nothing, threads may share it."""
    return None


def stay(home: object) -> None:
    """Does nothing."""


def left(home: object) -> bool:
    """Whether this is not where a stream belongs."""
    return False


class Clients:
    """HTTP clients: one for each process, since connections must not be shared with a
    forked child."""

    def __init__(self, make: Callable[[], httpx.Client]) -> None:
        self._make = make
        self._pid = os.getpid()
        self._client: httpx.Client | None = None
        self._lock = threading.Lock()
        self._abandoned: list[object] = []

    def get(self) -> httpx.Client:
        """Returns the client to use here."""
        if self._pid != os.getpid():
            # Kept, not closed: the connections are the parent's.
            self._abandoned.append(self._client)
            self._client = None
            self._lock = threading.Lock()  # the other may be held by a thread of the parent
            self._pid = os.getpid()
        client = self._client
        if client is None:
            with self._lock:
                client = self._client = self._client or self._make()
        return client

    def close(self) -> None:
        """Closes the connections."""
        if self._client is not None and self._pid == os.getpid():
            self._client.close()
            self._client = None


class Lock:
    """A lock that a forked child finds open."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        if self._pid != os.getpid():
            self._lock = threading.Lock()
            self._pid = os.getpid()
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def in_thread(function: Callable[..., T], *args: Any) -> T:
    """Returns what function returns."""
    return function(*args)


def tell(callback: Callable[[T], None] | None, value: T) -> None:
    """Calls a callback."""
    if callback is not None:
        callback(value)


def upload(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yields pieces."""
    return iter(pieces)


def sleep(seconds: float) -> None:
    """Waits."""
    time.sleep(seconds)


def shielded(work: T) -> T:
    """Returns work, which is done."""
    return work
