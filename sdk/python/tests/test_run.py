"""One-shot runs: files in, commands, and what they changed out."""

from __future__ import annotations

import asyncio
import gzip
import io
import os
import subprocess
import tarfile
import threading
from pathlib import Path

import pytest
from conftest import RUNTIME, eventually

from cove import (
    AsyncCove,
    CommandFailed,
    Cove,
    CoveError,
    InvalidError,
    Limits,
    NotFoundError,
    Retry,
    RunRequest,
    RunResult,
    Sandbox,
    UnsupportedError,
    async_run,
    async_run_parallel,
    run,
    run_parallel,
)
from cove.types import CommandResult


def project(root: Path, files: int = 0) -> Path:
    """Makes a small project, with more files where they are wanted."""
    (root / "src").mkdir(parents=True)
    (root / "main.py").write_text("print('größe')\n")
    (root / "src" / "old.txt").write_text("old\n")
    (root / ".dot").write_bytes(bytes(range(256)))
    (root / "tool").write_text("#!/bin/sh\necho tool\n")
    (root / "tool").chmod(0o755)
    (root / "link").symlink_to("main.py")
    for n in range(files):
        path = root / f"d{n % 50}" / f"f{n}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"content {n}\n")
    return root


def tree(root: Path) -> dict[str, object]:
    """Returns what is below a directory: names, kinds, modes and content."""

    def content(path: Path) -> object:
        if path.is_symlink():
            return os.readlink(path)
        return None if path.is_dir() else path.read_bytes()

    return {str(p.relative_to(root)): (p.lstat().st_mode, content(p)) for p in root.rglob("*")}


EDIT = "echo more >> main.py && mv src/old.txt src/new.txt && rm .dot && printf '\\0\\1' > bin && chmod 700 tool && mkdir -p e/f"


def test_a_folder_goes_in_and_what_changed_comes_out(tmp_path):
    here = project(tmp_path / "in")
    before = tree(here)
    result = run(["python3 main.py", EDIT, ["sh", "-c", "echo err >&2; exit 3"]], here, runtime=RUNTIME)
    assert [r.exit_code for r in result.results] == [0, 0, 3] and not result.success
    first, _, last = result.results
    assert (first.stdout, first.command, first.attempts) == ("größe\n", "python3 main.py", 1)
    assert isinstance(last, CommandResult) and (last.stderr, list(last.command)[-1]) == (
        "err\n",
        "echo err >&2; exit 3",
    )
    with pytest.raises(CommandFailed, match="err"):
        result.check()
    kinds = {change.path: (change.kind, change.type, change.mode) for change in result.changes}
    assert kinds == {
        "main.py": ("modified", "file", 0o644),
        "src/new.txt": ("renamed", "file", 0o644),
        ".dot": ("deleted", "file", 0o644),
        "bin": ("added", "file", 0o644),
        "tool": ("modified", "file", 0o700),
        "e": ("added", "directory", 0o755),
        "e/f": ("added", "directory", 0o755),
    }
    assert [c.old_path for c in result.changes if c.kind == "renamed"] == ["src/old.txt"]
    assert result.files == {
        "main.py": b"print('gr\xc3\xb6\xc3\x9fe')\nmore\n",
        "src/new.txt": b"old\n",
        "bin": b"\0\1",
        "tool": b"#!/bin/sh\necho tool\n",
    }
    assert tree(here) == before  # until it is applied
    result.apply(here)
    after = tree(here)
    assert after["main.py"][1].endswith(b"more\n") and after["src/new.txt"][1] == b"old\n"
    assert after["tool"][0] & 0o777 == 0o700 and after["link"] == before["link"]
    assert set(after) == set(before) - {".dot", "src/old.txt"} | {"src/new.txt", "bin", "e", "e/f"}


