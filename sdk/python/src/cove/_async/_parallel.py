"""Several runs at the same time. Its twin is ``cove._sync._parallel``; both are written by
hand."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from .._runs import RunRequest, RunResult
from ..errors import ExhaustedError

if TYPE_CHECKING:
    from ._transport import AsyncTransport

#: How long a run waits for room on the host, since any run has ended, in seconds.
PATIENCE = 600.0
_LONGEST = 60.0


async def all_of(
    transport: AsyncTransport, requests: Sequence[RunRequest], concurrency: int
) -> list[RunResult | Exception]:
    """Returns for each request its result or its error."""
    group = _Group(transport, requests)
    workers = [asyncio.create_task(group.work()) for _ in range(min(concurrency, len(requests)))]
    # When this is cancelled, so are they, and it goes on when they have ended.
    await asyncio.gather(*workers)
    return [group.done[index] for index in range(len(requests))]


class _Group:
    def __init__(self, transport: AsyncTransport, requests: Sequence[RunRequest]) -> None:
        self._transport = transport
        self._queue: Iterator[tuple[int, RunRequest]] = enumerate(requests)
        self._progress = time.monotonic()
        self.done: dict[int, RunResult | Exception] = {}

    async def work(self) -> None:
        for index, request in self._queue:
            try:
                self.done[index] = await self._run(request)
            except Exception as error:  # noqa: BLE001 - it is handed to the caller
                self.done[index] = error
            self._progress = time.monotonic()

    async def _run(self, request: RunRequest) -> RunResult:
        from ._run import one_shot

        began = time.monotonic()
        while True:
            try:
                return await one_shot(self._transport, request)
            except ExhaustedError as error:
                waited = time.monotonic() - max(began, self._progress)
                if error.retry_after is None or not request.repeatable or waited > PATIENCE:
                    raise
                pause = min(max(error.retry_after, 0.1), _LONGEST)
            # A bit more, so that those who wait do not all come back at once.
            await asyncio.sleep(pause * (1 + random.random() / 2))  # noqa: S311
