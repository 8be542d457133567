"""Calls of tools for frameworks, whichever kind of sandbox there is."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Union

from .. import _tools
from .._async._sandbox import AsyncSandbox
from .._async._tools import AsyncTools
from .._sync._sandbox import Sandbox
from .._sync._tools import Tools
from .._tools import Definition, ToolResult

AnySandbox = Union[Sandbox, AsyncSandbox]
Arguments = Union[Mapping[str, Any], str, None]


class Calls:
    """Calls the tools of a sandbox. One that is not async is called in a thread."""

    def __init__(self, sandbox: AnySandbox, only: Sequence[str] | None = None) -> None:
        self.definitions: list[Definition] = _tools.pick(only)
        self.sync: Tools | None = None
        if isinstance(sandbox, AsyncSandbox):
            self._async = AsyncTools(sandbox, only)
        elif isinstance(sandbox, Sandbox):
            self.sync = Tools(sandbox, only)
        else:
            raise TypeError(f"sandbox must be Sandbox or AsyncSandbox, not {type(sandbox).__name__}")

    async def call(self, name: str, arguments: Arguments) -> ToolResult:
        """Calls a tool."""
        if self.sync is not None:
            return await asyncio.to_thread(self.sync.call, name, arguments)
        return await self._async.call(name, arguments)


def missing(extra: str, error: ImportError) -> ImportError:
    """The error of a framework that is not installed."""
    return ImportError(f"{error}; install it with pip install 'cove-sandbox[{extra}]'", name=error.name)
