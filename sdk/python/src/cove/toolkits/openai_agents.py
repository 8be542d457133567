"""Tools for the OpenAI Agents SDK: ``pip install 'cove-sandbox[openai-agents]'``."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from .._tools import Definition
from ._calls import AnySandbox, Calls, missing

try:
    from agents import FunctionTool, Tool
    from agents.tool_context import ToolContext
except ImportError as error:
    raise missing("openai-agents", error) from error

__all__ = ["tools"]


def tools(sandbox: AnySandbox, only: Sequence[str] | None = None) -> list[Tool]:
    """Returns the tools, or those named, for ``Agent(tools=...)``. Their schemas are strict.

    What a tool could not do is told to the model. A sandbox or a daemon that is gone ends the
    run with a UserError, whose cause is the CoveError.
    """
    calls = Calls(sandbox, only)
    return [_tool(calls, tool) for tool in calls.definitions]


def _tool(calls: Calls, tool: Definition) -> FunctionTool:
    name: str = tool["name"]

    async def invoke(_: ToolContext[Any], arguments: str) -> str:
        return (await calls.call(name, arguments)).text

    return FunctionTool(
        name=name,
        description=tool["description"],
        params_json_schema=deepcopy(tool["strict_parameters"]),
        on_invoke_tool=invoke,
        strict_json_schema=True,
    )
