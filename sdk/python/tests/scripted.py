"""A whole task for a scripted model: read a project whose tests fail, mend it, run its tests.

The agents are those of docs/tools.md, so that what a reader copies is what is tested.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

from cove import Sandbox

TASK = "The tests of /workspace/project fail. Mend it."
DONE = "The tests pass."

CART = """\
def total(items):
    return sum(price for price, amount in items)
"""
TESTS = """\
import unittest

from cart import total


class TotalTest(unittest.TestCase):
    def test_amounts_count(self):
        self.assertEqual(total([(2, 3), (5, 1)]), 11)

    def test_nothing_costs_nothing(self):
        self.assertEqual(total([]), 0)
"""
RUN = "python3 -m unittest"


class Step(NamedTuple):
    """What the model calls, and a word of what it then reads."""

    tool: str
    arguments: dict[str, Any]
    reads: str
    fails: bool = False


#: With Cove's tools.
SCRIPT = [
    Step("list_files", {"directory": "/workspace/project"}, "cart.py"),
    Step("shell", {"command": RUN, "cwd": "/workspace/project"}, "FAILED (failures=1)"),
    Step("grep", {"pattern": r"def \w+\(", "path": "project", "glob": "cart*"}, "def total(items)"),
    Step("read_file", {"filename": "project/cart.py"}, "for price, amount in items"),
    Step(
        "edit_file",
        {"file_path": "project/cart.py", "old_string": "sum(prices)", "new_string": "sum(price * amount)"},
        "old_string is not in project/cart.py",
        fails=True,
    ),
    Step(
        "edit_file",
        {"file_path": "project/cart.py", "old_string": "sum(price ", "new_string": "sum(price * amount "},
        "Replaced it once",
    ),
    Step("shell", {"command": RUN, "cwd": "project"}, "OK"),
]

#: With the tools that deepagents makes of a backend.
DEEP_SCRIPT = [
    Step("ls", {"path": "/workspace/project"}, "cart.py"),
    Step("execute", {"command": f"cd /workspace/project && {RUN}"}, "FAILED (failures=1)"),
    Step("grep", {"pattern": "def total", "path": "/workspace/project", "output_mode": "content"}, "def total(items)"),
    Step("read_file", {"file_path": "/workspace/project/cart.py"}, "for price, amount in items"),
    Step(
        "edit_file",
        {"file_path": "/workspace/project/cart.py", "old_string": "sum(prices)", "new_string": "sum(price * amount)"},
        "not found",
    ),
    Step(
        "edit_file",
        {"file_path": "/workspace/project/cart.py", "old_string": "sum(price ", "new_string": "sum(price * amount "},
        "Successfully replaced",
    ),
    Step("execute", {"command": f"cd /workspace/project && {RUN}"}, "OK"),
]


def lay_out(sandbox: Sandbox) -> None:
    """Puts the project into a sandbox, and sees it fail."""
    sandbox.files.write("/workspace/project/cart.py", CART)
    sandbox.files.write("/workspace/project/test_cart.py", TESTS)
    assert sandbox.commands.run(RUN, workdir="/workspace/project").exit_code == 1


def check_mended(sandbox: Sandbox) -> None:
    """Sees that the tests pass, and are the same."""
    assert sandbox.files.read("/workspace/project/test_cart.py") == TESTS
    result = sandbox.commands.run(RUN, workdir="/workspace/project")
    assert result.exit_code == 0 and "Ran 2 tests" in result.stderr, result.stderr


def check_read(script: list[Step], read: list[str]) -> None:
    """Sees that the model read what each of its calls came to."""
    assert len(read) == len(script), read
    for step, text in zip(script, read, strict=True):
        assert step.reads in text, (step, text)


def example(label: str = "") -> dict[str, Any]:
    """Returns what the Python of docs/tools.md defines that follows a bold label."""
    for directory in Path(__file__).resolve().parents:
        document = directory / "docs" / "tools.md"
        if document.is_file():
            break
    else:
        raise FileNotFoundError("docs/tools.md")
    section = document.read_text().split("\n## In Python\n")[1].split("\n## ")[0]
    if label:
        section = section.split(f"\n**{label}**")[1]
    found = re.search(r"^```python\n(.*?)^```", section, flags=re.MULTILINE | re.DOTALL)
    assert found, label
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(found[1], f"{document}: {label}", "exec", dont_inherit=True), names)
    return names
