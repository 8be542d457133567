"""Makes of api/tools.json what the package has of the tools: python scripts/definitions.py [--check].

The definitions are copied, so that schemas need no daemon; and each tool is a typed method,
so that an editor knows it. With --check nothing is written, and a difference is an error.
"""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parents[1] / "src" / "cove"
DEFINITIONS = Path(__file__).parents[3] / "api" / "tools.json"

TYPES = {"string": "str", "number": "float", "integer": "int", "boolean": "bool"}

HEAD = '''"""The tools as methods. Made of api/tools.json by scripts/definitions.py; not to be edited."""

from __future__ import annotations

from .._tools import ToolResult


class AsyncToolCalls:
    """What Tools inherits its methods from."""

    async def _call(self, name: str, **arguments: object) -> ToolResult:
        raise NotImplementedError
'''


def method(tool: dict[str, Any]) -> str:
    """Returns the source of a tool's method."""
    properties: dict[str, Any] = tool["parameters"]["properties"]
    required = tool["parameters"].get("required", [])
    parameters = ["self"]
    for name, schema in properties.items():
        kind = TYPES[schema["type"]]
        parameters.append(f"{name}: {kind}" if name in required else f"{name}: {kind} | None = None")
    passed = ", ".join([repr(tool["name"]), *(f"{name}={name}" for name in properties)])
    doc = [*wrap(tool["description"], 8, 8), "", "        Args:"]
    for name, schema in properties.items():
        doc += wrap(f"{name}: {schema['description']}", 12, 16)
    return (
        f"\n    async def {tool['name']}({', '.join(parameters)}) -> ToolResult:\n"
        + '        """'
        + "\n".join(doc).lstrip()
        + '\n        """\n'
        + f"        return await self._call({passed})\n"
    )


def wrap(text: str, first: int, rest: int) -> list[str]:
    """Returns lines of at most 100 characters."""
    return textwrap.wrap(text, 100, initial_indent=" " * first, subsequent_indent=" " * rest, break_long_words=False)


def polish(text: str) -> str:
    """Returns source as ruff wants it."""
    command = [sys.executable, "-m", "ruff", "format", "--quiet", "--stdin-filename", "src/cove/_async/x.py", "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True, cwd=PACKAGE.parents[1])
    return done.stdout


def main() -> int:
    """Writes or checks both files."""
    text = DEFINITIONS.read_text()
    made = {
        PACKAGE / "_generated" / "tools.json": text,
        PACKAGE / "_async" / "_calls.py": polish(HEAD + "".join(method(tool) for tool in json.loads(text))),
    }
    if "--check" not in sys.argv[1:]:
        for path, content in made.items():
            path.write_text(content)
        return 0
    drifted = [path.name for path, content in made.items() if not path.exists() or path.read_text() != content]
    if drifted:
        print(f"what is made of api/tools.json differs: {', '.join(drifted)}; run make generate", file=sys.stderr)
    return 1 if drifted else 0


if __name__ == "__main__":
    sys.exit(main())
