"""What the package promises whatever a daemon does."""

from __future__ import annotations

import subprocess
import sys

import pytest


def test_both_halves_have_the_same_surface():
    import inspect

    import cove

    pairs = [("AsyncSandbox", "Sandbox"), ("AsyncCove", "Cove"), ("AsyncCommandHandle", "CommandHandle")]
    for names in pairs:
        a, b = (getattr(cove, name) for name in names)
        public = {n for n in dir(a) if not n.startswith("_")}
        assert public == {n for n in dir(b) if not n.startswith("_")}
        for name in public:
            if inspect.isfunction(getattr(a, name)):
                parameters = [list(inspect.signature(getattr(c, name)).parameters) for c in (a, b)]
                assert parameters[0] == parameters[1]


def test_everything_that_is_promised_can_be_imported():
    import cove

    for name in cove.__all__:
        assert getattr(cove, name) is not None
    assert set(cove.__all__) <= set(dir(cove))
    with pytest.raises(AttributeError):
        _ = cove.nothing  # type: ignore[attr-defined]


def test_loading_it_loads_neither_httpx_nor_asyncio():
    code = "import sys; from cove import Sandbox, Limits; print([m for m in ('httpx', 'asyncio', 'ssl', 'tarfile') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_errors_survive_pickling():
    import pickle

    from cove import CommandFailed, CommandResult, NotFoundError

    error = pickle.loads(pickle.dumps(NotFoundError("gone", hint="look", exit_code=3)))
    assert (str(error), error.exit_code) == ("gone (look)", 3)
    failed = pickle.loads(pickle.dumps(CommandFailed(CommandResult(7, stderr_bytes=b"why"))))
    assert failed.result.exit_code == 7 and "why" in str(failed)


def test_a_newer_daemon_is_understood():
    from cove import CommandResult
    from cove._frames import Collector, FrameParser
    from cove._model import parse
    from cove.errors import from_body
    from cove.types import SandboxInfo

    data = {
        "id": "x",
        "state": "hibernating",
        "runtime": "moon",
        "new": {"a": 1},
        "created_at": "2031-01-01T00:00:00.123456789Z",
    }
    info = parse(SandboxInfo, data)
    assert (info.state, info.created_at.microsecond) == ("hibernating", 123456)
    assert type(from_body({"code": "brand_new", "message": "m"}, 409)).__name__ == "ConflictError"
    exit = b'{"exit":{"code":0,"new":1},"later":2}'
    frames = (
        bytes([9])
        + bytes(8)
        + (3).to_bytes(4, "big")
        + b"???"
        + bytes([17])
        + bytes(8)
        + len(exit).to_bytes(4, "big")
        + exit
    )
    parser, collector, results = FrameParser(), Collector(100), []
    for n in range(len(frames)):  # byte by byte
        results += [collector.add(frame) for frame in parser.feed(frames[n : n + 1])]
    assert results == [CommandResult(0)]
