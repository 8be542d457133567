"""Several runs at the same time. Its twin is ``cove._async._parallel``; both are written by
hand."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .._runs import RunRequest, RunResult

if TYPE_CHECKING:
    import asyncio
    from concurrent.futures import Future

    from ._transport import Transport


def all_of(transport: Transport, requests: Sequence[RunRequest], concurrency: int) -> list[RunResult | Exception]:
    """Returns for each request its result or its error.

    An event loop in a thread does it: of threads that wait for replies, an interrupt could
    end none. So this also works where another loop runs.
    """
    from concurrent.futures import Future

    running: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = Future()
    done: Future[list[RunResult | Exception]] = Future()
    thread = threading.Thread(
        target=_work, args=(transport, requests, concurrency, running, done), name="cove-run", daemon=True
    )
    thread.start()
    try:
        return done.result()
    except BaseException:
        if not done.done():
            loop, task = running.result()
            try:
                loop.call_soon_threadsafe(task.cancel)
            except RuntimeError:
                pass  # it has ended just now
        raise
    finally:
        thread.join()


def _work(
    transport: Transport,
    requests: Sequence[RunRequest],
    concurrency: int,
    running: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]],
    done: Future[list[RunResult | Exception]],
) -> None:
    import asyncio

    from .._async._parallel import all_of as all_at_once
    from .._async._transport import AsyncTransport

    async def main() -> list[RunResult | Exception]:
        task = asyncio.current_task()
        assert task is not None
        running.set_result((asyncio.get_running_loop(), task))
        other = AsyncTransport(transport.address, transport.key, transport.request_timeout, transport.verify)
        try:
            return await all_at_once(other, requests, concurrency)
        finally:
            await other.close()

    try:
        done.set_result(asyncio.run(main()))
    except BaseException as error:  # noqa: BLE001 - it is the caller's
        done.set_exception(error)
