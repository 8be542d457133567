"""A daemon that goes away while it is spoken to: an error within two seconds, whatever is
waited for, and never a hang."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from conftest import RUNTIME, end_daemon, remove_all
from fake import Answer, Daemon, answer, events, fake, frame, settle

from cove import (
    AsyncCove,
    AsyncSandbox,
    Cove,
    InvalidError,
    PtySize,
    Sandbox,
    UnavailableError,
    async_run,
    async_run_parallel,
    run,
    run_parallel,
)

SOON = 2.0
BOX = {"id": "box", "state": "running", "runtime": "moon"}
Call = Callable[[Any, Any, Path], Any]


async def drain(stream: Any) -> list[Any]:
    """Reads a stream of either half to its end."""
    if hasattr(stream, "__await__"):
        stream = await stream
    return [piece async for piece in stream] if hasattr(stream, "__aiter__") else list(stream)


async def watch(watching: Any) -> None:
    """Reads what a watch of either half says."""
    await drain(await settle(watching))


# Of a sandbox, a process in it, and a folder of this machine.
CALLS: list[Call] = [
    lambda b, _h, _d: b.commands.run("x"),
    lambda b, _h, _d: b.commands.run("x", on_stdout=lambda _: None),
    lambda b, _h, _d: b.commands.run("x", background=True),
    lambda b, _h, _d: b.commands.run("x", stdin=b"x" * 10_000_000),
    lambda b, _h, _d: b.commands.list(),
    lambda b, _h, _d: b.commands.connect(1),
    lambda b, _h, _d: b.commands.kill(1),
    lambda _b, h, _d: h.info(),
    lambda _b, h, _d: h.wait(),
    lambda _b, h, _d: h.wait(timeout=60),
    lambda _b, h, _d: h.kill(),
    lambda _b, h, _d: h.signal("TERM"),
    lambda _b, h, _d: h.send_stdin(b"x" * 10_000_000),
    lambda _b, h, _d: h.close_stdin(),
    lambda _b, h, _d: h.resize(PtySize()),
    lambda _b, h, _d: h.stdout.read(),
    lambda _b, h, _d: drain(h.stdout.stream()),
    lambda _b, h, _d: drain(h.stderr.raw()),
    lambda _b, h, _d: drain(h.stderr.lines()),
    lambda _b, h, _d: drain(h),
    lambda b, _h, _d: b.pty.create(),
    lambda b, _h, _d: b.pty.send_stdin(1, b"x" * 10_000_000),
    lambda b, _h, _d: b.files.read("a"),
    lambda b, _h, _d: drain(b.files.read("a", "stream")),
    lambda b, _h, _d: b.files.write("a", "x"),
    lambda b, _h, _d: b.files.write("a", io.BytesIO(b"x" * 10_000_000)),
    lambda b, _h, _d: b.files.list("."),
    lambda b, _h, _d: b.files.make_dir("a"),
    lambda b, _h, _d: b.files.remove("a"),
    lambda b, _h, _d: b.files.rename("a", "b"),
    lambda b, _h, _d: watch(b.files.watch_dir("a")),
    lambda b, _h, d: b.files.upload(d / "folder", "a"),
    lambda b, _h, d: b.files.upload(d / "folder" / "big", "a"),
    lambda b, _h, d: b.files.download("a", d / "down"),
    lambda b, _h, _d: b.ports(),
    lambda b, _h, _d: b.wait_port(80, timeout=60),
    lambda b, _h, _d: b.preview(80),
    lambda b, _h, _d: b.get_info(),
    lambda b, _h, _d: b.set_timeout(60),
    lambda b, _h, _d: b.get_network(),
    lambda b, _h, _d: b.set_network(False),
    lambda b, _h, _d: b.network_log(),
    lambda b, _h, _d: drain(b.network_events()),
    lambda b, _h, _d: b.stats(),
    lambda b, _h, _d: drain(b.watch_stats()),
    lambda b, _h, _d: drain(b.events()),
    lambda b, _h, _d: b.is_running(),
]


def half(method: str, path: str) -> Answer | None:
    """Answers with the first half of what there is to say, then hangs."""
    sse = {"Content-Type": "text/event-stream"}
    if path.endswith("/files/stat"):
        return answer({"name": "a", "path": "/a", "type": "directory"})
    if path.endswith("/exec") or path.endswith("/output"):
        body, kind = frame(16, b'{"pid": 1}') + frame(1, b"first") + b"\x01\0", {}
    elif path.endswith("/watch"):
        body, kind = events(("create", {"type": "create", "name": "a"})) + b"event: cre", sse
    elif path.endswith("/stats"):
        body, kind = events(("stats", {"memory": 1})), sse
    elif path.endswith("/events") or path.endswith("/log"):
        body, kind = b": keepalive\n\n", sse
    elif path.endswith("/archive"):
        body, kind = bytes(100), {}
    else:
        body, kind = b'{"id": "bo', {}
    status, headers, data = answer(body, cut="yes")
    return status, {**headers, **kind}, data


@pytest.mark.parametrize("says", ["nothing", "half"])
@pytest.mark.parametrize("where", ["socket", "port"])
@pytest.mark.parametrize("kind", [Sandbox, AsyncSandbox])
def test_every_call_ends_when_the_daemon_does(kind, where: str, says: str, tmp_path: Path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "big").write_bytes(b"x" * 10_000_000)
    known = False

    def reply(method: str, path: str) -> Answer | None:
        if not known:
            return answer({"pid": 1} if "/processes" in path else BOX)
        return half(method, path) if says == "half" else None

    async def main(daemon: Daemon) -> None:
        nonlocal known
        sandbox = await settle(kind.connect("box", url=daemon.url))
        handle = await settle(sandbox.commands.connect(1))
        known = True
        ended: dict[int, tuple[object, float]] = {}

        def call(n: int) -> Any:
            return CALLS[n](sandbox, handle, tmp_path)

        async def attempt(n: int) -> None:
            try:
                # What the sync half does is done in a thread of its own.
                result = await asyncio.to_thread(call, n) if kind is Sandbox else call(n)
                if hasattr(result, "__await__"):
                    result = await result if kind is AsyncSandbox else await asyncio.to_thread(asyncio.run, result)
            except BaseException as error:
                result = error
            ended[n] = (result, time.monotonic())

        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(2 * len(CALLS)))
        tasks = [asyncio.create_task(attempt(n)) for n in range(len(CALLS))]
        await asyncio.to_thread(daemon.hung, len(CALLS))
        died = time.monotonic()
        daemon.die()
        await asyncio.wait(tasks, timeout=20)
        wrong = []
        for n in range(len(CALLS)):
            result, when = ended.get(n, ("it hangs", died))
            if not isinstance(result, UnavailableError) or not result.hint or when - died > SOON:
                wrong.append((n, repr(result)[:300], when - died))
        assert not wrong, wrong

    with fake(tmp_path if where == "socket" else None, reply) as daemon:
        asyncio.run(main(daemon))


@pytest.fixture
def mortal(tmp_path: Path, monkeypatch) -> Any:
    """The state directory of a daemon for one test, which may kill it."""
    monkeypatch.setenv("COVE_STATE_DIR", str(tmp_path / "s"))
    monkeypatch.setenv("COVE_DATA_DIR", str(tmp_path / "d"))
    yield str(tmp_path / "s")
    remove_all()
    end_daemon(str(tmp_path / "s"))


def forwarded(url: str) -> bytes:
    """Connects to a port and returns what comes until the other end closes."""
    host, port = url.split("://")[1].rstrip("/").split(":")
    with socket.create_connection((host, int(port)), 30) as connection:
        text = b""
        while piece := connection.recv(100):
            text += piece
        return text


@pytest.mark.parametrize("kind", [Sandbox, AsyncSandbox])
def test_streams_end_when_a_daemon_is_killed_and_the_next_finds_the_sandbox(kind, mortal: str):
    async def main() -> None:
        sandbox = await settle(kind(runtime=RUNTIME).start())
        cove = (Cove if kind is Sandbox else AsyncCove)()
        handles = [await settle(sandbox.commands.run("echo up; exec sleep 60", background=True)) for _ in range(4)]
        deaf = await settle(sandbox.commands.run("exec sleep 60", background=True, stdin=True))
        pty = await settle(sandbox.pty.create(cmd=["sleep", "60"]))
        await settle(sandbox.files.make_dir("w"))
        server = "import socket; s = socket.create_server(('', 8000)); c = s.accept(); c[0].sendall(b'up'); s.accept()"
        await settle(sandbox.commands.run(["python3", "-c", server], background=True))
        await settle(sandbox.wait_port(8000))
        url = await settle(sandbox.get_url(8000))
        pieces: list[str] = []
        calls: list[Callable[[], Any]] = [
            lambda: sandbox.commands.run("echo up; exec sleep 60"),
            lambda: sandbox.commands.run("echo up; exec sleep 60", on_stdout=pieces.append),
            lambda: handles[0].wait(),
            lambda: drain(handles[1]),
            lambda: drain(handles[2].stdout.stream()),
            lambda: drain(handles[3].stderr.lines()),
            lambda: deaf.send_stdin(b"x" * 100_000_000),
            lambda: drain(pty.data()),
            lambda: pty.wait(),
            lambda: watch(sandbox.files.watch_dir("w")),
            lambda: drain(sandbox.events()),
            lambda: drain(sandbox.watch_stats(0.1)),
            lambda: drain(sandbox.network_events()),
            lambda: sandbox.wait_port(9, timeout=60),
            lambda: drain(cove.events()),
            lambda: cove.run("echo up; exec sleep 60", runtime=RUNTIME),
            lambda: asyncio.to_thread(forwarded, url),
        ]
        ended: dict[int, tuple[object, float]] = {}

        async def attempt(n: int) -> None:
            try:
                result = await asyncio.to_thread(calls[n]) if kind is Sandbox else calls[n]()
                if hasattr(result, "__await__"):
                    result = (
                        await result if kind is AsyncSandbox else await asyncio.to_thread(asyncio.run, whole(result))
                    )
            except BaseException as error:
                result = error
            ended[n] = (result, time.monotonic())

        async def whole(awaitable: Any) -> Any:
            return await awaitable

        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(50))
        tasks = [asyncio.create_task(attempt(n)) for n in range(len(calls))]
        # A handle by which nothing waits tells when all commands run.
        with Cove() as other:
            while len(other.list(state="running")) < 2 or len(other.connect(sandbox.id).commands.list()) < 9:
                await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)
        assert ended == {}
        died = time.monotonic()
        await asyncio.to_thread(end_daemon, mortal, signal.SIGKILL)
        await asyncio.wait(tasks, timeout=20)
        assert ended.pop(len(calls) - 1, ("it hangs", died))[0] == b"up"
        late = [(n, repr(ended.get(n))[:300]) for n in range(len(calls) - 1) if n not in ended]
        wrong = [
            (n, repr(result)[:300], when - died)
            for n, (result, when) in ended.items()
            if not isinstance(result, UnavailableError) or when - died > SOON
        ]
        assert not late and not wrong, (late, wrong)
        # The next call starts a daemon again, which finds the sandbox.
        assert (await settle(sandbox.commands.run("echo back"))).stdout == "back\n"
        await settle(sandbox.kill())
        await settle(cove.close())

    asyncio.run(main())


def test_runs_end_when_the_daemon_does(tmp_path: Path):
    files = {"a": b"x" * 3_000_000}

    async def several() -> None:
        with fake(tmp_path, lambda *_: None) as daemon:
            requests = [{"commands": "x"}, {"commands": "x", "files": files}]
            tasks = [
                asyncio.create_task(asyncio.to_thread(run, "x", files, url=daemon.url)),
                asyncio.create_task(asyncio.to_thread(run_parallel, requests, url=daemon.url)),
                asyncio.create_task(async_run("x", files, url=daemon.url)),
                asyncio.create_task(async_run_parallel(requests, url=daemon.url)),
            ]
            await asyncio.to_thread(daemon.hung, 6)
            died = time.monotonic()
            daemon.die()
            one, two, three, four = await asyncio.gather(*tasks, return_exceptions=True)
            assert time.monotonic() - died < SOON
            for error in (one, three, *two, *four):
                assert isinstance(error, UnavailableError), error

    asyncio.run(several())


def test_100_threads_use_one_sandbox_and_100():
    # A hundred containers of an engine say nothing more about threads.
    each = None if RUNTIME.startswith("docker") else RUNTIME
    errors: list[BaseException] = []
    barrier = threading.Barrier(100)

    def work(n: int, shared: Sandbox | None) -> None:
        try:
            barrier.wait(60)
            sandbox = shared or Sandbox(runtime=each)
            try:
                sandbox.files.write(f"/tmp/t/{n}", str(n))
                pieces: list[str] = []
                assert sandbox.commands.run(["cat", f"/tmp/t/{n}"], on_stdout=pieces.append).stdout == str(n)
                assert "".join(pieces) == str(n) == sandbox.files.read(f"/tmp/t/{n}")
                assert len(sandbox.files.list("/tmp/t")) == 1 or shared is not None
            finally:
                if shared is None:
                    sandbox.close()
        except BaseException as error:
            errors.append(error)

    with Sandbox(runtime=RUNTIME) as box:
        for shared in (box, None):
            threads = [threading.Thread(target=work, args=(n, shared)) for n in range(100)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(240)
            assert not any(thread.is_alive() for thread in threads) and not errors, errors[:3]


def test_a_stream_that_another_event_loop_began_is_an_error_and_no_hang():
    """Streams belong to their loop: another would wait for what only theirs can read."""
    sandbox = AsyncSandbox(runtime=RUNTIME)

    async def begin() -> Any:
        await sandbox.start()
        handle = await sandbox.commands.run("while :; do echo x; sleep 0.1; done", background=True)
        stream = handle.stdout.stream()
        assert "x" in await stream.__anext__()
        watching = await sandbox.files.watch_dir(".")
        return stream, watching, handle

    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
    try:
        stream, watching, handle = first.run_until_complete(begin())
        for piece in (stream.__anext__(), watching.__aiter__().__anext__()):
            with pytest.raises(InvalidError, match="another event loop"):
                second.run_until_complete(asyncio.wait_for(piece, 10))

        async def use() -> None:
            assert (await sandbox.commands.run("echo here")).stdout == "here\n"
            assert await handle.kill()

        second.run_until_complete(asyncio.wait_for(use(), 60))
        first.run_until_complete(asyncio.wait_for(watching.stop(), 60))
        first.run_until_complete(asyncio.wait_for(sandbox.kill(), 60))
    finally:
        for loop in (first, second):
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()


def test_loops_that_are_over_leave_no_connections():
    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))

    cove = AsyncCove()
    asyncio.run(cove.version())
    before = open_files()
    for _ in range(20):
        asyncio.run(cove.version())
    assert open_files() <= before + 3


FORKS = """
import asyncio, multiprocessing, os, sys
from cove import AsyncSandbox, Sandbox, run, run_parallel