def test_a_patch_is_what_git_applies(tmp_path):
    here = project(tmp_path / "in")
    result = run(EDIT, here, returns="patch", runtime=RUNTIME).check()
    assert result.archive is None and result.files == {} and result.patch is not None
    subprocess.run(["git", "init", "-q", str(here)], check=True)
    subprocess.run(["git", "-C", str(here), "apply", "-"], input=result.patch.encode(), check=True)
    assert (here / "src" / "new.txt").read_text() == "old\n" and not (here / ".dot").exists()
    assert (here / "bin").read_bytes() == b"\0\1"


def test_a_dict_bytes_a_path_and_a_file_object_go_in(tmp_path):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        entry = tarfile.TarInfo("d/x")
        entry.size = 3
        tar.addfile(entry, io.BytesIO(b"abc"))
    (tmp_path / "x.tar.gz").write_bytes(out.getvalue())
    out.seek(0)
    for options in (
        {"files": {"d/x": "abc"}},
        {"files": {"d/x": b"abc", "y": "ü"}},
        {"archive": out.getvalue()},
        {"archive": tmp_path / "x.tar.gz"},
        {"archive": out},
        {"files": {"x": "abc"}, "workdir": "/tmp/w/d"},
    ):
        result = run("cat x" if "workdir" in options else "cat d/x", runtime=RUNTIME, **options)
        assert (result.results[0].stdout, result.changes, result.archive) == ("abc", [], None)
    assert run("pwd", files={"d/x": ""}, cwd="d", runtime=RUNTIME).results[0].stdout == "/workspace/d\n"
    assert run("ls -A", runtime=RUNTIME).results[0].stdout == ""


def test_retries_fail_fast_and_limits():
    flaky = "echo x >> tries; [ $(wc -l < tries) -ge 3 ]"
    result = run(flaky, retry=Retry(5, backoff=0.01), returns="none", runtime=RUNTIME)
    assert result.success and result.results[0].attempts == 3 and result.changes == []
    result = run([flaky, "echo never"], retry=2, fail_fast=True, runtime=RUNTIME)
    assert [r.attempts for r in result.results] == [2] and not result.success
    codes = Retry(5, backoff=0.01, exit_codes=[7])
    assert run("exit 8", retry=codes, runtime=RUNTIME).results[0].attempts == 1
    result = run(["sleep 60", "seq 100000"], timeout=0.5, max_output=1000, env={"A": "1"}, runtime=RUNTIME)
    assert result.results[0].timed_out and not result.success
    assert result.results[1].truncated and len(result.results[1].stdout) < 2000
    assert run([["no-such-program"]], runtime=RUNTIME).results[0].exit_code == 127


def test_a_project_of_5000_files_goes_in_and_out(tmp_path):
    here = project(tmp_path / "in", 5000)
    before = tree(here)
    command = "for f in d*/*; do echo more >> $f; done"
    result = run([command, "find . -type f | wc -l"], here, limits=Limits(memory="1g"), runtime=RUNTIME).check()
    assert result.results[1].stdout == "5004\n" and len(result.changes) == len(result.files) == 5000
    result.apply(tmp_path / "out")
    assert len(tree(tmp_path / "out")) == 5050
    result.apply(here)
    after = tree(here)
    assert set(after) == set(before)
    assert all((here / f"d{n % 50}" / f"f{n}.txt").read_text() == f"content {n}\nmore\n" for n in range(5000))
    assert {k: v for k, v in after.items() if not k.startswith("d")} == {
        k: v for k, v in before.items() if not k.startswith("d")
    }

    async def again() -> RunResult:
        return await async_run("rm -r d*", here, runtime=RUNTIME)

    asyncio.run(again()).check().apply(here)
    assert sorted(os.listdir(here)) == [".dot", "link", "main.py", "src", "tool"]


