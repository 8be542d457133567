"""A function with a sandbox of its own."""

from __future__ import annotations

import asyncio
import inspect
import json
import typing
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any, Optional

import pytest
from conftest import RUNTIME

from cove import AsyncSandbox, InvalidError, Limits, Sandbox, sandboxed

seen: list[Any] = []


def living() -> list[str]:
    return [s.id for s in Sandbox.list(labels={"of": "sandboxed"}, state="running")]


options: dict[str, Any] = {"runtime": RUNTIME, "labels": {"of": "sandboxed"}}


@sandboxed(**options, limits=Limits(memory="256m"))
def run_code(
    sandbox: Sandbox, code: str, times: Annotated[int, "how often"] = 1, *, flag: Optional[bool] = None
) -> str:
    """Runs code."""
    seen.append(sandbox)
    assert sandbox.id in living()
    if code == "raise":
        raise KeyError("mine")
    return sandbox.exec(["python3", "-c", code]).stdout * times


@sandboxed(**options)
async def run_code_async(sandbox: AsyncSandbox, code: str) -> str:
    """Runs code."""
    seen.append(sandbox)
    if code == "raise":
        raise KeyError("mine")
    return (await sandbox.exec(["python3", "-c", code])).stdout


def test_a_function_gets_a_sandbox_that_is_gone_afterwards():
    assert run_code("print(6 * 7)") == "42\n"
    first = seen[-1].id
    assert run_code(code="print(1)", times=2) == "1\n1\n"
    assert seen[-1].id != first and living() == []
    with pytest.raises(KeyError, match="mine"):
        run_code("raise")
    assert living() == []


def test_a_coroutine_function_gets_an_asynchronous_one():
    async def main() -> None:
        results = await asyncio.gather(*(run_code_async(f"print({n})") for n in range(3)))
        assert results == ["0\n", "1\n", "2\n"] and len({s.id for s in seen[-3:]}) == 3
        with pytest.raises(KeyError, match="mine"):
            await run_code_async("raise")

    assert inspect.iscoroutinefunction(run_code_async)
    asyncio.run(main())
    assert isinstance(seen[-1], AsyncSandbox) and living() == []


def test_the_parameter_is_hidden_from_signature_annotations_and_hints():
    for function in (run_code, run_code_async):
        assert "sandbox" not in inspect.signature(function).parameters
        assert "sandbox" not in function.__annotations__
        assert "sandbox" not in typing.get_type_hints(function)
        assert function.__doc__ == "Runs code." and function.__name__.startswith("run_code")
    parameters = inspect.signature(run_code).parameters
    assert [(p.name, p.annotation, p.default) for p in parameters.values()] == [
        ("code", str, inspect.Parameter.empty),
        ("times", Annotated[int, "how often"], 1),
        ("flag", Optional[bool], None),
    ]
    assert parameters["flag"].kind is inspect.Parameter.KEYWORD_ONLY
    assert inspect.signature(run_code).return_annotation is str


def function_tool(function: Callable[..., Any]) -> Callable[[str], Any]:
    """What frameworks for agents do: a schema of the signature, called with JSON."""
    hints = typing.get_type_hints(function)
    schema = {name: hints[name].__name__ for name in list(inspect.signature(function).parameters)}

    def call(text: str) -> Any:
        return function(**json.loads(text))

    call.schema = schema  # type: ignore[attr-defined]
    return call


def test_it_works_beneath_a_decorator_that_makes_a_tool():
    @function_tool
    @sandboxed(**options)
    def add(a: int, sandbox: Sandbox, b: int) -> str:
        return sandbox.exec(["python3", "-c", f"print({a} + {b})"]).stdout

    assert add.schema == {"a": "int", "b": "int"}
    assert add('{"a": 2, "b": 3}') == "5\n"


def test_methods_positions_and_names_are_as_the_function_has_them():
    class Tools:
        @sandboxed(**options)
        def method(self, sandbox: Sandbox, a: int, *rest: int) -> object:
            return type(sandbox).__name__, a, rest

        @staticmethod
        @sandboxed(parameter="box", **options)
        def last(a: int, b: int = 2, *, box: Sandbox, **more: int) -> object:
            return type(box).__name__, a, b, more

    @sandboxed(parameter="one", **options)
    @sandboxed(parameter="two", **options)
    def both(one, a, two):
        return one.id != two.id, a

    @sandboxed(parameter="s", **options)
    def strict(a, b=5, s=None, /):
        return type(s).__name__, a, b

    assert Tools().method(1, 2, 3) == ("Sandbox", 1, (2, 3))
    assert Tools.last(1) == ("Sandbox", 1, 2, {}) and Tools.last(1, b=3, c=4) == ("Sandbox", 1, 3, {"c": 4})
    assert both(7) == (True, 7) == both(a=7)
    assert strict(1) == ("Sandbox", 1, 5) and strict(1, 2) == ("Sandbox", 1, 2)
    assert living() == []


