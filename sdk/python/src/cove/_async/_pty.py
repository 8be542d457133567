"""Terminals of a sandbox."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Optional

from .. import _spec as spec
from .._frames import PTY
from ..types import CommandResult, Duration, PtySize
from ._commands import AsyncCommandHandle, Command, _pid, launch
from ._io import tell

if TYPE_CHECKING:
    from ._sandbox import AsyncSandbox

    AsyncDataCallback = Callable[[bytes], Optional[Awaitable[None]]]

#: A login shell, the best that there is.
_SHELL = "if command -v bash >/dev/null 2>&1; then exec bash -il; else exec sh -il; fi"


class AsyncPtyHandle(AsyncCommandHandle):
    """A process with a terminal. Iterating gives Outputs with ``pty``."""

    async def data(self) -> AsyncIterator[bytes]:
        """Yields what the terminal shows, from the beginning, until the process ends."""
        async for frame in self._follow():
            if frame.kind == PTY:
                yield frame.data

    async def wait_pty(self, on_data: AsyncDataCallback) -> CommandResult:
        """Hands on what the terminal shows until the process ends."""
        spec.function("on_data", on_data)
        async for data in self.data():
            await tell(on_data, data)
        return await self.wait()


class AsyncPty:
    """Starts and reaches terminals."""

    def __init__(self, sandbox: AsyncSandbox) -> None:
        self._sandbox = sandbox

    async def create(
        self,
        size: PtySize | None = None,
        user: str | None = None,
        cwd: str | None = None,
        envs: Mapping[str, str] | None = None,
        timeout: Duration | None = None,
        *,
        cmd: Command | None = None,
        env: Mapping[str, str] | None = None,
        workdir: str | None = None,
        tag: str | None = None,
    ) -> AsyncPtyHandle:
        """Starts a login shell, or ``cmd``, with a terminal."""
        spec.check("size", size, PtySize)
        environment = {"TERM": "xterm-256color", **(spec.text_map("env", spec.one("env", env, "envs", envs)) or {})}
        body: dict[str, Any] = {
            "command": _SHELL if cmd is None else spec.command(cmd),
            "tty": spec.terminal(size or PtySize()),
            "env": environment,
            "cwd": spec.text("workdir", spec.one("workdir", workdir, "cwd", cwd)),
            "user": spec.text("user", user),
            "timeout": spec.duration("timeout", timeout),
            "tag": spec.text("tag", tag),
        }
        return AsyncPtyHandle(self._sandbox, await launch(self._sandbox, body))

    async def connect(self, pid: int) -> AsyncPtyHandle:
        """Returns a handle on a terminal's process."""
        handle = AsyncPtyHandle(self._sandbox, _pid(pid))
        await handle.info()
        return handle

    async def send_stdin(self, pid: int, data: str | bytes) -> None:
        """Types into a terminal."""
        await AsyncPtyHandle(self._sandbox, _pid(pid)).send_stdin(data)

    async def resize(self, pid: int, size: PtySize) -> None:
        """Changes a terminal's size."""
        await AsyncPtyHandle(self._sandbox, _pid(pid)).resize(size)

    async def kill(self, pid: int) -> bool:
        """Kills a terminal's process and everything it started."""
        return await AsyncPtyHandle(self._sandbox, _pid(pid)).kill()
