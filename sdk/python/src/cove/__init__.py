"""Cove: a computer of its own for every agent, that it may wreck.

    from cove import Sandbox

    with Sandbox() as sandbox:
        sandbox.files.write("main.py", "print(6 * 7)")
        print(sandbox.commands.run("python3 main.py").stdout)

What is imported from here is loaded when it is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from ._async._client import AsyncCove
    from ._async._commands import AsyncCommandHandle
    from ._async._pty import AsyncPtyHandle
    from ._async._run import async_run, async_run_parallel
    from ._async._sandbox import AsyncSandbox
    from ._runs import Change, Retry, RunCommandResult, RunRequest, RunResult
    from ._sandboxed import sandboxed
    from ._sync._client import Cove
    from ._sync._commands import CommandHandle
    from ._sync._pty import PtyHandle
    from ._sync._run import run, run_parallel
    from ._sync._sandbox import Sandbox
    from .errors import (
        CommandFailed,
        ConflictError,
        CoveError,
        ExhaustedError,
        ForbiddenError,
        GoneError,
        InternalError,
        InvalidError,
        NoSpaceError,
        NotFoundError,
        TimedOutError,
        TooLargeError,
        UnauthenticatedError,
        UnavailableError,
        UnsupportedError,
    )
    from .types import (
        CommandResult,
        Duration,
        Event,
        FileEvent,
        FileInfo,
        Limits,
        ListeningPort,
        Mount,
        Network,
        NetworkEvent,
        NetworkStatus,
        Output,
        Path,
        ProcessInfo,
        PtySize,
        RuntimeInfo,
        SandboxInfo,
        Secret,
        SecretInfo,
        Size,
        Stats,
        VersionInfo,
        WriteEntry,
    )

__all__ = [
    "AsyncCommandHandle",
    "AsyncCove",
    "AsyncPtyHandle",
    "AsyncSandbox",
    "Change",
    "CommandFailed",
    "CommandHandle",
    "CommandResult",
    "ConflictError",
    "Cove",
    "CoveError",
    "Duration",
    "Event",
    "ExhaustedError",
    "FileEvent",
    "FileInfo",
    "ForbiddenError",
    "GoneError",
    "InternalError",
    "InvalidError",
    "Limits",
    "ListeningPort",
    "Mount",
    "Network",
    "NetworkEvent",
    "NetworkStatus",
    "NoSpaceError",
    "NotFoundError",
    "Output",
    "Path",
    "ProcessInfo",
    "PtyHandle",
    "PtySize",
    "Retry",
    "RunCommandResult",
    "RunRequest",
    "RunResult",
    "RuntimeInfo",
    "Sandbox",
    "SandboxInfo",
    "Secret",
    "SecretInfo",
    "Size",
    "Stats",
    "TimedOutError",
    "TooLargeError",
    "UnauthenticatedError",
    "UnavailableError",
    "UnsupportedError",
    "VersionInfo",
    "WriteEntry",
    "__version__",
    "async_run",
    "async_run_parallel",
    "run",
    "run_parallel",
    "sandboxed",
]

_HOMES = {
    "AsyncCove": "._async._client",
    "AsyncCommandHandle": "._async._commands",
    "AsyncPtyHandle": "._async._pty",
    "AsyncSandbox": "._async._sandbox",
    "Change": "._runs",
    "Cove": "._sync._client",
    "CommandHandle": "._sync._commands",
    "PtyHandle": "._sync._pty",
    "Retry": "._runs",
    "RunCommandResult": "._runs",
    "RunRequest": "._runs",
    "RunResult": "._runs",
    "Sandbox": "._sync._sandbox",
    "async_run": "._async._run",
    "async_run_parallel": "._async._run",
    "run": "._sync._run",
    "run_parallel": "._sync._run",
    "sandboxed": "._sandboxed",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    home = _HOMES.get(name)
    if home is None:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        home = ".errors" if name in import_module(".errors", __name__).__all__ else ".types"
    value = getattr(import_module(home, __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
