"""Commands, streams, processes and terminals."""

from __future__ import annotations

import signal
import threading
import time

import pytest
from conftest import RUNTIME, eventually

from cove import (
    CommandFailed,
    InvalidError,
    NotFoundError,
    Output,
    PtySize,
    Sandbox,
    TimedOutError,
    UnavailableError,
)


def test_a_result_has_everything(box: Sandbox):
    result = box.commands.run("echo out; echo err >&2; exit 3")
    assert (result.stdout, result.stderr, result.exit_code) == ("out\n", "err\n", 3)
    assert not result.success and not result.timed_out and not result.truncated
    assert result.duration > 0 and result.pid > 0


def test_a_failing_command_raises_only_when_asked(box: Sandbox):
    assert box.commands.run("false").exit_code == 1
    with pytest.raises(CommandFailed) as failed:
        box.commands.run("echo why >&2; exit 4", check=True)
    assert failed.value.result.exit_code == 4 and "why" in str(failed.value)


def test_a_list_is_seen_by_no_shell(box: Sandbox):
    assert box.exec(["echo", "$HOME; *"]).stdout == "$HOME; *\n"
    assert box.commands.run(["sh", "-c", "echo $0", "a b"]).stdout == "a b\n"


def test_both_families_of_names_are_understood(box: Sandbox):
    for options in ({"env": {"A": "1"}, "workdir": "/tmp"}, {"envs": {"A": "1"}, "cwd": "/tmp"}):
        assert box.commands.run('echo "$A $PWD"', **options).stdout == "1 /tmp\n"
    assert box.commands.run('echo "$A $PWD"', False, {"A": "2"}, "/").stdout == "2 /\n"
    with pytest.raises(TypeError, match="the same"):
        box.commands.run("true", env={}, envs={})


def test_stdin_and_binary_output_stay_bytes(box: Sandbox):
    data = bytes(range(256)) * 40
    result = box.commands.run("cat", stdin=data)
    assert result.stdout_bytes == data
    assert box.commands.run("cat", stdin="äöü").stdout == "äöü"


def test_a_timeout_kills_and_keeps_the_output(box: Sandbox):
    result = box.commands.run("echo begun; sleep 60 & sleep 60", timeout=0.5)
    assert result.timed_out and result.stdout == "begun\n"
    eventually(lambda: box.commands.run("pgrep -x sleep").exit_code != 0)


def test_output_beyond_the_limit_is_cut_in_the_middle(box: Sandbox):
    for options in ({}, {"on_stdout": lambda _: None}):
        result = box.commands.run("seq 100000", max_output=1000, **options)
        assert result.truncated and len(result.stdout) < 2000
        assert result.stdout.startswith("1\n2\n") and result.stdout.endswith("100000\n")


def test_the_first_chunk_arrives_while_the_command_runs(box: Sandbox):
    box.files.remove("/tmp/go")
    seen: list[str] = []

    def more(text: str) -> None:
        seen.append(text)
        if "first" in text:  # the command goes on only now, so that it can't have ended
            box.files.write("/tmp/go", "")

    command = "echo first; while [ ! -e /tmp/go ]; do sleep 0.01; done; echo second"
    assert box.commands.run(command, on_stdout=more, timeout=30).exit_code == 0
    assert "".join(seen) == "first\nsecond\n"


def test_characters_survive_the_borders_of_chunks(box: Sandbox):
    seen: list[str] = []
    command = r"""python3 -c 'import os,time
for b in "aä€😀".encode(): os.write(1, bytes([b])); time.sleep(.02)
os.write(1, b"\xff\xe2\x82")'"""
    result = box.commands.run(command, on_stdout=seen.append)
    assert "".join(seen) == "aä€😀��" == result.stdout
    assert len(seen) > 1


def test_a_callback_that_raises_ends_the_command(box: Sandbox):
    def fail(_: str) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        box.commands.run("echo x; exec sleep 61", on_stdout=fail)
    eventually(lambda: box.commands.run("pgrep -f 'sleep 6[1]'").exit_code != 0)


def test_ctrl_c_ends_the_command(box: Sandbox):
    threading.Timer(0.5, lambda: signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        box.commands.run("exec sleep 62")
    eventually(lambda: box.commands.run("pgrep -f 'sleep 6[2]'").exit_code != 0)


def test_a_process_in_the_background_can_be_followed_and_found_again(box: Sandbox):
    handle = box.commands.run(
        "echo one; read x; echo $x; echo err >&2; exit 5", background=True, stdin=True, tag="mine"
    )
    assert handle.poll() is None
    assert next(handle.stdout.stream()) == "one\n"
    again = box.commands.connect(handle.pid)
    assert [p.tag for p in box.commands.list() if p.pid == handle.pid] == ["mine"]
    box.commands.send_stdin(handle.pid, "two\n")
    result = again.wait()
    assert (result.stdout, result.stderr, result.exit_code) == ("one\ntwo\n", "err\n", 5)
    assert handle.poll() == 5
    # Everything can be read again, by whoever comes.
    assert list(handle.stdout.lines()) == ["one", "two"] and handle.stderr.read() == "err\n"
    assert Output(stderr="err\n") in list(again)
    with pytest.raises(CommandFailed):
        handle.wait(check=True)


def test_a_process_can_be_signalled_and_killed(box: Sandbox):
    handle = box.commands.run("trap 'echo caught; exit 7' TERM; echo up; while :; do sleep 0.05; done", background=True)
    assert next(handle.stdout.stream()) == "up\n"
    handle.signal("TERM")
    assert handle.wait().exit_code == 7
    other = box.commands.run(["sleep", "60"], background=True)
    assert other.kill() and other.wait().signal == "SIGKILL"
    assert not box.commands.kill(999999)
    with pytest.raises(NotFoundError):
        box.commands.connect(999999)


def test_waiting_has_an_end(box: Sandbox):
    handle = box.commands.run(["sleep", "60"], background=True)
    began = time.monotonic()
    with pytest.raises(TimedOutError, match="still runs"):
        handle.wait(timeout=0.3)
    assert time.monotonic() - began < 10
    handle.kill()


def test_a_terminal(box: Sandbox):
    pty = box.pty.create(PtySize(rows=30, cols=100), cmd=["sh"], envs={"PS1": "$ "})
    pty.send_stdin("stty size; echo $((6*7))\n")
    shown = b""
    for data in pty.data():
        shown += data
        if b"42\r\n" in shown:
            break
    assert b"30 100" in shown
    box.pty.resize(pty.pid, PtySize(rows=50, cols=120))
    box.pty.send_stdin(pty.pid, "stty size; exit 3\n")
    assert pty.wait().exit_code == 3
    assert b"50 120" in b"".join(o.pty or b"" for o in pty)


def test_a_program_that_is_not_there_is_told_from_one_that_fails(box: Sandbox):
    with pytest.raises(InvalidError) as error:
        box.exec(["no-such-program"])
    assert error.value.exit_code == 127 and "install it" in str(error.value)
    assert box.commands.run("no-such-program").exit_code == 127


def test_what_the_daemon_refuses_is_an_error_with_a_hint(daemon: str):
    with pytest.raises(InvalidError) as error:
        Sandbox(runtime=RUNTIME, workdir="relative").start()
    assert error.value.hint and error.value.hint in str(error.value)


def test_a_runtime_that_is_not_there_is_an_error_with_a_hint(daemon: str):
    with pytest.raises(UnavailableError) as error:
        Sandbox(runtime="oci:no-such-runtime").start()
    assert error.value.hint
