"""Terminals of a sandbox."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from .. import _spec as spec
from .._frames import PTY
from ..types import CommandResult, Duration, PtySize
from ._commands import Command, CommandHandle, _pid, launch
from ._io import tell

if TYPE_CHECKING:
    from ._sandbox import Sandbox

    DataCallback = Callable[[bytes], None]

#: A login shell, the best that there is.
_SHELL = "if command -v bash >/dev/null 2>&1; then exec bash -il; else exec sh -il; fi"


class PtyHandle(CommandHandle):
    """A process with a terminal. Iterating gives Outputs with ``pty``."""

    def data(self) -> Iterator[bytes]:
        """Yields what the terminal shows, from the beginning, until the process ends."""
        for frame in self._follow():
            if frame.kind == PTY:
                yield frame.data

    def wait_pty(self, on_data: DataCallback) -> CommandResult:
        """Hands on what the terminal shows until the process ends."""
        spec.function("on_data", on_data)
        for data in self.data():
            tell(on_data, data)
        return self.wait()


class Pty:
    """Starts and reaches terminals."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def create(
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
    ) -> PtyHandle:
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
        return PtyHandle(self._sandbox, launch(self._sandbox, body))

    def connect(self, pid: int) -> PtyHandle:
        """Returns a handle on a terminal's process."""
        handle = PtyHandle(self._sandbox, _pid(pid))
        handle.info()
        return handle

    def send_stdin(self, pid: int, data: str | bytes) -> None:
        """Types into a terminal."""
        PtyHandle(self._sandbox, _pid(pid)).send_stdin(data)

    def resize(self, pid: int, size: PtySize) -> None:
        """Changes a terminal's size."""
        PtyHandle(self._sandbox, _pid(pid)).resize(size)

    def kill(self, pid: int) -> bool:
        """Kills a terminal's process and everything it started."""
        return PtyHandle(self._sandbox, _pid(pid)).kill()
