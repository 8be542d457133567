"""Commands and processes of a sandbox."""

from __future__ import annotations

import binascii
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Optional, Union, overload

from .. import _spec as spec
from .._frames import EXIT, MAX_OUTPUT, PTY, STDERR, STDOUT, Collector, Frame, Text, Texts
from .._model import nonsense, output, parse, parse_list
from ..errors import NotFoundError, TimedOutError
from ..types import CommandResult, Duration, Output, ProcessInfo, PtySize
from ._io import tell

if TYPE_CHECKING:
    from ._sandbox import AsyncSandbox

    AsyncCallback = Callable[[str], Optional[Awaitable[None]]]

Command = Union[str, Sequence[str]]
# In the class, list is a method.
_Infos = list[ProcessInfo]


class AsyncCommands:
    """Runs commands in a sandbox."""

    def __init__(self, sandbox: AsyncSandbox) -> None:
        self._sandbox = sandbox

    @overload
    async def run(
        self,
        cmd: Command,
        background: Literal[False] | None = None,
        env: Mapping[str, str] | None = None,
        workdir: str | None = None,
        *,
        envs: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        stdin: str | bytes | bool | None = None,
        timeout: Duration | None = None,
        on_stdout: AsyncCallback | None = None,
        on_stderr: AsyncCallback | None = None,
        check: bool = False,
        max_output: int | str | None = None,
        tag: str | None = None,
    ) -> CommandResult: ...

    @overload
    async def run(
        self,
        cmd: Command,
        background: Literal[True],
        env: Mapping[str, str] | None = None,
        workdir: str | None = None,
        *,
        envs: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        stdin: str | bytes | bool | None = None,
        timeout: Duration | None = None,
        on_stdout: AsyncCallback | None = None,
        on_stderr: AsyncCallback | None = None,
        check: bool = False,
        max_output: int | str | None = None,
        tag: str | None = None,
    ) -> AsyncCommandHandle: ...

    async def run(
        self,
        cmd: Command,
        background: bool | None = None,
        env: Mapping[str, str] | None = None,
        workdir: str | None = None,
        *,
        envs: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        stdin: str | bytes | bool | None = None,
        timeout: Duration | None = None,
        on_stdout: AsyncCallback | None = None,
        on_stderr: AsyncCallback | None = None,
        check: bool = False,
        max_output: int | str | None = None,
        tag: str | None = None,
    ) -> CommandResult | AsyncCommandHandle:
        """Runs a shell line, or a program with arguments (a list, which no shell sees).

        Returns its result; a command that fails raises CommandFailed only with ``check``.
        ``on_stdout`` and ``on_stderr`` get text while it runs. After ``timeout`` (0: never;
        default: the sandbox's) it is killed with everything that it started, and the result
        has ``timed_out``; the same happens when this call is interrupted. ``max_output`` of
        each stream is kept, head and tail; default 1 MiB.

        With ``background`` it returns a handle at once; then there is no timeout by default,
        ``stdin=True`` keeps the input open for ``send_stdin``, and callbacks are called while
        the handle is waited for.

        ``envs`` is ``env``, and ``cwd`` is ``workdir``.
        """
        body = {
            "command": spec.command(cmd),
            "env": spec.text_map("env", spec.one("env", env, "envs", envs)),
            "cwd": spec.text("workdir", spec.one("workdir", workdir, "cwd", cwd)),
            "user": spec.text("user", user),
            "timeout": spec.duration("timeout", timeout),
        }
        spec.check("background", background, bool)
        spec.check("stdin", stdin, str, bytes, bool)
        spec.check("max_output", max_output, int, str)
        spec.check("tag", tag, str)
        spec.need("check", check, bool)
        spec.function("on_stdout", on_stdout)
        spec.function("on_stderr", on_stderr)
        if background:
            return await self._start(body, stdin, tag, on_stdout, on_stderr)
        if stdin is True or tag is not None:
            raise TypeError("stdin=True and tag are for background=True; give the whole stdin otherwise")
        body["max_output"] = max_output
        if stdin:
            data = spec.encode("stdin", stdin) if isinstance(stdin, str) else stdin
            body["stdin"] = binascii.b2a_base64(data, newline=False).decode()
        body["encoding"] = "base64"
        result = await self._run(spec.drop_none(body), timeout, on_stdout, on_stderr)
        return result.check() if check else result

    async def _run(
        self,
        body: dict[str, Any],
        timeout: Duration | None,
        on_stdout: AsyncCallback | None,
        on_stderr: AsyncCallback | None,
    ) -> CommandResult:
        sandbox = self._sandbox
        path = await sandbox._path("/exec")
        if sandbox._transport.local and on_stdout is None and on_stderr is None:
            return CommandResult(**output(await sandbox._transport.json("POST", path, json=body)))
        # Streams say that they live, so that a network that died is noticed.
        limit = body.get("max_output")
        frames = sandbox._transport.frames("POST", path, json=body)
        return await _collect(frames, limit if isinstance(limit, int) else MAX_OUTPUT, on_stdout, on_stderr)

    async def _start(
        self,
        body: dict[str, Any],
        stdin: str | bytes | bool | None,
        tag: str | None,
        on_stdout: AsyncCallback | None,
        on_stderr: AsyncCallback | None,
    ) -> AsyncCommandHandle:
        body["stdin"] = True if stdin else None
        body["tag"] = tag
        handle = AsyncCommandHandle(self._sandbox, await launch(self._sandbox, body), on_stdout, on_stderr)
        if isinstance(stdin, (str, bytes)) and stdin:
            await handle.send_stdin(stdin, close=True)
        return handle

    async def list(self) -> _Infos:
        """Returns what was started, ended ones that are kept included."""
        path = await self._sandbox._path("/processes")
        return parse_list(ProcessInfo, await self._sandbox._transport.json("GET", path), "processes")

    async def connect(
        self, pid: int, on_stdout: AsyncCallback | None = None, on_stderr: AsyncCallback | None = None
    ) -> AsyncCommandHandle:
        """Returns a handle on a process, which may have been started by another program."""
        spec.function("on_stdout", on_stdout)
        spec.function("on_stderr", on_stderr)
        handle = AsyncCommandHandle(self._sandbox, _pid(pid), on_stdout, on_stderr)
        await handle.info()
        return handle

    async def kill(self, pid: int) -> bool:
        """Kills a process and everything it started. False: there is no such process."""
        return await AsyncCommandHandle(self._sandbox, _pid(pid)).kill()

    async def send_stdin(self, pid: int, data: str | bytes) -> None:
        """Writes to a process's standard input."""
        await AsyncCommandHandle(self._sandbox, _pid(pid)).send_stdin(data)

    async def close_stdin(self, pid: int) -> None:
        """Ends a process's standard input."""
        await AsyncCommandHandle(self._sandbox, _pid(pid)).close_stdin()


