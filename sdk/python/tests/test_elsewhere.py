"""A daemon that is reached over the network, with keys."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from conftest import RUNTIME, end_daemon

from cove import Cove, ForbiddenError, NotFoundError, Sandbox, UnauthenticatedError, async_run, run_parallel
from cove import run as run_once
from cove._daemon import program


def run(*arguments: str) -> str:
    return subprocess.run([program(), *arguments], check=True, capture_output=True, text=True, timeout=60).stdout


@pytest.fixture(scope="module")
def door(daemon: str, tmp_path_factory) -> Iterator[str]:
    """The address of a daemon with a listener, for which COVE_STATE_DIR is set."""
    directory = tmp_path_factory.mktemp("door")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    patch = pytest.MonkeyPatch()
    patch.setenv("COVE_STATE_DIR", str(directory / "s"))
    patch.setenv("COVE_DATA_DIR", str(directory / "d"))
    with open(directory / "log", "wb") as log:
        serving = subprocess.Popen(
            [program(), "serve", "--listen", f"127.0.0.1:{port}"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=os.environ,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and serving.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.05)
        yield url
    finally:
        end_daemon(str(directory / "s"))
        serving.wait(30)
        patch.undo()


def test_the_same_code_uses_a_daemon_elsewhere(door: str, monkeypatch, tmp_path):
    key = run("key", "create", "mine").strip().split()[-1]
    other = run("key", "create", "other").strip().split()[-1]
    monkeypatch.setenv("COVE_URL", door)
    monkeypatch.setenv("COVE_API_KEY", key)
    with Sandbox(runtime=RUNTIME) as sandbox:
        sandbox.files.write("main.py", "print('ü' * 3)")
        result = sandbox.commands.run("python3 main.py; echo err >&2; exit 2", stdin="x")
        assert (result.stdout, result.stderr, result.exit_code) == ("üüü\n", "err\n", 2)
        assert sandbox.commands.run("seq 100000", max_output=1000).truncated
        assert sandbox.tools.shell("python3 main.py").data["stdout"] == "üüü\n"
        pieces: list[str] = []
        assert sandbox.commands.run("echo a", on_stdout=pieces.append).success and pieces == ["a\n"]
        (tmp_path / "up").mkdir()
        (tmp_path / "up" / "f").write_bytes(b"x" * 400_000)
        sandbox.files.upload(tmp_path / "up", "there")
        sandbox.files.download("there", tmp_path / "down")
        assert (tmp_path / "down" / "f").stat().st_size == 400_000
        sandbox.commands.run("python3 -m http.server 8000", background=True, cwd="there")
        sandbox.wait_port(8000)
        url = sandbox.get_url(8000)
        assert url.startswith(door)
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(url, timeout=20)
        asked = urllib.request.Request(url + "f", headers={"X-API-Key": key})
        with urllib.request.urlopen(asked, timeout=20) as reply:
            assert len(reply.read()) == 400_000
        with pytest.raises(NotFoundError):
            Sandbox.connect(sandbox.id, api_key=other)
        assert not Sandbox.kill(sandbox.id, api_key=other) and sandbox.is_running()
    result = run_once(["cat x", "echo y > x"], {"x": "x" * 400_000}, runtime=RUNTIME)
    assert len(result.results[0].stdout) == 400_000 and result.files == {"x": b"y\n"}
    runs = run_parallel([{"commands": "true", "runtime": RUNTIME}] * 2 + [{"commands": "true", "user": "no-such-user"}])
    assert [getattr(r, "success", False) for r in runs] == [True, True, False]
    assert [s.id for s in Sandbox.list() if s.state != "stopped"] == []


def test_a_wrong_key_is_told_from_a_missing_right(door: str):
    for key in (None, "wrong", "cove_aaaaaaaa_" + "x" * 43):
        with pytest.raises(UnauthenticatedError) as error:
            Sandbox.list(url=door, api_key=key)
        assert error.value.hint
    # Also where the daemon says so before it has read everything.
    big = {"x": b"x" * 20_000_000}
    with pytest.raises(UnauthenticatedError):
        run_once("true", big, url=door, api_key="wrong")
    with pytest.raises(UnauthenticatedError):
        asyncio.run(async_run("true", big, url=door, api_key="wrong"))
    reader = run("key", "create", "reader", "--scope", "read").strip().split()[-1]
    with Cove(door, reader) as cove:
        assert cove.list() == []
        with pytest.raises(ForbiddenError):
            cove.sandbox(runtime=RUNTIME).start()
        assert reader not in repr(cove)