def test_a_generators_sandbox_lives_until_its_end():
    @sandboxed(**options)
    def pieces(sandbox: Sandbox, n: int) -> Iterator[str]:
        for _ in range(n):
            yield sandbox.id

    @sandboxed(**options)
    async def async_pieces(sandbox: AsyncSandbox, n: int) -> AsyncIterator[str]:
        for _ in range(n):
            yield sandbox.id

    assert len(set(pieces(2))) == 1 and living() == []
    some = pieces(2)
    assert [next(some)] == living()
    some.close()
    assert living() == []

    async def main() -> None:
        assert len({piece async for piece in async_pieces(2)}) == 1 and living() == []
        some = async_pieces(2)
        assert [await some.__anext__()] == living()
        await some.aclose()

    assert inspect.isgeneratorfunction(pieces) and inspect.isasyncgenfunction(async_pieces)
    asyncio.run(main())
    assert living() == []


def test_arguments_that_do_not_fit_make_no_sandbox(monkeypatch):
    monkeypatch.setenv("COVE_URL", "http://127.0.0.1:9")  # where nothing answers
    for call in (
        lambda: run_code(),
        lambda: run_code("x", nothing=1),
        lambda: run_code("x", sandbox=3),
        lambda: run_code_async().send(None),
    ):
        with pytest.raises(TypeError):
            call()

    @sandboxed()
    def anything(sandbox: Sandbox, **more: int) -> None:
        raise AssertionError

    with pytest.raises(TypeError, match="by itself"):
        anything(sandbox=3)


def test_what_can_not_work_is_told_when_it_is_decorated():
    def none(code: str) -> None: ...
    def wrong(sandbox: AsyncSandbox) -> None: ...
    async def wrong_async(sandbox: Sandbox) -> None: ...
    def many(*sandbox: Sandbox) -> None: ...

    for function in (none, wrong, wrong_async, many, 3):
        with pytest.raises(TypeError):
            sandboxed()(function)
    for bad in ({"image": 3}, {"parameter": 3}, {"no_such": 3}, {"keep": True}, {"ttl": 1, "timeout": 1}, {"url": 3}):
        with pytest.raises(TypeError):
            sandboxed(**bad)
    with pytest.raises(InvalidError):
        sandboxed(ttl=-1)


def test_a_name_that_only_type_checkers_know_stays_text():
    @sandboxed
    def odd(sandbox: Sandbox, a: Unknown, b: int) -> None: ...  # noqa: F821

    assert odd.__annotations__ == {"a": "Unknown", "b": int, "return": type(None)}


def execute(code: str, sandbox: Sandbox, times: int = 1) -> str:
    """Runs Python.

    Args:
        code: what to run.
        sandbox: where.
        times: how often.
    """
    return sandbox.exec(["python3", "-c", code]).stdout * times


async def execute_async(sandbox: AsyncSandbox, code: str, times: int = 1) -> str:
    """Runs Python."""
    return (await sandbox.exec(["python3", "-c", code])).stdout * times


SHOWN = {"code": "string", "times": "integer"}


@pytest.mark.parametrize("function", [execute, execute_async])
def test_openai_agents_do_not_see_the_parameter(function):
    agents = pytest.importorskip("agents", reason="it is tested where the agent frameworks are")
    from agents.tool_context import ToolContext

    tool = agents.function_tool(sandboxed(**options)(function))
    assert {k: v["type"] for k, v in tool.params_json_schema["properties"].items()} == SHOWN
    text = '{"code": "print(6 * 7)", "times": 2}'
    context = ToolContext(context=None, tool_name=tool.name, tool_call_id="1", tool_arguments=text)
    assert asyncio.run(tool.on_invoke_tool(context, text)) == "42\n42\n" and living() == []


@pytest.mark.parametrize("function", [execute, execute_async])
def test_langchain_does_not_see_the_parameter(function):
    tools = pytest.importorskip("langchain_core.tools", reason="it is tested where the agent frameworks are")
    tool = tools.tool(sandboxed(**options)(function))
    assert {k: v["type"] for k, v in tool.tool_call_schema.model_json_schema()["properties"].items()} == SHOWN
    assert asyncio.run(tool.ainvoke({"code": "print(6 * 7)"})) == "42\n" and living() == []


@pytest.mark.parametrize("function", [execute, execute_async])
def test_a_server_of_mcp_does_not_show_the_parameter(function):
    mcp = pytest.importorskip("mcp.server.mcpserver", reason="it is tested where the agent frameworks are")
    server = mcp.MCPServer("test")
    server.tool()(sandboxed(**options)(function))
    (tool,) = asyncio.run(server.list_tools())
    assert {k: v["type"] for k, v in tool.input_schema["properties"].items()} == SHOWN
    assert "42" in str(asyncio.run(server.call_tool(tool.name, {"code": "print(6 * 7)"})))
    assert living() == []
