"""Makes cove._sync of cove._async: python scripts/unasync.py [--check].

The words of asyncio are taken out, token by token; ``_io.py`` and ``_parallel.py``
are written by hand on both sides. With --check nothing is written, and a difference is an error.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tokenize
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "cove" / "_async"
TARGET = SOURCE.with_name("_sync")
BY_HAND = {"__init__.py", "_io.py", "_parallel.py"}

NAMES = {
    "AsyncIterator": "Iterator",
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "__aiter__": "__iter__",
    "asynccontextmanager": "contextmanager",
    "aclose": "close",
    "aiter_raw": "iter_raw",
    "async_run": "run",
    "async_run_parallel": "run_parallel",
}


def translate(text: str) -> str:
    """Returns the source without asyncio."""
    # Callbacks are plain functions there.
    text = text.replace("Optional[Awaitable[None]]", "None")
    text = re.sub(r"from collections\.abc import (.*)\n", _imports, text, count=1)
    out: list[str] = []
    end = (1, 0)
    drop = False
    lines = text.splitlines(keepends=True)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        gap = _between(lines, end, token.start)
        end = token.end
        if drop:
            gap, drop = "", False
        if token.type == tokenize.NAME and token.string in ("async", "await"):
            out.append(gap)
            drop = True
            continue
        word = token.string
        if token.type == tokenize.NAME:
            word = NAMES.get(word, word)
            word = re.sub(r"^(_?)Async(?=[A-Z])", r"\1", word)
        elif token.type in (tokenize.STRING, tokenize.COMMENT):
            word = re.sub(r"\bAsync(?=[A-Z])", "", word)
        out.append(gap + word)
    return "".join(out)


def _imports(match: re.Match[str]) -> str:
    names = {NAMES.get(name, name) for name in match[1].split(", ")} - {"Awaitable"}
    return f"from collections.abc import {', '.join(sorted(names))}\n"


def _between(lines: list[str], start: tuple[int, int], end: tuple[int, int]) -> str:
    if start[0] == end[0]:
        return lines[start[0] - 1][start[1] : end[1]] if start[0] <= len(lines) else ""
    first = lines[start[0] - 1][start[1] :]
    middle = lines[start[0] : end[0] - 1]
    last = lines[end[0] - 1][: end[1]] if end[0] <= len(lines) else ""
    return first + "".join(middle) + last


def polish(text: str) -> str:
    """Returns source as ruff wants it."""
    fix = ["check", "--quiet", "--fix-only", "--select", "I,F401,UP", "--stdin-filename", "src/cove/_sync/x.py", "-"]
    for arguments in (fix, ["format", "--quiet", "--stdin-filename", "src/cove/_sync/x.py", "-"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *arguments],
            input=text, capture_output=True, text=True, check=True, cwd=SOURCE.parents[2],
        )  # fmt: skip
        text = done.stdout
    return text


def main() -> int:
    """Writes or checks every file."""
    check = "--check" in sys.argv[1:]
    drifted = []
    for source in sorted(SOURCE.glob("*.py")):
        if source.name in BY_HAND:
            continue
        target = TARGET / source.name
        text = polish(translate(source.read_text()))
        if check and (not target.exists() or target.read_text() != text):
            drifted.append(target.name)
        elif not check:
            target.write_text(text)
    if drifted:
        print(
            f"cove._sync differs from what cove._async makes: {', '.join(drifted)}; run make generate", file=sys.stderr
        )
    return 1 if drifted else 0


if __name__ == "__main__":
    sys.exit(main())
