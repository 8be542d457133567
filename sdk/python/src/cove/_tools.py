"""The definitions of the tools, and what comes of a call."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

from ._model import nonsense
from .errors import NotFoundError

#: How definitions are handed out: ``openai`` is for Chat Completions and ``openai-responses``
#: for the Responses API, both strict; ``cove`` is everything that there is to say.
Format = Literal["openai", "openai-responses", "anthropic", "mcp", "cove"]
Definition = dict[str, Any]

#: The longest that a tool takes which is not told; a reply may take _SLACK more.
_TIMEOUT = 120.0
_SLACK = 30.0


@dataclass(frozen=True)
class ToolResult:
    """What came of a call of a tool."""

    text: str
    """For the model; bounded."""
    is_error: bool = False
    """The tool could not do what it was asked, or ran out of time."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """The same in fields: as the tool's result schema says, or ``code``, ``message`` and
    ``hint`` where it did nothing."""

    def __str__(self) -> str:
        return self.text


@cache
def definitions() -> tuple[Definition, ...]:
    """Returns the definitions, as api/tools.json has them."""
    from pkgutil import get_data

    data = get_data(__package__, "_generated/tools.json")
    assert data is not None
    return tuple(json.loads(data))


def pick(only: Sequence[str] | None) -> list[Definition]:
    """Returns the definitions with these names, in the order of the list of tools."""
    known = definitions()
    if only is None:
        return list(known)
    if isinstance(only, str) or not isinstance(only, Sequence):
        raise TypeError(f"only must be a list of names, not {type(only).__name__}")
    names = [tool["name"] for tool in known]
    for name in only:
        if name not in names:
            raise unknown(name, names)
    return [tool for tool in known if tool["name"] in only]


def unknown(name: object, names: Sequence[str]) -> NotFoundError:
    """The error of a name that no tool has."""
    return NotFoundError(f"there is no tool {name!r}", hint="use one of " + ", ".join(names))


def schemas(format: Format = "openai", only: Sequence[str] | None = None) -> list[Definition]:
    """Returns the tools, or those named, as a model's API takes them. Needs no daemon.

    In the forms of OpenAI every parameter is required, and those that may be left out may be
    null, as strict mode wants it.
    """
    form = _FORMS.get(format)
    if form is None:
        raise ValueError(f"there is no format {format!r}; use {', '.join(_FORMS)}")
    # Through JSON, so that what a caller changes is the caller's own.
    made: list[Definition] = json.loads(json.dumps([form(tool) for tool in pick(only)]))
    return made


def _function(tool: Definition) -> Definition:
    return {
        "name": tool["name"],
        "description": tool["description"],
        "parameters": tool["strict_parameters"],
        "strict": True,
    }


def _mcp(tool: Definition) -> Definition:
    return {
        "name": tool["name"],
        "title": tool["title"],
        "description": tool["description"],
        "inputSchema": tool["parameters"],
        "outputSchema": tool["result"],
        "annotations": {
            "readOnlyHint": tool["read_only"],
            "idempotentHint": tool["idempotent"],
            "destructiveHint": not tool["read_only"],
        },
    }


def _anthropic(tool: Definition) -> Definition:
    return {"name": tool["name"], "description": tool["description"], "input_schema": tool["parameters"]}


_FORMS: dict[str, Callable[[Definition], Definition]] = {
    "openai": lambda tool: {"type": "function", "function": _function(tool)},
    "openai-responses": lambda tool: {"type": "function", **_function(tool)},
    "anthropic": _anthropic,
    "mcp": _mcp,
    "cove": dict,
}


def decode(arguments: Mapping[str, Any] | str | bytes | None) -> Any:
    """Returns the arguments as JSON. What a model wrote that is no JSON stays text, which
    the tool refuses like everything that is no object, with a word for the model."""
    if arguments is None:
        return {}
    if isinstance(arguments, Mapping):
        return dict(arguments)
    if not isinstance(arguments, (str, bytes)):
        raise TypeError(f"arguments must be a dict or JSON, not {type(arguments).__name__}")
    try:
        value = json.loads(arguments, parse_constant=_refuse) if arguments.strip() else {}
    except (ValueError, RecursionError):
        return "no JSON"
    return {} if value is None else value


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def patience(arguments: Any) -> float:
    """Returns the seconds after which a call that says nothing is over."""
    given = arguments.get("timeout") if isinstance(arguments, dict) else None
    if isinstance(given, (int, float)) and 0 < given < float("inf"):
        return max(float(given), _TIMEOUT) + _SLACK
    return _TIMEOUT + _SLACK


def plain(function: Callable[..., Any], method: Callable[..., Any]) -> Callable[..., Any]:
    """Makes function look like method, but for its result, which is text. The types are
    types and not their names, since not every framework looks those up."""
    from inspect import signature
    from typing import get_type_hints

    hints = get_type_hints(method)
    hints["return"] = str
    like = signature(method)
    parameters = [p.replace(annotation=hints[p.name]) for p in like.parameters.values()]
    function.__name__ = function.__qualname__ = method.__name__
    function.__doc__ = method.__doc__
    function.__annotations__ = hints
    function.__signature__ = like.replace(parameters=parameters, return_annotation=str)  # type: ignore[attr-defined]
    return function


def result(reply: Any) -> ToolResult:
    """Returns a reply of the daemon as a result."""
    if not isinstance(reply, dict) or not isinstance(reply.get("text"), str):
        raise nonsense("a tool's result has no text")
    data = reply.get("data")
    return ToolResult(reply["text"], bool(reply.get("is_error")), data if isinstance(data, dict) else {})
