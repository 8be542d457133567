"""How sandboxes begin and end, however the process that made them does."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import urllib.request
from datetime import timedelta

import pytest
from conftest import RUNTIME, end_daemon, eventually

from cove import (
    AsyncCove,
    AsyncSandbox,
    ConflictError,
    Cove,
    GoneError,
    InvalidError,
    Limits,
    Network,
    NotFoundError,
    Sandbox,
    UnavailableError,
)


def ids() -> list[str]:
    """The ids of all living sandboxes; one that expired is told of for a while."""
    return [s.id for s in Sandbox.list() if s.state != "stopped"]


def script(text: str, *options: str) -> subprocess.Popen[str]:
    """Runs a program of its own that makes a sandbox ``s`` and prints its id."""
    head = f"from cove import Sandbox\ns = Sandbox(runtime={RUNTIME!r}).start()\nprint(s.id, flush=True)\n"
    return subprocess.Popen(
        [sys.executable, *options, "-c", head + textwrap.dedent(text)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_sandbox_ends_with_its_block_also_by_an_exception():
    with pytest.raises(KeyError), Sandbox(runtime=RUNTIME) as sandbox:
        assert sandbox.id in ids()
        raise KeyError
    assert sandbox.id not in ids()
    for use in (lambda: sandbox.commands.run("true"), lambda: sandbox.files.read("x"), sandbox.start, sandbox.stats):
        with pytest.raises(GoneError, match="closed"):
            use()
    assert not sandbox.kill() and not sandbox.is_running()
    sandbox.close()


def test_it_is_made_by_its_first_use_or_at_once():
    sandbox = Sandbox(runtime=RUNTIME, metadata={"a": "b"}, envs={"X": "1"}, timeout=600)
    with pytest.raises(InvalidError, match="not started"):
        print(sandbox.id)
    assert sandbox.commands.run("echo $X").stdout == "1\n"
    assert [s.id for s in Sandbox.list(metadata={"a": "b"}, state="running")] == [sandbox.sandbox_id]
    again = Sandbox.connect(sandbox.sandbox_id)
    assert again.get_info().metadata == {"a": "b"}
    again.close()  # a handle of somebody else's
    assert sandbox.is_running()
    assert again.kill() is False and Sandbox.connect(sandbox.id).kill() is True
    assert not sandbox.is_running()
    with pytest.raises((NotFoundError, GoneError)):
        sandbox.commands.run("true")
    sandbox.close()
    with pytest.raises(NotFoundError):
        Sandbox.connect("no-such-sandbox")


def test_lifetimes():
    with Sandbox.create(runtime=RUNTIME, ttl=3600) as sandbox:
        # What this process owns has a lease that is shorter than its life.
        left = sandbox.get_info().expires_at.timestamp() - time.time()
        assert 60 < left <= 121
        sandbox.set_timeout(30)
        assert sandbox.get_info().end_at.timestamp() - time.time() <= 31
        sandbox.set_timeout(timedelta(hours=3))
        assert sandbox.detach() == sandbox.id
        assert sandbox.get_info().expires_at.timestamp() - time.time() > 10000
        sandbox.set_timeout(0)
        assert sandbox.get_info().expires_at is None
        sandbox.close()
        assert sandbox.id in ids()
        assert Sandbox.connect(sandbox.id).kill()


def test_connecting_extends_a_life_and_never_shortens_it():
    def left(sandbox: Sandbox) -> float:
        return sandbox.get_info().expires_at.timestamp() - time.time()

    with Sandbox(runtime=RUNTIME, ttl=1000, keep=True) as sandbox:
        for timeout in (None, 500, timedelta(seconds=500), "8m20s", "500s"):
            assert 900 < left(Sandbox.connect(sandbox.id, timeout)) <= 1000
        assert 1900 < left(Sandbox.connect(sandbox.id, timeout=2000)) <= 2000
        assert 7100 < left(Sandbox.connect(sandbox.id, timeout="2h")) <= 7200
        with Cove() as cove:
            assert 7900 < left(cove.connect(sandbox.id, 8000)) <= 8000
        assert Sandbox.connect(sandbox.id, timeout=0).get_info().expires_at is None
        assert Sandbox.connect(sandbox.id, timeout=500).get_info().expires_at is None
        for bad in ([], True):
            with pytest.raises(TypeError):
                Sandbox.connect(sandbox.id, bad)
        sandbox.kill()
    with Sandbox(runtime=RUNTIME) as owned:  # for an hour, by a lease that is shorter
        lease = owned.get_info().expires_at
        Sandbox.connect(owned.id, timeout=600).close()
        assert owned.get_info().expires_at == lease
        Sandbox.connect(owned.id, timeout=7200)
        assert owned.detach() and left(owned) > 7000
        assert Sandbox.kill(owned.id)


def test_kill_is_a_method_of_a_sandbox_and_of_the_class():
    with Sandbox(runtime=RUNTIME, name="victim") as sandbox:
        assert Sandbox.kill("victim") is True and not sandbox.is_running()
        assert Sandbox.kill(sandbox.id) is False and Sandbox.kill("no-such-sandbox") is False
    with Cove() as cove, cove.sandbox(runtime=RUNTIME) as sandbox:
        assert cove.kill(sandbox.id) is True and cove.kill(sandbox.id) is False
    for bad in (None, 3, b"id"):
        with pytest.raises(TypeError):
            Sandbox.kill(bad)

    async def main() -> None:
        async with AsyncSandbox(runtime=RUNTIME) as sandbox, AsyncSandbox(runtime=RUNTIME) as other:
            assert await AsyncSandbox.kill(sandbox.id) is True
            assert await other.kill() is True and await other.kill() is False

    asyncio.run(main())


def test_a_name_is_taken_or_reused():
    with Sandbox(runtime=RUNTIME, name="one", keep=True) as first:
        with Sandbox(runtime=RUNTIME, name="one", keep=True, reuse=True) as second:
            assert second.id == first.id
        with pytest.raises(ConflictError):
            Sandbox(runtime=RUNTIME, name="one").start()
        assert first.is_running()
    assert Sandbox.connect("one").kill()


@pytest.mark.parametrize(
    ("ending", "code"),
    [("", 0), ("raise SystemExit(3)", 3), ("1 / 0", 1), ("import os, signal; os.kill(os.getpid(), signal.SIGINT)", -2)],
    ids=["its end", "exit", "an exception", "Ctrl-C"],
)
def test_an_interpreter_that_ends_leaves_nothing(ending: str, code: int):
    process = script(ending)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert len(out.strip()) > 10 and out.strip() not in ids()


def test_what_has_no_lease_goes_with_an_interpreter_that_ends_as_well():
    more = f"t = Sandbox({RUNTIME!r}, ttl='2h').start(); k = Sandbox({RUNTIME!r}, keep=True).start(); print(t.id, k.id)"
    out, err = script(more).communicate(timeout=60)
    one, two, kept = out.split()
    assert not {one, two} & set(ids()), err
    assert Sandbox.connect(kept).kill()


def test_a_task_that_is_cancelled_while_it_makes_a_sandbox_leaves_none():
    before = set(ids())

    async def main() -> None:
        async def make() -> None:
            async with AsyncSandbox(runtime=RUNTIME):
                raise AssertionError("entered")

        task = asyncio.create_task(make())
        await asyncio.sleep(0.05)  # the request is sent, or about to be
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert set(ids()) == before


def test_an_interpreter_that_is_killed_leaves_nothing_for_long():
    short = "import cove._lease as lease; lease.LEASE = 3.0\n"
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            short + f"from cove import Sandbox\nprint(Sandbox(runtime={RUNTIME!r}).start().id, flush=True)\ninput()",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    id = process.stdout.readline().strip()
    time.sleep(4.5)  # longer than the lease, which is renewed
    assert id in ids()
    process.send_signal(signal.SIGKILL)
    process.wait()
    eventually(lambda: id not in ids(), 15)


def test_a_forked_child_leaves_its_parents_sandbox_and_connections_alone():
    with Sandbox(runtime=RUNTIME) as sandbox:
        sandbox.commands.run("true")

        def child(queue) -> None:
            result = sandbox.commands.run("echo child")
            sandbox.close()
            queue.put(result.stdout)

        context = multiprocessing.get_context("fork")
        queue = context.Queue()
        children = [context.Process(target=child, args=(queue,)) for _ in range(3)]
        for process in children:
            process.start()
        for _ in range(20):
            assert sandbox.commands.run("echo parent").stdout == "parent\n"
        assert [queue.get(timeout=60) for _ in children] == ["child\n"] * 3
        for process in children:
            process.join(60)
            assert process.exitcode == 0
        assert sandbox.is_running()


def test_a_forked_child_that_ends_in_order_kills_nothing():
    process = script(
        "import os\npid = os.fork()\nif pid == 0: raise SystemExit(0)\nos.waitpid(pid, 0)\nprint(s.is_running())"
    )
    out, err = process.communicate(timeout=60)
    assert out.split()[1:] == ["True"], err


def test_two_event_loops_use_one_sandbox_each_with_its_own_connections():
    sandbox = AsyncSandbox(runtime=RUNTIME)

    async def use(text: str) -> str:
        return (await sandbox.exec(["echo", text])).stdout

    assert asyncio.run(use("one")) == "one\n"
    assert asyncio.run(use("two")) == "two\n"
    results: list[str] = []
    threads = [threading.Thread(target=lambda n=n: results.append(asyncio.run(use(str(n))))) for n in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(results) == [f"{n}\n" for n in range(5)]
    asyncio.run(sandbox.kill())
    # Without a loop it says so, and does not hang.
    with pytest.raises(InvalidError, match="event loop"):
        AsyncSandbox(runtime=RUNTIME).kill().send(None)


def test_a_cancelled_task_ends_its_command_and_not_the_sandbox():
    async def main() -> None:
        async with AsyncSandbox(runtime=RUNTIME) as sandbox:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(sandbox.commands.run("exec sleep 63"), 0.5)
            for _ in range(100):
                if (await sandbox.commands.run("pgrep -f 'sleep 6[3]'")).exit_code:
                    return
            raise AssertionError("the command goes on")

    asyncio.run(main())


def test_many_processes_that_find_no_daemon_start_one(tmp_path):
    environment = {**os.environ, "COVE_STATE_DIR": str(tmp_path / "s"), "COVE_DATA_DIR": str(tmp_path / "d")}
    command = [sys.executable, "-c", "from cove import Sandbox; print(len(Sandbox.list()))"]
    try:
        processes = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(4)]
        assert [p.communicate(timeout=60)[0] for p in processes] == ["0\n"] * 4
    finally:
        end_daemon(str(tmp_path / "s"))


def test_a_directory_that_others_can_write_to_is_not_trusted(tmp_path, monkeypatch):
    from cove import ForbiddenError

    (tmp_path / "s").mkdir()
    (tmp_path / "s").chmod(0o777)
    monkeypatch.setenv("COVE_STATE_DIR", str(tmp_path / "s"))
    with pytest.raises(ForbiddenError, match="only you"):
        Sandbox.list()
    assert list((tmp_path / "s").iterdir()) == []  # nothing was started there


def test_no_daemon_is_an_error_that_says_where(tmp_path, monkeypatch):
    for url in (f"unix://{tmp_path}/none.sock", "http://127.0.0.1:9"):
        with pytest.raises(UnavailableError, match="did not answer") as error:
            Sandbox.list(url=url)
        assert "cove serve" in error.value.hint
    monkeypatch.setenv("COVE_STATE_DIR", str(tmp_path / "s"))
    monkeypatch.setenv("COVE_BIN", "/no/such/program")
    with pytest.raises(UnavailableError, match="can't be run"):
        Sandbox.list()


def test_the_address_can_be_given(daemon: str, monkeypatch):
    url = f"unix://{daemon}/cove.sock"
    monkeypatch.setenv("COVE_STATE_DIR", "/nowhere")
    with Sandbox(runtime=RUNTIME, url=url) as sandbox:
        monkeypatch.setenv("COVE_URL", url)
        assert sandbox.id in ids()
        with Cove() as cove:
            assert cove.version().api == "v1"
            assert RUNTIME in [r.name for r in cove.runtimes() if r.available]
            assert cove.connect(sandbox.id).commands.run("echo x").stdout == "x\n"


def test_limits_stats_network_events_secrets_and_ports():
    limits = Limits(cpu=0.5, memory="256m", pids=100, timeout=60)
    with Cove() as cove, cove.sandbox(runtime=RUNTIME, limits=limits, network=["example.com"]) as sandbox:
        assert sandbox.info.spec["limits"]["memory"] == 256 << 20
        assert sandbox.stats().memory_limit == 256 << 20
        assert next(iter(sandbox.watch_stats(0.1))).memory_limit == 256 << 20
        assert sandbox.get_network().network["allow"] == ["example.com"]
        assert sandbox.set_network(Network(allow=["example.org"])).network["allow"] == ["example.org"]
        assert sandbox.set_network(False).network["mode"] == "none"
        assert isinstance(sandbox.network_log(), list)
        types = [e.type for e in cove.events(0, sandbox=sandbox.id, follow=False)]
        assert types[:2] == ["sandbox.creating", "sandbox.running"]
        assert next(iter(sandbox.events(after=0))).sandbox.id == sandbox.id
        cove.secrets.set("TOKEN", "s3cret-0123456789", hosts=["example.com"])
        assert [s.name for s in cove.secrets.list()] == ["TOKEN"]
        assert "s3cret-0123456789" not in repr(cove.secrets.get("TOKEN"))
        cove.secrets.remove("TOKEN")
        sandbox.files.write("/tmp/www/index.html", "served")
        sandbox.commands.run("python3 -m http.server 8000", background=True, cwd="/tmp/www")
        sandbox.wait_port(8000)
        assert 8000 in [p.port for p in sandbox.ports()]
        with urllib.request.urlopen(sandbox.get_url(8000), timeout=20) as reply:
            assert reply.read() == b"served"
        assert sandbox.get_url(8000) == sandbox.get_url(8000) == f"http://{sandbox.get_host(8000)}/"


def test_async_streams_handles_and_callbacks():
    async def main() -> None:
        async with AsyncCove() as cove, cove.sandbox(runtime=RUNTIME) as sandbox:
            pieces: list[str] = []

            async def more(text: str) -> None:
                await asyncio.sleep(0)
                pieces.append(text)

            assert (await sandbox.commands.run("echo ü", on_stdout=more)).stdout == "ü\n" == "".join(pieces)
            handle = await sandbox.commands.run("echo a; echo b", background=True)
            assert [t async for t in handle.stdout.lines()] == ["a", "b"]
            assert (await handle.wait()).success
            await sandbox.files.write_files({"x/1": "1", "x/2": "2"})
            assert [e.name for e in await sandbox.files.list("x")] == ["1", "2"]
            assert (await sandbox.stats()).memory_limit
            assert [s.id for s in await cove.list()] != []
            async with await sandbox.files.watch_dir("x") as watch:
                await sandbox.files.write("x/3", "3")
                async for event in watch:
                    assert event.name == "3"
                    break

    asyncio.run(main())


def test_async_folders_go_up_and_down(tmp_path):
    (tmp_path / "up" / "d").mkdir(parents=True)
    (tmp_path / "up" / "d" / "f").write_bytes(b"x" * 500_000)

    async def main() -> None:
        async with AsyncSandbox(runtime=RUNTIME) as sandbox:
            await sandbox.files.upload(tmp_path / "up", "there")
            await sandbox.files.download("there", tmp_path / "down")

    asyncio.run(main())
    assert (tmp_path / "down" / "d" / "f").stat().st_size == 500_000