class AsyncCommandHandle:
    """A process, while it runs and for as long as the daemon keeps it afterwards.

    Nothing is read unless it is asked for, and everything can be read again: the daemon
    keeps the last 64 MiB of each stream. Iterating gives what was and is written, as Output.
    """

    def __init__(
        self,
        sandbox: AsyncSandbox,
        pid: int,
        on_stdout: AsyncCallback | None = None,
        on_stderr: AsyncCallback | None = None,
    ) -> None:
        self._sandbox = sandbox
        self._on_stdout = on_stdout
        self._on_stderr = on_stderr
        self.pid = pid
        """Inside the sandbox."""
        self.stdout = AsyncOutputStream(self, "stdout")
        self.stderr = AsyncOutputStream(self, "stderr")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} pid={self.pid} sandbox={self._sandbox.id!r}>"

    async def _path(self, rest: str = "") -> str:
        return await self._sandbox._path(f"/processes/{self.pid}{rest}")

    async def info(self) -> ProcessInfo:
        """Returns what the process is and how it stands."""
        return parse(ProcessInfo, await self._sandbox._transport.json("GET", await self._path()))

    async def poll(self) -> int | None:
        """Returns the exit code, None while the process runs."""
        return (await self.info()).exit_code

    async def wait(
        self,
        on_stdout: AsyncCallback | None = None,
        on_stderr: AsyncCallback | None = None,
        *,
        timeout: float | None = None,
        check: bool = False,
        max_output: int = MAX_OUTPUT,
    ) -> CommandResult:
        """Returns how the process ended and what it wrote from its beginning on.

        After ``timeout`` seconds it raises TimedOutError; the process goes on.
        """
        spec.function("on_stdout", on_stdout)
        spec.function("on_stderr", on_stderr)
        if timeout is not None:
            spec.number("timeout", timeout)
        spec.need("check", check, bool)
        spec.need("max_output", max_output, int)
        frames = self._follow(timeout=timeout)
        on_stdout, on_stderr = on_stdout or self._on_stdout, on_stderr or self._on_stderr
        result = await _collect(frames, max_output, on_stdout, on_stderr)
        return result.check() if check else result

    async def _follow(
        self, params: Mapping[str, str] | None = None, timeout: float | None = None, follow: bool = True
    ) -> AsyncIterator[Frame]:
        import time

        query = {"follow": "true" if follow else "false", **(params or {})}
        options: dict[str, Any] = {} if timeout is None else {"read": max(timeout, 0.001)}
        deadline = None if timeout is None else time.monotonic() + timeout
        late = TimedOutError(f"process {self.pid} still runs", hint="wait again, or kill it")
        path = await self._path("/output")
        try:
            async for frame in self._sandbox._transport.frames("GET", path, params=query, whole=follow, **options):
                yield frame
                if deadline is not None and frame.kind != EXIT and time.monotonic() > deadline:
                    raise late
        except TimedOutError as error:
            if deadline is not None and time.monotonic() >= deadline:
                raise late from error
            raise

    async def __aiter__(self) -> AsyncIterator[Output]:
        texts = Texts()
        async for frame in self._follow():
            output = texts.output(frame)
            if output is not None:
                yield output
        for output in texts.end():
            yield output

    async def kill(self) -> bool:
        """Kills the process and everything it started, and returns when that is dead. False:
        it is not known any more."""
        try:
            await self._sandbox._transport.request("DELETE", await self._path())
        except NotFoundError:
            return False
        return True

    async def signal(self, signal: str | int) -> None:
        """Sends a signal to the process alone: "TERM", "SIGTERM" and 15 are the same."""
        spec.need("signal", signal, str, int)
        name = str(int(signal)) if isinstance(signal, int) else signal
        await self._sandbox._transport.request("POST", await self._path("/signal"), json={"signal": name})

    async def send_stdin(self, data: str | bytes, *, close: bool = False) -> None:
        """Writes to the standard input, or types into the terminal."""
        if not isinstance(data, (str, bytes, bytearray, memoryview)):
            raise TypeError(f"data must be str or bytes, not {type(data).__name__}")
        spec.need("close", close, bool)
        content = spec.encode("data", data) if isinstance(data, str) else bytes(data)
        params = {"close": "true"} if close else None
        path = await self._path("/stdin")
        await self._sandbox._transport.request("POST", path, params=params, content=content)

    async def close_stdin(self) -> None:
        """Ends the standard input."""
        await self.send_stdin(b"", close=True)

    async def resize(self, size: PtySize) -> None:
        """Changes the size of the process's terminal."""
        spec.need("size", size, PtySize)
        path = await self._path("/resize")
        await self._sandbox._transport.request("POST", path, json=spec.terminal(size))

    async def disconnect(self) -> None:
        """Does nothing: a handle holds no connection, and the process goes on without it."""


