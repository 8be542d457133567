"""What differs between asyncio and threads. Its twin is ``cove._sync._io``; both are
written by hand, everything else is generated."""

from __future__ import annotations

import asyncio
import inspect
import os
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import InvalidError

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")


def current() -> asyncio.AbstractEventLoop:
    """Returns the event loop that runs here."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        hint = "await this in asyncio, or use Sandbox without async"
        raise InvalidError("no asyncio event loop runs here", hint=hint) from None


def here() -> asyncio.AbstractEventLoop:
    """Returns what a stream belongs to: its event loop."""
    return current()


def stay(home: asyncio.AbstractEventLoop) -> None:
    """Raises an error where a stream is used that belongs elsewhere: its connection is read
    by another loop, which may never run again."""
    if current() is not home:
        hint = "read a stream in the event loop that it was begun in, or begin another"
        raise InvalidError("the stream belongs to another event loop", hint=hint)


def left(home: asyncio.AbstractEventLoop) -> bool:
    """Whether this is not where a stream belongs, so that it can't be closed here."""
    return current() is not home


class AsyncClients:
    """HTTP clients: one for each event loop of each process, since connections are bound to
    their loop and must not be shared with a forked child."""

    def __init__(self, make: Callable[[], httpx.AsyncClient]) -> None:
        self._make = make
        self._pid = os.getpid()
        self._open: dict[asyncio.AbstractEventLoop, _Open] = {}
        self._abandoned: list[object] = []

    def get(self) -> httpx.AsyncClient:
        """Returns the client to use here."""
        if self._pid != os.getpid():
            # Kept, not closed: the connections are the parent's.
            self._abandoned.append(self._open)
            self._open = {}
            self._pid = os.getpid()
        loop = current()
        found = self._open.get(loop)
        if found is None:
            for other in list(self._open):
                if other.is_closed():
                    self._open.pop(other, None)
            found = self._open[loop] = _Open(self._make())
        return found.client

    async def close(self) -> None:
        """Closes this loop's connections."""
        if self._pid != os.getpid():
            return
        found = self._open.pop(asyncio.get_running_loop(), None)
        if found is not None:
            await found.guard.aclose()


class _Open:
    """A client that is closed with its event loop. asyncio.run, and whoever else ends a loop
    in order, closes the generators that were begun in it."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client
        self.guard = _guard(client)
        try:
            self.guard.__anext__().send(None)
        except StopIteration:
            return  # it has begun, without having waited for anything


async def _guard(client: httpx.AsyncClient) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        await client.aclose()


class AsyncLock:
    """A lock that is made in the loop which first takes it."""

    def __init__(self) -> None:
        self._locks: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock]
        self._locks = weakref.WeakKeyDictionary()

    async def __aenter__(self) -> None:
        await self._locks.setdefault(current(), asyncio.Lock()).acquire()

    async def __aexit__(self, *_: object) -> None:
        self._locks[asyncio.get_running_loop()].release()


async def in_thread(function: Callable[..., T], *args: Any) -> T:
    """Returns what function returns, which may block."""
    return await asyncio.to_thread(function, *args)


async def tell(callback: Callable[[T], Awaitable[None] | None] | None, value: T) -> None:
    """Calls a callback, which may be a coroutine function."""
    if callback is not None:
        reply = callback(value)
        if inspect.isawaitable(reply):
            await reply


async def upload(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    """Yields pieces whose making may block."""
    iterator = iter(pieces)
    while True:
        piece = await asyncio.to_thread(next, iterator, None)
        if piece is None:
            return
        yield piece


async def sleep(seconds: float) -> None:
    """Waits."""
    await asyncio.sleep(seconds)


async def shielded(work: Awaitable[T]) -> T:
    """Lets work finish also when the caller is cancelled."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
