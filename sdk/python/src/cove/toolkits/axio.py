"""Tools for axio: ``pip install 'cove-sandbox[axio]'``, with Python 3.12 and later."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from types import MappingProxyType
from typing import Any

from .._tools import Definition
from ._calls import AnySandbox, Calls, missing

try:
    from axio.exceptions import HandlerError
    from axio.tool import Tool
except ImportError as error:
    raise missing("axio", error) from error

__all__ = ["tools"]


def tools(sandbox: AnySandbox, only: Sequence[str] | None = None) -> list[Tool[Any]]:
    """Returns the tools, or those named, for ``Agent(tools=...)``: the six of axio's own
    sandboxes, with their names and parameters, and edit_file, grep and glob."""
    calls = Calls(sandbox, only)
    return [_tool(calls, tool) for tool in calls.definitions]


def _tool(calls: Calls, tool: Definition) -> Tool[Any]:
    name: str = tool["name"]

    async def handler(**arguments: Any) -> str:
        result = await calls.call(name, arguments)
        if result.is_error:
            raise HandlerError(result.text)
        return result.text

    # What may be left out may be null, and axio checks before it calls.
    schema = deepcopy(tool["strict_parameters"])
    schema["required"] = list(tool["parameters"].get("required", []))
    return Tool(name=name, handler=handler, description=tool["description"], schema=MappingProxyType(schema))