def test_what_is_no_file_is_left_out_and_told(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("x")
    result = run("ls", tmp_path, runtime=RUNTIME)
    assert result.results[0].stdout == "file\n" and len(result.left_out) == 1 and "pipe" in result.left_out[0]


def test_many_runs_at_once_come_back_in_their_order():
    requests = [RunRequest(f"echo {n}; exit {n % 2}", runtime=RUNTIME) for n in range(4)]
    requests += [{"commands": "true", "cwd": "no/such/dir", "runtime": RUNTIME}]
    results = run_parallel(requests, concurrency=3)
    assert [r.results[0].stdout for r in results[:4]] == [f"{n}\n" for n in range(4)]
    assert [r.success for r in results[:4]] == [True, False, True, False]
    assert isinstance(results[4], CoveError) or not results[4].success
    with Cove() as cove:
        assert cove.run_parallel([]) == []
        assert cove.run("echo x", runtime=RUNTIME).results[0].stdout == "x\n"

    async def main() -> None:
        async with AsyncCove() as cove:
            results = await cove.run_parallel(requests[:2])
            assert [r.success for r in results] == [True, False]
        # The sync half works beside a loop that runs.
        assert run_parallel(requests[:1])[0].success
        assert (await async_run_parallel(requests[:1]))[0].success

    asyncio.run(main())


def test_runs_that_are_interrupted_leave_nothing():
    import signal

    def living() -> list[str]:
        return [s.id for s in Sandbox.list(labels={"of": "interrupted"}, state="running")]

    def interrupt() -> None:
        eventually(lambda: len(living()) == 2)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    request = RunRequest("sleep 60", labels={"of": "interrupted"}, runtime=RUNTIME)
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run_parallel([request] * 3, concurrency=2)
    thread.join(30)

    async def main() -> None:
        task = asyncio.create_task(async_run_parallel([request] * 3, concurrency=2))
        await asyncio.to_thread(eventually, lambda: len(living()) == 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    eventually(lambda: not living(), 30)


@pytest.mark.parametrize(
    ("error", "arguments"),
    [
        (TypeError, {"commands": 3}),
        (TypeError, {"commands": [3]}),
        (TypeError, {"commands": b"ls"}),
        (TypeError, {"commands": [["a", 3]]}),
        (TypeError, {"commands": "a", "files": 3}),
        (TypeError, {"commands": "a", "files": {"x": 3}}),
        (TypeError, {"commands": "a", "files": {3: "x"}}),
        (TypeError, {"commands": "a", "archive": 3}),
        (TypeError, {"commands": "a", "files": {}, "archive": b""}),
        (TypeError, {"commands": "a", "cwd": 3}),
        (TypeError, {"commands": "a", "retry": "3"}),
        (TypeError, {"commands": "a", "retry": Retry(exit_codes=["1"])}),
        (TypeError, {"commands": "a", "timeout": []}),
        (TypeError, {"commands": "a", "max_output": 1.5}),
        (TypeError, {"commands": "a", "fail_fast": 1}),
        (TypeError, {"commands": "a", "image": 1}),
        (TypeError, {"commands": "a", "no_such_option": 1}),
        (InvalidError, {"commands": ""}),
        (InvalidError, {"commands": []}),
        (InvalidError, {"commands": [[]]}),
        (InvalidError, {"commands": ["pytest", "-q"]}),
        (InvalidError, {"commands": "a", "returns": "zip"}),
        (InvalidError, {"commands": "a", "files": {"../x": ""}}),
        (InvalidError, {"commands": "a", "files": {"/x": ""}}),
        (InvalidError, {"commands": "a", "files": {"": ""}}),
        (InvalidError, {"commands": "a", "timeout": -1}),
        (NotFoundError, {"commands": "a", "files": "/no/such/dir"}),
        (NotFoundError, {"commands": "a", "archive": "/no/such/file"}),
    ],
)
def test_wrong_requests_are_refused_before_anything_is_sent(error, arguments):
    with pytest.raises(error):
        RunRequest(**arguments)
    with pytest.raises(error):
        run(**arguments, url="http://127.0.0.1:9")
    with pytest.raises(error):
        run_parallel([arguments], url="http://127.0.0.1:9")


def test_wrong_lists_of_requests_are_refused():
    for requests in ("true", 3, ["true"], [3]):
        with pytest.raises(TypeError):
            run_parallel(requests)
    for concurrency in ("4", 1.5, None):
        with pytest.raises(TypeError):
            run_parallel([], concurrency)
    with pytest.raises(InvalidError):
        run_parallel([], 0)


def reply(changes: list[dict[str, object]], entries: list[tuple[str, dict[str, object], bytes]]) -> RunResult:
    """Returns the result of a run with these changes and this archive."""
    import binascii

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, fields, data in entries:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            for field, value in fields.items():
                setattr(entry, field, value)
            tar.addfile(entry, io.BytesIO(data))
    archive = binascii.b2a_base64(gzip.compress(out.getvalue())).decode()
    return RunRequest("true").result({"results": [], "changes": changes, "archive": archive}, [])


def test_T57_a_hostile_result_changes_nothing_outside(tmp_path):
    outside, target = tmp_path / "outside", tmp_path / "outside" / "target"
    target.mkdir(parents=True)
    (outside / "victim").write_text("before")
    (target / "up").symlink_to("..")
    gone = ["../victim", "/victim", str(outside / "victim"), "up/victim", "a/../../victim", "..", ".", "", "x\0y"]
    changes = [{"path": path, "kind": "deleted", "type": "file"} for path in gone]
    changes += [{"path": "x", "from": path, "kind": "renamed", "type": "file"} for path in gone]
    changes += [{"path": path, "kind": "modified", "type": "directory"} for path in gone]
    entries = [
        ("../out", {}, b"x"),
        (f"{outside}/out", {}, b"x"),
        ("up/out", {}, b"x"),
        ("link", {"type": tarfile.SYMTYPE, "linkname": "../victim"}, b""),
        ("good", {"mode": 0o6755}, b"good"),
    ]
    result = reply(changes, entries)
    assert result.files == {"up/out": b"x", "good": b"good"}
    with pytest.raises(UnsupportedError, match="left out"):
        result.apply(target)
    assert sorted(os.listdir(outside)) == ["target", "victim"] and (outside / "victim").read_text() == "before"
    assert sorted(os.listdir(target)) == ["good", "up"] and (target / "good").stat().st_mode & 0o7777 == 0o755


def test_what_became_of_another_kind_is_replaced(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "x").write_text("")
    (tmp_path / "f").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    (tmp_path / "moved").mkdir()
    (tmp_path / "moved" / "x").write_text("x")
    changes = [
        {"path": "d", "kind": "modified", "type": "file"},
        {"path": "d/x", "kind": "deleted", "type": "file"},
        {"path": "f", "kind": "modified", "type": "directory"},
        {"path": "f/x", "kind": "added", "type": "file"},
        {"path": "full", "kind": "deleted", "type": "directory"},
        {"path": "0", "from": "moved/x", "kind": "renamed", "type": "file"},
        {"path": "moved", "kind": "deleted", "type": "directory"},
        {"path": "never/there", "kind": "deleted", "type": "file"},
    ]
    folder = ("f", {"type": tarfile.DIRTYPE, "mode": 0o755}, b"")
    reply(changes, [("d", {}, b"now a file"), folder, ("f/x", {}, b"inside"), ("0", {}, b"x")]).apply(tmp_path)
    assert (tmp_path / "d").read_text() == "now a file" and (tmp_path / "f" / "x").read_text() == "inside"
    assert sorted(os.listdir(tmp_path)) == ["0", "d", "f", "full"]
    assert os.listdir(tmp_path / "full") == ["mine"]


def test_a_broken_reply_is_an_error(tmp_path):
    from cove import UnavailableError

    request = RunRequest("true")
    for data in ([], {}, {"results": [3]}, {"results": [], "archive": "A"}, {"results": [{"exit_code": "x"}]}):
        with pytest.raises(UnavailableError, match="makes no sense"):
            request.result(data, [])
    whole = reply([], [("a", {}, b"x" * 5000)])
    for broken in (whole.archive[:60], b"nothing", gzip.compress(b"no tar" * 1000), whole.archive[:-20] + b"x" * 20):
        result = RunResult([], archive=broken)
        with pytest.raises(UnavailableError, match="broken"):
            result.apply(tmp_path)
        with pytest.raises(UnavailableError, match="broken"):
            print(result.files)