def child():
    own = Sandbox(runtime={runtime!r}).start()
    print(own.exec(["echo", "own"]).stdout + parent.exec(["echo", "parent's"]).stdout, end="")
    print(run("echo run", runtime={runtime!r}).results[0].stdout, end="")
    print(run_parallel([dict(commands="echo parallel", runtime={runtime!r})])[0].results[0].stdout, end="")

    async def main():
        async with AsyncSandbox(runtime={runtime!r}) as other:
            return (await other.exec(["echo", "async"])).stdout

    print(asyncio.run(main()) + own.id, flush=True)

parent = Sandbox(runtime={runtime!r}).start()
parent.commands.run("true")
following = iter(parent.events())  # a stream that is open meanwhile
{fork}
assert parent.commands.run("echo here").stdout == "here\\n" and parent.is_running()
print(parent.id, *[s.id for s in Sandbox.list(state="running")], flush=True)
"""
BY_OS = """
pid = os.fork()
if pid == 0:
    child()
    sys.exit(0)
assert os.waitpid(pid, 0)[1] == 0
"""
BY_MULTIPROCESSING = """
process = multiprocessing.get_context("fork").Process(target=child)
process.start()
process.join()
assert process.exitcode == 0
"""


@pytest.mark.parametrize("fork", [BY_OS, BY_MULTIPROCESSING], ids=["os.fork", "multiprocessing"])
def test_a_forked_interpreter_uses_the_module_and_leaves_its_parents_sandboxes(fork: str):
    program = [sys.executable, "-c", FORKS.format(runtime=RUNTIME, fork=fork)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    *said, own, ids = done.stdout.splitlines()
    assert said == ["own", "parent's", "run", "parallel", "async"]
    parent, *running = ids.split()
    # The child's ended with it, and the parent's with neither it nor before its parent.
    assert parent in running and own not in running
    assert parent not in [s.id for s in Sandbox.list(state="running")]
