"""Tools for LangChain and LangGraph: ``pip install 'cove-sandbox[langchain]'``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from .._tools import Definition, ToolResult
from ._calls import AnySandbox, Calls, missing

try:
    from langchain_core.tools import BaseTool, StructuredTool, ToolException
except ImportError as error:
    raise missing("langchain", error) from error

__all__ = ["tools"]


def tools(sandbox: AnySandbox, only: Sequence[str] | None = None) -> list[BaseTool]:
    """Returns the tools, or those named, for ``create_agent``, ``bind_tools`` and the like.

    A tool's message has the text for the model as its content and the result's fields as its
    artifact; its status is ``error`` where the tool could not do what it was asked. With an
    AsyncSandbox they are for ``ainvoke`` alone.
    """
    calls = Calls(sandbox, only)
    return [_tool(calls, tool) for tool in calls.definitions]


def _tool(calls: Calls, tool: Definition) -> StructuredTool:
    name: str = tool["name"]
    sync = calls.sync

    async def acall(**arguments: Any) -> tuple[str, Mapping[str, Any]]:
        return _message(await calls.call(name, arguments))

    def call(**arguments: Any) -> tuple[str, Mapping[str, Any]]:
        assert sync is not None
        return _message(sync.call(name, arguments))

    return StructuredTool.from_function(
        func=call if sync is not None else None,
        coroutine=acall,
        name=name,
        description=tool["description"],
        args_schema=deepcopy(tool["parameters"]),
        infer_schema=False,
        response_format="content_and_artifact",
        handle_tool_error=True,
    )


def _message(result: ToolResult) -> tuple[str, Mapping[str, Any]]:
    if result.is_error:
        raise ToolException(result.text)
    return result.text, result.data
