"""What the notes for those who come from elsewhere show, run as it stands there: each block of
Python is a program of its own, and what it prints is what its comments say."""

from __future__ import annotations

import ast
import asyncio
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import RUNTIME

from cove._daemon import program

NOTES = Path(__file__).resolve().parents[3] / "docs" / "migrate"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
SHELL = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
OLD = re.compile(r"^.*# old\s*$", re.MULTILINE)
SAID = re.compile(r"^\s*print\(.*\)  # (.+)$", re.MULTILINE)
NEEDS = re.compile(r'runtime="([^"]+)"')


def programs() -> list[object]:
    """The blocks of all notes."""
    found = []
    for note in [NOTES.parents[1] / "README.md", *sorted(NOTES.glob("*.md"))]:
        for number, block in enumerate(BLOCK.findall(note.read_text()), 1):
            needs = NEEDS.findall(block)
            skip = pytest.mark.skipif(bool(needs) and RUNTIME not in needs, reason=f"it is about {needs}")
            found.append(pytest.param(OLD.sub("", block), id=f"{note.stem} {number}", marks=skip))
    return found


@pytest.fixture
def volumes() -> Iterator[None]:
    """Takes away the volumes that programs leave behind."""
    yield
    if RUNTIME.startswith("docker"):
        for name in ("my-project-data",):
            subprocess.run(["docker", "volume", "rm", "--force", name], capture_output=True, check=True)


@pytest.mark.parametrize("text", programs())
def test_what_the_notes_show_runs_as_it_stands(images: None, volumes: None, text: str, tmp_path, monkeypatch, capsys):
    if "import axio" in text or "from axio" in text:
        pytest.importorskip("axio", reason="it is tested where the agent frameworks are")
    monkeypatch.chdir(tmp_path)
    code = compile(text, "note", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    coroutine = eval(code, {"__name__": "note"})
    if coroutine is not None:
        asyncio.run(coroutine)
    told = iter(capsys.readouterr().out.splitlines())
    for line in SAID.findall(text):
        assert line in told, f"{line!r} was not printed in its place"


@pytest.mark.parametrize("name", ["docker", "roche"])
def test_the_commands_that_the_notes_show_run(images: None, name: str, tmp_path):
    script = OLD.sub("", "\n".join(SHELL.findall((NOTES / f"{name}.md").read_text())))
    path = f"{Path(program()).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-eu", "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert {"docker": "42\n", "roche": "from the command line\n"}[name] in done.stdout


def test_every_note_has_programs():
    for note in NOTES.glob("*.md"):
        assert note.stem in ("README", "daiv-sandbox") or BLOCK.search(note.read_text()), note
