"""What the notes for users of E2B and of docker-py say in place of each call, row by row."""

from __future__ import annotations

import os
import re
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import RUNTIME
from notes import check, rows

import cove
from cove import Sandbox

ENGINE = RUNTIME.startswith("docker")

#: In these, s is a sandbox of python:3.12 that all share, and http a client of the daemon's API.
E2B = {
    "`E2B_API_KEY`, `E2B_DOMAIN`; `api_key=`, `domain=`": """
        url = f"unix://{os.environ['COVE_STATE_DIR']}/cove.sock"
        assert s.id in [i.id for i in Sandbox.list(url=url, api_key="unused")]""",
    '`Sandbox.create("my-template")`': """
        with Sandbox.create(template="python:3.12") as one:
            assert one.exec(["python", "-c", "print(1)"]).stdout == "1\\n" """,
    "`timeout=` in seconds, default 300": """
        with Sandbox.create(timeout=60, keep=True) as one:
            assert 0 < one.info.expires_at.timestamp() - time.time() <= 60
        one = Sandbox.connect(one.id); one.kill()""",
    "`envs`, `metadata`": """
        with Sandbox.create(envs={"A": "1"}, metadata={"job": "7"}) as one:
            assert one.commands.run("echo $A").stdout == "1\\n" and one.get_info().metadata == {"job": "7"}""",
    "`allow_internet_access=False`": "assert s.get_network().network['mode'] == 'none'",
    "`allow_internet_access=True`, the default": """
        with Sandbox.create(network=True) as one: assert one.get_network().network["mode"] == "open" """,
    '`network={"allow_out": [...], "deny_out": [ALL_TRAFFIC]}`': """
        with Sandbox.create(network=["api.example.org"]) as one:
            assert one.get_network().network["allow"] == ["api.example.org"]""",
    '`network={"deny_out": [...]}`': """
        with Sandbox.create(network=Network(mode="open", deny=["example.org"])) as one:
            assert one.get_network().network["deny"] == ["example.org"]""",
    "headers that `rules` of the network add": """
        with Sandbox.create(secrets=[Secret("TOKEN", "s3cret-0123456789", hosts=["api.example.org"])]) as one:
            seen = one.commands.run("echo $TOKEN").stdout.strip()
            assert seen and seen != "s3cret-0123456789" """,
    '`volume_mounts={"/data": "work"}`': """
        with Sandbox.create(mounts=[Mount("/data", "cove-test-e2b", type="volume", remove=True)]) as one:
            one.files.write("/data/x", "1")"""
    if ENGINE
    else "",
    "a sandbox outlives the program": """
        one = Sandbox.create()
        assert one.detach() == one.id
        one.close()
        assert Sandbox.connect(one.id).kill()""",
    "`with Sandbox.create() as s`": "with Sandbox() as one: assert one.is_running()",
    "`Sandbox.connect(id, timeout)`": """
        with Sandbox.create(keep=True) as one:
            left = Sandbox.connect(one.id, timeout=50).get_info().expires_at.timestamp() - time.time()
            more = Sandbox.connect(one.id, timeout=7200).get_info().expires_at.timestamp() - time.time()
            assert 50 < left < more and Sandbox.connect(one.id).kill()""",
    "`Sandbox.list(query=SandboxQuery(metadata=…))` and its pages": """
        assert [i.id for i in Sandbox.list(metadata={"of": "rows"}, state="running")] == [s.id]""",
    "`sandbox.kill()`, `Sandbox.kill(id)`": """
        one, other = Sandbox.create(), Sandbox.create()
        assert one.kill() and Sandbox.kill(other.id) and not one.is_running() and not other.is_running()""",
    "`sandbox_id`, `get_info()`, `is_running()`, `set_timeout(s)`": """
        with Sandbox.create() as one:
            info = one.get_info()
            assert info.id == one.sandbox_id and one.is_running() and info.runtime and info.isolation and info.controls
            one.set_timeout(30)
            assert one.get_info().end_at.timestamp() - time.time() <= 30 and info.started_at and info.metadata == {}""",
    "`get_metrics()`": "assert s.stats().memory > 0 and next(iter(s.watch_stats(0.1))).memory > 0",
    "`update_network(…)`": """
        with Sandbox.create() as one:
            assert one.set_network(["example.org"]).network["allow"] == ["example.org"]""",
    "`get_host(port)`": """
        s.commands.run("python3 -m http.server 8001", background=True, cwd="/opt")
        s.wait_port(8001)
        assert "wheels" in httpx.get(f"http://{s.get_host(8001)}").text == httpx.get(s.get_url(8001)).text""",
    "`commands.run(cmd, background, envs, user, cwd, on_stdout, on_stderr, stdin, timeout)`": """
        told = []
        more = dict(envs={"A": "1"}, user="user", cwd="/tmp", on_stdout=told.append, on_stderr=told.append, stdin="in")
        result = s.commands.run("echo $A $PWD; cat >&2; exit 3", timeout=30, **more)
        assert result.exit_code == 3 and sorted(told) == ["1 /tmp\\n", "in"], told
        assert s.commands.run("sleep 60", timeout=0.2).timed_out""",
    "`stdin=True`": """
        handle = s.commands.run("cat", background=True, stdin=True)
        handle.send_stdin("a"); handle.close_stdin()
        assert handle.wait().stdout == "a" == s.commands.run("cat", stdin="a").stdout""",
    "`commands.list`, `connect(pid)`, `kill(pid)`, `send_stdin(pid, data)`, `close_stdin(pid)`": """
        pid = s.commands.run("echo before; cat", background=True, stdin=True).pid
        s.commands.send_stdin(pid, "data"); s.commands.close_stdin(pid)
        assert s.commands.connect(pid).wait().stdout == "before\\ndata"
        assert pid in [p.pid for p in s.commands.list()]
        assert s.commands.kill(s.commands.run("sleep 60", background=True).pid)""",
    "`handle.pid`, `wait()`, `kill()`, `disconnect()`, `for stdout, stderr, pty in handle`": """
        handle = s.commands.run("echo out; echo err >&2; exit 4", background=True)
        assert {piece for pieces in handle for piece in pieces if piece} == {"out\\n", "err\\n"}
        handle.disconnect()
        assert handle.pid > 0 and handle.wait().exit_code == handle.wait().exit_code == 4""",
    "`result.stdout`, `stderr`, `exit_code`, `error`": """
        result = s.commands.run("echo out; echo err >&2")
        assert (result.stdout, result.stderr, result.exit_code, result.error) == ("out\\n", "err\\n", 0, "")
        assert not result.timed_out and not result.truncated and result.duration > 0""",
    "`files.read(path, format)`, `write`, `write_files`": """
        s.files.write("e2b/a", "1"); s.files.write_files([{"path": "e2b/b", "data": "2"}])
        assert s.files.read("/workspace/e2b/a") == "1" and s.files.read("e2b/b", format="bytes") == b"2" """,
    "`files.list(path, depth)`, `exists`, `get_info`, `make_dir`, `remove`, `rename`": """
        assert s.files.make_dir("e2b-dir/deep")
        s.files.write("e2b-dir/deep/f", "")
        assert [(e.name, e.type) for e in s.files.list("e2b-dir", depth=2)] == [("deep", "directory"), ("f", "file")]
        s.files.rename("e2b-dir/deep/f", "e2b-dir/g")
        assert s.files.exists("e2b-dir/g") and isinstance(s.files.get_info("e2b-dir/g").mode, int)
        s.files.remove("e2b-dir")
        assert not s.files.exists("e2b-dir")""",
    "`files.watch_dir(path)` and `get_new_events()`": """
        s.files.make_dir("/tmp/watched")
        watch = s.files.watch_dir("/tmp/watched")
        s.files.write("/tmp/watched/x", "1")
        assert next(event.name for event in watch if event.type == "create") == "x"
        watch.stop()""",
    "`upload_url(path)`, `download_url(path)`": """
        place = f"/v1/sandboxes/{s.id}/files"
        http.put(place, params={"path": "/tmp/up"}, content=b"by HTTP").raise_for_status()
        assert http.get(place, params={"path": "/tmp/up"}).content == b"by HTTP" """,
    "`pty.create(PtySize(rows, cols))`, `send_stdin`, `resize`, `kill`": """
        pty = s.pty.create(PtySize(rows=30, cols=100))
        s.pty.resize(pty.pid, PtySize(rows=40, cols=90)); s.pty.send_stdin(pty.pid, "stty size; exit\\n")
        shown = []
        pty.wait_pty(shown.append)
        assert b"40 90" in b"".join(shown)
        assert s.pty.kill(s.pty.create(PtySize(rows=30, cols=100)).pid)""",
    "user `user` with sudo": """
        with Sandbox() as one: assert one.commands.run("id -un").stdout == "user\\n"
        """
    + ("" if ENGINE else 'with Sandbox(user="root") as one: assert one.commands.run("id -u").stdout == "0\\n"'),
    "`AsyncSandbox`": """
        async def main():
            async with AsyncSandbox() as one: return (await one.commands.run("echo so")).stdout
        assert asyncio.run(main()) == "so\\n" """,
    # Errors
    "`SandboxException`": """
        with raises(CoveError) as e: s.files.read("/none")
        assert e.value.code == "not_found" and e.value.hint""",
    "`CommandExitException`": """
        with raises(CommandFailed) as e: s.commands.run("echo why >&2; exit 3", check=True)
        assert e.value.result.exit_code == 3 and e.value.result.stderr == "why\\n" """,
    "`TimeoutException` of a command": "assert s.commands.run('sleep 60', timeout=0.2).timed_out",
    "`TimeoutException` of a sandbox that ended": """
        one = Sandbox.create(keep=True); Sandbox.connect(one.id).kill()
        with raises((GoneError, NotFoundError)): one.commands.run("true")""",
    "`NotFoundException`, and its kinds": "with raises(NotFoundError): Sandbox.connect('none-such')",
    "`InvalidArgumentException`": """
        with raises(InvalidError): s.commands.run("true", timeout=-1)
        with raises(TypeError): s.commands.run(3)""",
    "`NotEnoughSpaceException`": """
        with Sandbox(limits=Limits(disk="64m")) as one:
            with raises(NoSpaceError): one.files.write("big", bytes(128 << 20))""",
    # Command line and HTTP
    "`POST /sandboxes`, `POST /v2/sandboxes`": """
        made = http.post("/v1/sandboxes", json={"name": "by-http"})
        assert made.status_code == 201
        assert http.delete("/v1/sandboxes/by-http").is_success""",
    "`GET /v2/sandboxes`, `GET /sandboxes/{id}`, `DELETE /sandboxes/{id}`": """
        assert s.id in [i["id"] for i in http.get("/v1/sandboxes").json()["sandboxes"]]
        assert http.get(f"/v1/sandboxes/{s.id}").json()["id"] == s.id
        one = Sandbox.create(keep=True)
        assert http.delete(f"/v1/sandboxes/{one.id}").is_success and not one.is_running()""",
    "`POST /sandboxes/{id}/timeout`": """
        with Sandbox.create() as one: assert http.patch(f"/v1/sandboxes/{one.id}", json={"ttl": 60}).is_success""",
    "`PUT /sandboxes/{id}/network`": """
        with Sandbox.create() as one:
            assert http.patch(f"/v1/sandboxes/{one.id}/network", json={"mode": "allow", "allow": ["pip"]}).is_success""",
    "`GET /sandboxes/{id}/metrics`": "assert http.get(f'/v1/sandboxes/{s.id}/stats').json()['memory'] > 0",
    "`process.Process/Start` of envd, by Connect": """
        place = f"/v1/sandboxes/{s.id}"
        assert http.post(f"{place}/exec", json={"command": "echo so"}).json()["stdout"] == "so\\n"
        pid = http.post(f"{place}/processes", json={"command": "echo so"}).json()["pid"]
        assert b"so" in http.get(f"{place}/processes/{pid}/output", params={"stream": "stdout", "follow": "true"}).content""",
    "`GET`, `POST /files` of envd": """
        place = f"/v1/sandboxes/{s.id}/files"
        assert http.put(place, params={"path": "/tmp/envd"}, content=b"1").is_success
        assert http.get(place, params={"path": "/tmp/envd"}).content == b"1" """,
    # Not there
    "`pause`, resume, `create_snapshot`, `fork`; `lifecycle` with `on_timeout: pause`": """
        s.files.write("state/f", "kept"); s.files.download("state", "here")
        with Sandbox() as next_one:
            next_one.files.upload("here", "state")
            assert next_one.files.read("state/f") == "kept" """,
    "`run_code` and contexts of `e2b-code-interpreter`: state between calls, charts, results of many kinds": """
        assert s.exec(["python3", "-c", "print(1)"]).stdout == "1\\n"
        python = s.commands.run("python3 -i -q 2>/dev/null", background=True, stdin=True)
        python.send_stdin("x = 6\\n"); python.send_stdin("print(x * 7)\\nexit()\\n")
        assert "42" in python.wait(timeout=30).stdout""",
    "`Template()`, `Template.build`, start and ready commands": """
        s.commands.run("python3 -m http.server 8002", background=True); s.wait_port(8002)""",
    "desktop, teams, webhooks, `/logs` of a sandbox": "assert next(iter(s.events(after=0))).sandbox.id == s.id",
}

