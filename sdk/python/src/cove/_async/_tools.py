"""The tools of a sandbox, for a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from .. import _spec as spec
from .. import _tools as tools
from .._tools import Definition, Format, ToolResult
from ._calls import AsyncToolCalls

if TYPE_CHECKING:
    from ._sandbox import AsyncSandbox


class AsyncTools(AsyncToolCalls):
    """What a model does in a sandbox: nine tools, or those that ``only`` names.

    Each is a method. ``schemas`` is what a model's API is given, ``call`` carries out what
    the model wants, and ``functions`` are for frameworks that read a function's signature.
    """

    def __init__(self, sandbox: AsyncSandbox, only: Sequence[str] | None = None) -> None:
        self._sandbox = sandbox
        self._names = [tool["name"] for tool in tools.pick(only)]

    @property
    def names(self) -> list[str]:
        """The tools' names."""
        return list(self._names)

    def schemas(self, format: Format = "openai") -> list[Definition]:
        """Returns the tools as a model's API takes them; see ``cove.tools.schemas``."""
        return tools.schemas(format, self._names)

    async def call(self, name: str, arguments: Mapping[str, Any] | str | bytes | None = None) -> ToolResult:
        """Calls a tool with a dict, or with the JSON that a model wrote.

        What is wrong with the arguments is told in the result, for the model to do better.
        A tool that there is not is a NotFoundError.
        """
        spec.check("name", name, str)
        if name not in self._names:
            raise tools.unknown(name, self._names)
        body = tools.decode(arguments)
        transport = self._sandbox._transport
        # A socket tells when the daemon dies; over a network only time does.
        read = None if transport.local else tools.patience(body)
        path = await self._sandbox._path("/tools/" + quote(name, safe=""))
        return tools.result(await transport.json("POST", path, json=body, read=read))

    async def _call(self, name: str, **arguments: object) -> ToolResult:
        return await self.call(name, spec.drop_none(arguments))

    def functions(self) -> list[Callable[..., Any]]:
        """Returns the tools as plain functions with names, types and docstrings, which return
        the text for the model: for frameworks that make a tool of any function."""
        return [self._function(name) for name in self._names]

    def _function(self, name: str) -> Callable[..., Any]:
        method = getattr(self, name)

        async def function(*args: Any, **kwargs: Any) -> str:
            result: ToolResult = await method(*args, **kwargs)
            return result.text

        return tools.plain(function, method)
