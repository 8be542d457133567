"""The tools that a model works with in a sandbox: shell, run_python, read_file, write_file,
list_files, patch_file, edit_file, grep and glob.

    from cove import Sandbox
    from cove.tools import Tools

    with Sandbox() as sandbox:
        tools = Tools(sandbox)
        tools.schemas("openai")                                # for the model's API
        result = tools.call("shell", '{"command": "ls -l"}')   # as the model wants it
        print(result.text, result.is_error, result.data["exit_code"])

``cove.toolkits`` has them as the tools of agent frameworks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._tools import Format, ToolResult, schemas

if TYPE_CHECKING:
    from ._async._tools import AsyncTools
    from ._sync._tools import Tools

__all__ = ["AsyncTools", "Format", "ToolResult", "Tools", "schemas"]

_HOMES = {"AsyncTools": "._async._tools", "Tools": "._sync._tools"}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name], __package__), name)
    globals()[name] = value
    return value
