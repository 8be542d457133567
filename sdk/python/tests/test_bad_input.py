"""Wrong types, closed sandboxes, wrong keys, and daemons that say what nobody knows: the
SDK answers by errors of its own, and what a newer daemon adds does no harm."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake import Answer, answer, events, fake, frame, settle

from cove import (
    AsyncCove,
    AsyncSandbox,
    Cove,
    CoveError,
    ExhaustedError,
    GoneError,
    InvalidError,
    Limits,
    Mount,
    Network,
    PtySize,
    Sandbox,
    Secret,
    UnauthenticatedError,
    UnavailableError,
    run,
    run_parallel,
)

BOX = {"id": "box", "state": "running", "runtime": "moon"}


async def complain(error: type[Exception], call: Callable[..., Any], *arguments: Any) -> str:
    """Returns what is wrong with how a call fails; nothing, when it fails as it should."""
    try:
        got = await settle(call(*arguments))
    except error as caught:
        text = str(caught)
        if not text or "has no" in text or "codec" in text or "object is not" in text:
            return f"a text that helps nobody: {text}"
        if isinstance(caught, CoveError) and (not caught.hint or "secret" in text or "cove_a_b" in text):
            return f"no hint, or a secret: {text}"
        return ""
    except Exception as other:
        return repr(other)
    return f"it returned {got!r}"


def box(method: str, path: str) -> Answer:
    """Answers as a daemon with one sandbox, in which one process is."""
    return answer({"pid": 1} if "/processes" in path else {**BOX, "results": []})


Call = Callable[[Any, Any], Any]

# Of a sandbox and of a process in it.
WRONG: list[Call] = [
    lambda b, _: b.commands.run(3),
    lambda b, _: b.commands.run(b"ls"),
    lambda b, _: b.commands.run(None),
    lambda b, _: b.commands.run({"a": 1}),
    lambda b, _: b.commands.run(["a", 1]),
    lambda b, _: b.commands.run("a", "yes"),
    lambda b, _: b.commands.run("a", env=[1]),
    lambda b, _: b.commands.run("a", env={"A": 1}),
    lambda b, _: b.commands.run("a", envs={1: "A"}),
    lambda b, _: b.commands.run("a", env={}, envs={}),
    lambda b, _: b.commands.run("a", timeout=True),
    lambda b, _: b.commands.run("a", timeout=[1]),
    lambda b, _: b.commands.run("a", cwd=3),
    lambda b, _: b.commands.run("a", user=0),
    lambda b, _: b.commands.run("a", stdin=3),
    lambda b, _: b.commands.run("a", stdin=True),
    lambda b, _: b.commands.run("a", tag="x"),
    lambda b, _: b.commands.run("a", background=True, tag=3),
    lambda b, _: b.commands.run("a", on_stdout=3),
    lambda b, _: b.commands.run("a", on_stderr="x"),
    lambda b, _: b.commands.run("a", check="yes"),
    lambda b, _: b.commands.run("a", max_output=1.5),
    lambda b, _: b.commands.kill("1"),
    lambda b, _: b.commands.connect(True),
    lambda b, _: b.commands.connect(1, on_stdout=3),
    lambda b, _: b.commands.send_stdin(1, None),
    lambda b, _: b.commands.send_stdin(None, "x"),
    lambda b, _: b.commands.close_stdin("1"),
    lambda b, _: b.exec(3),
    lambda _, h: h.wait("x"),
    lambda _, h: h.wait(timeout="1s"),
    lambda _, h: h.wait(max_output="1m"),
    lambda _, h: h.wait(check=1),
    lambda _, h: h.signal(None),
    lambda _, h: h.signal(1.5),
    lambda _, h: h.send_stdin(3),
    lambda _, h: h.send_stdin("x", close="yes"),
    lambda _, h: h.resize(None),
    lambda _, h: h.resize((1, 2)),
    lambda b, _: b.pty.create((24, 80)),
    lambda b, _: b.pty.create(PtySize(rows="24")),
    lambda b, _: b.pty.create(user=3),
    lambda b, _: b.pty.create(cwd=3),
    lambda b, _: b.pty.create(tag=3),
    lambda b, _: b.pty.create(envs=3),
    lambda b, _: b.pty.create(cmd=3),
    lambda b, _: b.pty.connect("1"),
    lambda b, _: b.pty.kill(None),
    lambda b, _: b.pty.resize(1, None),
    lambda b, _: b.pty.send_stdin(1, 3),
    lambda b, _: b.files.read(3),
    lambda b, _: b.files.read(Path("a")),
    lambda b, _: b.files.read("a", "json"),
    lambda b, _: b.files.read("a", user=3),
    lambda b, _: b.files.read_bytes(None),
    lambda b, _: b.files.write("a", 3),
    lambda b, _: b.files.write("a", None),
    lambda b, _: b.files.write("a", ["x"]),
    lambda b, _: b.files.write("a", "x", mode="0644"),
    lambda b, _: b.files.write_files(["a"]),
    lambda b, _: b.files.write_files([("a", "b", "c")]),
    lambda b, _: b.files.write_files([{"path": "a"}]),
    lambda b, _: b.files.write_files({"a": 3}),
    lambda b, _: b.files.write_files(3),
    lambda b, _: b.files.list(3),
    lambda b, _: b.files.list("a", depth="1"),
    lambda b, _: b.files.list("a", depth=None),
    lambda b, _: b.files.exists(3),
    lambda b, _: b.files.get_info(None),
    lambda b, _: b.files.make_dir(3),
    lambda b, _: b.files.remove(["a"]),
    lambda b, _: b.files.rename(3, "a"),
    lambda b, _: b.files.rename("a", 3),
    lambda b, _: b.files.watch_dir(3),
    lambda b, _: b.files.watch_dir("a", recursive="yes"),
    lambda b, _: b.files.upload(3, "a"),
    lambda b, _: b.files.upload(".", 3),
    lambda b, _: b.files.download(3, "."),
    lambda b, _: b.files.download("a", 3),
    lambda b, _: b.get_url("80"),
    lambda b, _: b.get_host(None),
    lambda b, _: b.wait_port("80"),
    lambda b, _: b.wait_port(80, timeout="1s"),
    lambda b, _: b.preview(8.5),
    lambda b, _: b.preview(80, ttl=[]),
    lambda b, _: b.set_timeout(None),
    lambda b, _: b.set_timeout([]),
    lambda b, _: b.set_labels(None),
    lambda b, _: b.set_labels({"a": 1}),
    lambda b, _: b.set_network(None),
    lambda b, _: b.set_network(3),
    lambda b, _: b.set_network([3]),
    lambda b, _: b.network_log(after="x"),
    lambda b, _: b.network_events(after=1.5),
    lambda b, _: b.watch_stats("1s"),
    lambda b, _: b.events(after="x"),
    lambda b, _: type(b)(limits={"cpu": 1}),
    lambda b, _: type(b)(limits=Limits(cpu="1")),
    lambda b, _: type(b)(limits=Limits(memory=1.5)),
    lambda b, _: type(b)(limits=Limits(timeout=[])),
    lambda b, _: type(b)(limits=Limits(network="open")),
    lambda b, _: type(b)(limits=Limits(fs_readonly="yes")),
    lambda b, _: type(b)(runtime=1),
    lambda b, _: type(b)(image=Path("x")),
    lambda b, _: type(b)(image="a", template="a"),
    lambda b, _: type(b)(env="A=1"),
    lambda b, _: type(b)(labels=["a"]),
    lambda b, _: type(b)(network=3),
    lambda b, _: type(b)(network=b"open"),
    lambda b, _: type(b)(network=Network(allow="pypi.org")),
    lambda b, _: type(b)(network=Network(requests=["GET"])),
    lambda b, _: type(b)(network=Network(limits=3)),
    lambda b, _: type(b)(network=Network(mode=3)),
    lambda b, _: type(b)(secrets="TOKEN"),
    lambda b, _: type(b)(secrets=[3]),
    lambda b, _: type(b)(secrets=[Secret("a", value=3)]),
    lambda b, _: type(b)(secrets=[Secret("a", hosts="b")]),
    lambda b, _: type(b)(mounts=3),
    lambda b, _: type(b)(mounts=["/data"]),
    lambda b, _: type(b)(mounts=[Mount(3)]),
    lambda b, _: type(b)(ports="80"),
    lambda b, _: type(b)(ports=80),
    lambda b, _: type(b)(ports=["80"]),
    lambda b, _: type(b)(ports={80: "80"}),
    lambda b, _: type(b)(hosts={"a": 1}),
    lambda b, _: type(b)(ulimits=[1]),
    lambda b, _: type(b)(ulimits={"nofile": "1"}),
    lambda b, _: type(b)(ulimits={"nofile": (1, 2, 3)}),
    lambda b, _: type(b)(read_only="yes"),
    lambda b, _: type(b)(keep=1),
    lambda b, _: type(b)(reuse="x"),
    lambda b, _: type(b)(options=[]),
    lambda b, _: type(b)(ttl=5, timeout=5),
    lambda b, _: type(b)(ttl=object()),
    lambda b, _: type(b)(idle=[]),
    lambda b, _: type(b)(command_timeout=b"1"),
    lambda b, _: type(b)(url=3),
    lambda b, _: type(b)(api_key=b"x"),
    lambda b, _: type(b)(request_timeout="1"),
    lambda b, _: type(b)(verify=3),
    lambda b, _: type(b)(nothing=3),
    lambda b, _: type(b).connect(3),
    lambda b, _: type(b).connect("x", []),
    lambda b, _: type(b).kill(3),
    lambda b, _: type(b).list(labels=3),
    lambda b, _: type(b).list(state=3),
]

SENSELESS: list[Call] = [
    lambda b, _: b.commands.run(""),
    lambda b, _: b.commands.run([]),
    lambda b, _: b.commands.run("a", timeout=-1),
    lambda b, _: b.commands.run("a", timeout=float("nan")),
    lambda _, h: h.wait(timeout=-1),
    lambda b, _: b.get_url(70000),
    lambda b, _: b.wait_port(80, timeout=float("nan")),
    lambda b, _: b.set_timeout(-1),
    lambda b, _: b.watch_stats(-1),
    lambda b, _: type(b)(network="closed"),
    lambda b, _: type(b)(ttl=-1),
    lambda b, _: type(b)(url="ftp://x"),
    lambda b, _: type(b)(url="unix://relative"),
    lambda b, _: type(b)(url="http://user:secret@host"),
    lambda b, _: type(b)(url="http://host:port"),
    lambda b, _: type(b)(api_key="cove_a_b\n"),
    lambda b, _: type(b)(api_key="schlüssel"),
    lambda b, _: type(b)(request_timeout=0),
]


@pytest.mark.parametrize("kind", [Sandbox, AsyncSandbox])
def test_wrong_types_are_refused_before_anything_is_sent(kind, tmp_path):
    async def main() -> None:
        with fake(tmp_path, box) as daemon:
            sandbox = await settle(kind.connect("box", url=daemon.url))
            handle = await settle(sandbox.commands.connect(1))
            asked = list(daemon.asked)
            assert asked == ["GET /v1/sandboxes/box", "GET /v1/sandboxes/box/processes/1"]
            found = []
            for error, calls in ((TypeError, WRONG), (InvalidError, SENSELESS)):
                for call in calls:
                    complaint = await complain(error, call, sandbox, handle)
                    if complaint or daemon.asked != asked:
                        found.append((inspect.getsource(call).strip(), complaint, daemon.asked[len(asked) :]))
                        del daemon.asked[len(asked) :]
            assert not found, "\n".join(map(str, found))
            await settle(sandbox.close())

    asyncio.run(main())


def test_wrong_types_for_a_daemon_are_refused_before_anything_is_sent(tmp_path):
    calls: list[Callable[[Any], Any]] = [
        lambda c: c.list(labels=["a"]),
        lambda c: c.connect(None),
        lambda c: c.kill(3),
        lambda c: c.events(after="x"),
        lambda c: c.events(sandbox=3),
        lambda c: c.events(types="sandbox.running"),
        lambda c: c.events(follow="no"),
        lambda c: c.sandbox(image=3),
        lambda c: c.run(3),
        lambda c: c.run_parallel(3),
        lambda c: c.run_parallel([], "4"),
        lambda c: c.secrets.set(3, "v", ["h"]),
        lambda c: c.secrets.set("a", 3, ["h"]),
        lambda c: c.secrets.set("a", None, ["h"]),
        lambda c: c.secrets.set("a", "v", "h"),
        lambda c: c.secrets.set("a", "v", None),
        lambda c: c.secrets.get(None),
        lambda c: c.secrets.remove(3),
    ]

    async def main() -> None:
        with fake(tmp_path, box) as daemon:
            found = []
            for cove in (Cove(daemon.url), AsyncCove(daemon.url)):
                for call in calls:
                    complaint = await complain(TypeError, call, cove)
                    if complaint:
                        found.append((inspect.getsource(call).strip(), complaint))
                await settle(cove.close())
            assert not found, "\n".join(map(str, found))
            assert daemon.asked == []
            for wrong in ({"url": 3}, {"api_key": 3}, {"request_timeout": "1"}, {"verify": 1}):
                with pytest.raises(TypeError):
                    Cove(**wrong)

    asyncio.run(main())


def test_text_that_is_no_unicode_is_an_error_of_ours(tmp_path):
    lone = "\udc80"
    with fake(tmp_path, box) as daemon:
        sandbox = Sandbox.connect("box", url=daemon.url)
        asked = list(daemon.asked)
        for call in (
            lambda: sandbox.commands.run(lone),
            lambda: sandbox.commands.run("cat", stdin=lone),
            lambda: sandbox.files.write("a", lone),
            lambda: sandbox.files.read(lone),
            lambda: run(lone, url=daemon.url),
            lambda: run("a", {"a": lone}, url=daemon.url),
            lambda: Sandbox.connect(lone, url=daemon.url),
        ):
            with pytest.raises(InvalidError) as error:
                call()
            assert error.value.hint
        assert daemon.asked == asked


USES: list[Call] = [
    lambda b, _: b.start(),
    lambda b, _: b.commands.run("true"),
    lambda b, _: b.commands.run("true", on_stdout=print),
    lambda b, _: b.commands.run("true", background=True),
    lambda b, _: b.commands.list(),
    lambda b, _: b.commands.connect(1),
    lambda b, _: b.commands.kill(1),
    lambda b, _: b.commands.send_stdin(1, "x"),
    lambda b, _: b.exec(["true"]),
    lambda _, h: h.info(),
    lambda _, h: h.poll(),
    lambda _, h: h.wait(),
    lambda _, h: h.kill(),
    lambda _, h: h.signal("TERM"),
    lambda _, h: h.send_stdin("x"),
    lambda _, h: h.close_stdin(),
    lambda _, h: h.resize(PtySize()),
    lambda _, h: h.stdout.read(),
    lambda _, h: h.stdout.stream(),
    lambda _, h: h.stderr.lines(),
    lambda b, _: b.pty.create(),
    lambda b, _: b.pty.connect(1),
    lambda b, _: b.files.read("a"),
    lambda b, _: b.files.read("a", "stream"),
    lambda b, _: b.files.write("a", "x"),
    lambda b, _: b.files.write_files({"a": "x"}),
    lambda b, _: b.files.list("."),
    lambda b, _: b.files.exists("a"),
    lambda b, _: b.files.get_info("a"),
    lambda b, _: b.files.make_dir("a"),
    lambda b, _: b.files.remove("a"),
    lambda b, _: b.files.rename("a", "b"),
    lambda b, _: b.files.watch_dir("a"),
    lambda b, _: b.files.upload(".", "a"),
    lambda b, _: b.files.download("a", "/no/such/dir/a"),
    lambda b, _: b.get_url(80),
    lambda b, _: b.get_host(80),
    lambda b, _: b.ports(),
    lambda b, _: b.wait_port(80),
    lambda b, _: b.preview(80),
    lambda b, _: b.get_info(),
    lambda b, _: b.set_timeout(60),
    lambda b, _: b.set_labels({}),
    lambda b, _: b.get_network(),
    lambda b, _: b.set_network(False),
    lambda b, _: b.network_log(),
    lambda b, _: b.network_events(),
    lambda b, _: b.stats(),
    lambda b, _: b.watch_stats(),
    lambda b, _: b.events(),
    lambda b, _: b.detach(),
]


@pytest.mark.parametrize("kind", [Sandbox, AsyncSandbox])
def test_a_closed_sandbox_says_so_whatever_is_asked_of_it(kind, tmp_path):
    async def main() -> None:
        with fake(tmp_path, box) as daemon:
            sandbox = await settle(kind.connect("box", url=daemon.url))
            handle = await settle(sandbox.commands.connect(1))
            await settle(sandbox.close())
            never = kind(url=daemon.url)
            await settle(never.close())
            asked = list(daemon.asked)
            for closed in (sandbox, never):
                for use in USES:
                    with pytest.raises(GoneError, match="closed"):
                        await settle(use(closed, handle))
                assert not await settle(closed.is_running()) and not await settle(closed.kill())
                await settle(closed.close())
                assert "closed" in repr(closed)
            assert daemon.asked == asked

    asyncio.run(main())


def newer(method: str, path: str) -> Answer:
    """Answers as a daemon of a later time: with fields, kinds, codes and states that are new."""
    new = {"new": {"a": [1]}, "newer": None}
    late = {"code": "quota_of_the_moon", "message": "no", "hint": "wait", **new}
    info = {**BOX, "state": "hibernating", "created_at": "2031-01-01T00:00:00.123456789Z", "spec": {"x": 1}, **new}
    step = {"seq": 1, "type": "sandbox.teleported", "sandbox": info, **new}
    decision = {"seq": 1, "kind": "telepathy", "allowed": True, **new}
    exit = json.dumps({"exit": {"code": 0, **new}, **new}).encode()
    frames = (
        frame(9, b"???") + frame(16, b'{"pid": 7, "new": 1}') + frame(1, b"out") + frame(200, b"") + frame(17, exit)
    )
    sse = {"content_type": "text/event-stream"}
    unknown = ("weather", {"sun": 1})
    change = {"path": "x", "kind": "gilded", "type": "gem", "mode": "shiny", **new}
    replies: dict[str, Answer] = {
        "/v1/version": answer({"version": "9", "api": "v9", **new}),
        "/v1/runtimes": answer({"runtimes": [{"name": "moon", "available": True, **new}], **new}),
        "/v1/sandboxes": answer({"sandboxes": [info], **new}) if method == "GET" else answer(info, 201),
        "/v1/sandboxes/box": answer(info),
        "/v1/sandboxes/box/exec": answer({"exit_code": 0, "stdout": "out", "pid": 7, **new}),
        "/v1/sandboxes/box/processes": answer({"processes": [{"pid": 7, **new}], "pid": 7}),
        "/v1/sandboxes/box/processes/7/output": answer(frames),
        "/v1/sandboxes/box/files/list": answer({"entries": [{"name": "a", "path": "/a", "type": "hologram", **new}]}),
        "/v1/sandboxes/box/files/watch": answer(
            events(("create", {"type": "ring", "name": "a", **new}), unknown), **sse
        ),
        "/v1/sandboxes/box/stats": answer({"memory": None, "qubits": 3, **new}),
        "/v1/sandboxes/box/network/log": answer(events(unknown, ("telepathy", decision)), **sse),
        "/v1/sandboxes/box/files/stat": answer({"error": late}, 418),
        "/v1/sandboxes/box/ports": answer({"error": late}, 429, retry_after="7"),
        "/v1/sandboxes/box/network": answer(b"<html>", 599),
        "/v1/events": answer(events(unknown, (step["type"], step)), **sse),
        "/v1/run": answer({"results": [{"exit_code": 0, "command": "true", **new}], "changes": [change], **new}),
    }
    return replies.get(path, answer({"error": late}, 404))


@pytest.mark.parametrize("kind", [Sandbox, AsyncSandbox])
def test_a_newer_daemon_is_understood(kind, tmp_path):
    async def main() -> None:
        with fake(tmp_path, newer) as daemon:
            cove = (Cove if kind is Sandbox else AsyncCove)(daemon.url)
            assert (await settle(cove.version())).api == "v9"
            assert (await settle(cove.runtimes()))[0].name == "moon"
            assert (await settle(cove.list()))[0].state == "hibernating"
            assert (await settle(cove.events())).type == "sandbox.teleported"
            result = await settle(cove.run("true"))
            assert result.success and (result.changes[0].kind, result.changes[0].mode) == ("gilded", 0)
            sandbox = await settle(cove.sandbox(keep=True).start())
            assert sandbox.info.created_at.microsecond == 123456 and not await settle(sandbox.is_running())
            assert (await settle(sandbox.commands.run("true"))).stdout == "out"
            handle = await settle(sandbox.commands.run("true", background=True))
            done = await settle(handle.wait())
            assert (done.stdout, done.exit_code, done.pid) == ("out", 0, 7)
            assert (await settle(sandbox.commands.list()))[0].pid == 7
            assert (await settle(sandbox.files.list(".")))[0].type == "hologram"
            assert (await settle(sandbox.stats())).memory is None
            assert (await settle(sandbox.network_events())).kind == "telepathy"
            assert (await settle(sandbox.events())).type == "sandbox.teleported"
            watch = await settle(sandbox.files.watch_dir("."))
            assert (await settle(watch.__iter__() if kind is Sandbox else watch.__aiter__())).type == "ring"
            await settle(watch.stop())
            with pytest.raises(InvalidError, match="wait") as odd:
                await settle(sandbox.files.get_info("a"))
            assert odd.value.code == "quota_of_the_moon"
            with pytest.raises(ExhaustedError) as late:
                await settle(sandbox.ports())
            assert (late.value.code, late.value.retry_after) == ("quota_of_the_moon", 7.0)
            with pytest.raises(CoveError, match="599"):
                await settle(sandbox.get_network())
            await settle(cove.close())

    asyncio.run(main())


@pytest.mark.parametrize(
    "body",
    [
        [],
        3,
        None,
        "text",
        {},
        {"sandboxes": 3, "processes": "x", "entries": {"a": 1}, "results": 3},
        b"<html>",
        b"",
        b"\xff",
    ],
    ids=repr,
)
def test_replies_that_make_no_sense_are_errors_of_ours(body, tmp_path):
    async def main() -> None:
        with fake(tmp_path, lambda *_: answer(body)) as daemon:
            cove = Cove(daemon.url)
            sandbox = cove.sandbox(keep=True)
            for call in (
                cove.version,
                cove.list,
                lambda: cove.connect("x"),
                lambda: cove.run("x"),
                lambda: sandbox.start(),
                lambda: next(cove.events()),
            ):
                try:
                    got = call()
                except UnavailableError as error:
                    assert error.hint
                else:
                    assert body == {} and got == [], got
            with pytest.raises(UnavailableError):
                await AsyncSandbox(url=daemon.url).start()

    asyncio.run(main())


def test_a_key_that_is_wrong_is_told_by_every_call(tmp_path):
    refusal = answer({"error": {"code": "unauthenticated", "message": "no such key", "hint": "make one"}}, 401)
    with fake(tmp_path, lambda *_: refusal) as daemon:
        options = {"url": daemon.url, "api_key": "cove_wrong_key"}
        big = {"a": b"x" * 3_000_000}
        with Cove(**options) as cove:
            for call in (
                cove.version,
                cove.list,
                lambda: next(cove.events()),
                lambda: cove.connect("x"),
                lambda: cove.kill("x"),
                lambda: cove.sandbox().start(),
                lambda: cove.run("true", big),
                lambda: cove.secrets.set("a", "v", ["h"]),
            ):
                with pytest.raises(UnauthenticatedError, match="make one") as error:
                    call()
                assert "cove_wrong_key" not in str(error.value)
            results = cove.run_parallel([{"commands": "true", "files": big}] * 3)
            assert [type(r) for r in results] == [UnauthenticatedError] * 3


@pytest.mark.parametrize("where", ["socket", "port"])
def test_runs_wait_for_room_and_come_back_in_their_order(where, tmp_path):
    full = {"error": {"code": "exhausted", "message": "as many as there may be"}}
    refusals = iter([True] * 4)

    def reply(method: str, path: str) -> Answer:
        if next(refusals, False):
            return answer(full, 429, Retry_After="0", early="yes")  # before it has read everything
        return answer({"results": [{"exit_code": 0, "command": "true"}], "changes": []})

    request = {"commands": "true", "files": {"a": b"x" * 3_000_000}}
    with fake(tmp_path if where == "socket" else None, reply) as daemon:
        results = run_parallel([request] * 5, concurrency=3, url=daemon.url)
        assert [getattr(r, "success", r) for r in results] == [True] * 5
        assert daemon.asked == ["POST /v1/run"] * 9


def test_one_run_that_finds_no_room_says_when_to_try_again(tmp_path):
    full = answer({"error": {"code": "exhausted", "message": "full"}}, 429, Retry_After="5")
    with fake(tmp_path, lambda *_: full) as daemon:
        with pytest.raises(ExhaustedError) as error:
            run("true", url=daemon.url)
        assert error.value.retry_after == 5.0 and len(daemon.asked) == 1
    # What can't be sent again is not.
    (tmp_path / "pipe").mkdir()
    reader, writer = os.pipe()
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe, fake(tmp_path / "pipe", lambda *_: full) as daemon:
        (result,) = run_parallel([{"commands": "true", "archive": pipe}], url=daemon.url)
        assert isinstance(result, ExhaustedError) and len(daemon.asked) == 1