UNTRIED_E2B = {
    "`sandbox.git`": "git is the image's",
    "`AuthenticationException`": "test_elsewhere has it, with keys",
    "`RateLimitException`": "the daemon's own tests have it",
    "`e2b sandbox create`, `connect ID`, `list`, `kill ID`": "test_migrate_docker has these commands",
    "`X-API-Key`": "test_elsewhere has it, with keys",
    "languages of the code interpreter": "what the image has",
    "`mcp=` and its gateway, MCP servers inside": "cove mcp has tests of its own",
    "`egressProxy` of a sandbox": "the daemon's own tests have it",
}

DOCKER_PY = {
    "`docker.from_env()`": "assert Cove().version().api == 'v1'",
    "`client.containers.run(image, command, remove=True)`": """
        with Sandbox(image="python:3.12") as one: assert one.exec(["echo", "so"], check=True).stdout_bytes == b"so\\n" """,
    '`client.containers.run(image, detach=True, name="web")`': """
        one = Sandbox.create(image="python:3.12", name="web-py", keep=True)
        one.close()
        assert Sandbox.connect("web-py").kill()""",
    "`mem_limit`, `nano_cpus`, `pids_limit`, `shm_size`": """
        with Sandbox(limits=Limits(memory="256m", cpu=0.5, pids=512, shm="64m")) as one:
            assert one.stats().memory_limit == 256 << 20""",
    "`network_disabled=True`; the network otherwise": """
        with Sandbox(network=["pip"]) as one: assert one.get_network().network["allow"] == ["pip"]""",
    "`environment`, `working_dir`, `user`, `labels`, `extra_hosts`, `read_only`": """
        with Sandbox(env={"A": "1"}, workdir="/tmp", user="user", labels={"a": "b"}, hosts={"db": "10.0.0.5"},
                     read_only=True) as one:
            assert one.commands.run("echo $A $PWD; grep -c db /etc/hosts").stdout == "1 /tmp\\n1\\n" """,
    '`volumes={"/srv/data": {"bind": "/data", "mode": "ro"}}`': """
        with raises(ForbiddenError, match="policy"):
            Sandbox(mounts=[Mount("/data", "/srv", read_only=True)]).start()""",
    '`ports={"80/tcp": 8080}`': """
        import socket
        with socket.create_server(("127.0.0.1", 0)) as probe: port = probe.getsockname()[1]
        with Sandbox(ports={8000: port}) as one:
            one.commands.run("python3 -m http.server 8000", background=True, cwd="/usr"); one.wait_port(8000)
            assert "bin" in httpx.get(f"http://127.0.0.1:{port}").text""",
    "`container.exec_run(cmd, environment=, workdir=, user=, demux=True)`": """
        result = s.commands.run("echo $A $PWD; echo err >&2", env={"A": "1"}, workdir="/tmp", user="user")
        assert (result.stdout, result.stderr) == ("1 /tmp\\n", "err\\n")""",
    "`container.exec_run(cmd, stream=True)`": """
        told = []
        s.commands.run("echo so", on_stdout=told.append)
        assert told == ["so\\n"] == [o.stdout for o in s.commands.run("echo so", background=True)]""",
    "`container.exec_run(cmd, detach=True)`": """
        handle = s.commands.run("cat", background=True, stdin=True)
        handle.send_stdin("x", close=True)
        assert handle.wait().stdout == "x" """,
    "`container.put_archive`, `get_archive`": """
        Path("up").mkdir(); Path("up/f").write_text("1")
        s.files.upload("up", "/tmp/py-up"); s.files.download("/tmp/py-up", "down")
        assert Path("down/f").read_text() == s.files.read("/tmp/py-up/f") == "1" """,
    "`container.logs()`": """
        pid = s.commands.run("echo logged", background=True).pid
        s.commands.connect(pid).wait()
        assert s.commands.connect(pid).stdout.read() == "logged\\n" """,
    "`container.stats(stream=False)`, `top()`": "assert s.stats().memory > 0 and isinstance(s.commands.list(), list)",
    "`client.containers.get(id)`, `list(filters=…)`": """
        assert Sandbox.connect(s.id).id == s.id == Sandbox.list(labels={"of": "rows"})[0].id""",
    "`container.remove(force=True)`": "one = Sandbox.create(); assert one.kill()",
    "`ContainerError`, `NotFound`, `ImageNotFound`, `APIError`": """
        with raises(CommandFailed): s.exec(["false"], check=True)
        with raises(NotFoundError): Sandbox.connect("none-such")""",
}


