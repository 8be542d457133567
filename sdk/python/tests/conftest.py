"""A real daemon for every run, started by the SDK itself, with directories of its own."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

RUNTIME = os.environ.get("COVE_RUNTIME") or "gvisor"

# What a shell runs in the background ignores Ctrl-C, and so does all that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


def end_daemon(state: str, sig: int = signal.SIGTERM) -> None:
    """Ends the daemon of a state directory, if there is one, and waits for that."""
    try:
        pid = int(Path(state, "cove.lock").read_text())
        os.kill(pid, sig)
    except (OSError, ValueError):
        return
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and _runs(pid):
        time.sleep(0.02)


def _runs(pid: int) -> bool:
    """Whether a process is there, and not one that has ended and that its parent has yet to wait for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def remove_all() -> None:
    """Removes the sandboxes that failed tests, and daemons that were killed, have left."""
    from cove import Sandbox

    for info in Sandbox.list():
        Sandbox.kill(info.id)


@pytest.fixture(scope="session", autouse=True)
def daemon() -> Iterator[str]:
    """The state directory of the daemon that tests share."""
    directory = tempfile.mkdtemp(prefix="cove-py-")
    state = os.path.join(directory, "s")
    os.environ.update(COVE_STATE_DIR=state, COVE_DATA_DIR=os.path.join(directory, "d"), COVE_DEFAULT_RUNTIME=RUNTIME)
    for name in ("COVE_URL", "COVE_API_KEY"):
        os.environ.pop(name, None)
    yield state
    remove_all()
    end_daemon(state)
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def box(daemon: str) -> Iterator:  # type: ignore[type-arg]
    """A sandbox that tests share."""
    from cove import Sandbox

    with Sandbox(runtime=RUNTIME, labels={"of": "tests"}) as sandbox:
        yield sandbox


@pytest.fixture(scope="session")
def image_archive(daemon: str) -> str:
    """A tar of an image with Python and a shell."""
    from images import build, missing

    lack = missing(RUNTIME)
    if lack:
        why = f"an image can't be made: this machine lacks {', '.join(lack)}"
        assert "python" not in os.environ.get("COVE_REQUIRE", "").split(","), why
        pytest.skip(why)
    archive = os.path.join(os.path.dirname(daemon), "image.tar")
    build(archive)
    return archive


@pytest.fixture(scope="session")
def images(image_archive: str) -> Iterator[None]:
    """Has the images that examples name where there is no registry."""
    from images import add, remove

    names = add(RUNTIME, image_archive)
    yield
    remove(RUNTIME, names)


def eventually(check, timeout: float = 20.0) -> None:  # type: ignore[no-untyped-def]
    """Waits until check returns true."""
    deadline = time.monotonic() + timeout
    while not check():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.05)