class AsyncOutputStream:
    """One of a process's streams. Every call begins at the first byte that is kept."""

    def __init__(self, handle: AsyncCommandHandle, name: str) -> None:
        self._handle = handle
        self._name = name

    async def raw(self) -> AsyncIterator[bytes]:
        """Yields bytes as they come, until the process ends."""
        async for data in self._pieces(follow=True):
            yield data

    async def _pieces(self, follow: bool) -> AsyncIterator[bytes]:
        kinds, other = ((STDERR,), "stdout") if self._name == "stderr" else ((STDOUT, PTY), "stderr")
        async for frame in self._handle._follow({other + "_offset": "end"}, follow=follow):
            if frame.kind in kinds:
                yield frame.data

    async def stream(self) -> AsyncIterator[str]:
        """Yields text as it comes, until the process ends."""
        text = Text()
        async for data in self.raw():
            piece = text.feed(data)
            if piece:
                yield piece
        rest = text.end()
        if rest:
            yield rest

    async def __aiter__(self) -> AsyncIterator[str]:
        async for text in self.stream():
            yield text

    async def lines(self) -> AsyncIterator[str]:
        """Yields whole lines, without their ends."""
        rest = ""
        async for text in self.stream():
            *lines, rest = (rest + text).split("\n")
            for line in lines:
                yield line
        if rest:
            yield rest

    async def read(self) -> str:
        """Returns what was written so far."""
        text = Text()
        done = ""
        async for data in self._pieces(follow=False):
            done += text.feed(data)
        return done + text.end()


async def launch(sandbox: AsyncSandbox, body: Mapping[str, Any]) -> int:
    """Starts a process and returns its pid."""
    path = await sandbox._path("/processes")
    return parse(ProcessInfo, await sandbox._transport.json("POST", path, json=spec.drop_none(body))).pid


async def _collect(
    frames: AsyncIterator[Frame], limit: int, on_stdout: AsyncCallback | None, on_stderr: AsyncCallback | None
) -> CommandResult:
    collector, texts = Collector(limit), Texts()
    async for frame in frames:
        result = collector.add(frame)
        if on_stdout is not None or on_stderr is not None:
            output = texts.output(frame)
            if output is not None:
                await _tell(output, on_stdout, on_stderr)
            if result is not None:
                for output in texts.end():
                    await _tell(output, on_stdout, on_stderr)
        if result is not None:
            return result
    raise nonsense("a stream without an exit")


async def _tell(output: Output, on_stdout: AsyncCallback | None, on_stderr: AsyncCallback | None) -> None:
    if output.stdout is not None:
        await tell(on_stdout, output.stdout)
    if output.stderr is not None:
        await tell(on_stderr, output.stderr)


def _pid(pid: object) -> int:
    if isinstance(pid, bool) or not isinstance(pid, int):
        raise TypeError(f"pid must be int, not {type(pid).__name__}")
    return pid