@pytest.fixture(scope="module")
def names(images: None) -> Iterator[dict[str, object]]:
    """What the calls are about."""
    import asyncio

    import httpx

    socket = os.path.join(os.environ["COVE_STATE_DIR"], "cove.sock")
    with (
        Sandbox(image="python:3.12", labels={"of": "rows"}) as s,
        httpx.Client(transport=httpx.HTTPTransport(uds=socket), base_url="http://cove", timeout=60) as http,
    ):
        yield {
            **{name: getattr(cove, name) for name in cove.__all__},
            **{"s": s, "http": http, "httpx": httpx, "raises": pytest.raises},
            **{"os": os, "time": time, "asyncio": asyncio, "Path": Path},
        }


@pytest.mark.parametrize("old", [*E2B, *DOCKER_PY])
def test_what_takes_a_calls_place(names: dict[str, object], old: str, tmp_path: Path, monkeypatch):
    text = {**E2B, **DOCKER_PY}[old]
    if not text:
        pytest.skip(f"it is not for {RUNTIME}")
    monkeypatch.chdir(tmp_path)
    exec(compile(textwrap.dedent(text), re.sub(r"\W+", "-", old), "exec"), dict(names))


def test_every_row_is_tried():
    check(rows("docker", "docker-py"), DOCKER_PY, {})
    check(rows("e2b", "Python", "Errors", "Command line and HTTP", "Not there"), E2B, UNTRIED_E2B)
