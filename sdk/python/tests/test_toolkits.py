"""Agents of each framework do a whole task with a scripted model, in a sandbox, as docs/tools.md shows."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from importlib.metadata import requires, version
from typing import Any

import pytest
from conftest import RUNTIME
from scripted import DEEP_SCRIPT, DONE, SCRIPT, TASK, Step, check_mended, check_read, example, lay_out

from cove import AsyncSandbox, GoneError, NotFoundError, Sandbox
from cove.tools import schemas

os.environ["OPENAI_AGENTS_DISABLE_TRACING"] = "1"


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """A sandbox with the project whose tests fail."""
    with Sandbox(runtime=RUNTIME) as sandbox:
        lay_out(sandbox)
        yield sandbox


def openai_model(script: list[Step]) -> Any:
    """A model for the OpenAI Agents SDK, which says null where it leaves something out, as in strict mode."""
    from agents.testing import ScriptedModel, assistant_message, function_call

    strict = {s["name"]: s["strict_parameters"]["required"] for s in schemas("cove")}
    calls = [
        [function_call(s.tool, {name: s.arguments.get(name) for name in strict[s.tool]}, call_id=f"call-{n}")]
        for n, s in enumerate(script)
    ]
    return ScriptedModel([*calls, [assistant_message(DONE)]])


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_openai_agents(sandbox: Sandbox, kind: str):
    repair = example("OpenAI's Agents SDK")["repair"]
    model = openai_model(SCRIPT)

    async def main() -> str:
        if kind == "sync":
            return await repair(sandbox, model, TASK)
        connected = await AsyncSandbox.connect(sandbox.id)
        try:
            return await repair(connected, model, TASK)
        finally:
            await connected.close()

    assert asyncio.run(main()) == DONE
    model.assert_complete()
    check_read(SCRIPT, [i["output"] for i in model.last_call.input if i.get("type") == "function_call_output"])
    check_mended(sandbox)
    strict = {s["name"]: s["parameters"] for s in schemas("openai-responses")}
    assert {t.name: t.params_json_schema for t in model.first_call.tools} == strict


def test_openai_agents_end_when_the_sandbox_is_gone(sandbox: Sandbox):
    from agents import UserError

    repair = example("OpenAI's Agents SDK")["repair"]
    sandbox.kill()
    with pytest.raises(UserError, match="the sandbox is closed") as caught:
        asyncio.run(repair(sandbox, openai_model(SCRIPT[:1]), TASK))
    assert isinstance(caught.value.__cause__, GoneError)


def chat_model(script: list[Step]) -> Any:
    """A chat model of LangChain, which keeps what it read and which tools it was given."""
    from langchain_core.language_models.fake_chat_models import FakeMessagesListChatModel
    from langchain_core.messages import AIMessage

    class Scripted(FakeMessagesListChatModel):
        read: list[Any] = []
        tools: list[Any] = []

        def bind_tools(self, tools: Any, **_: Any) -> Scripted:
            self.tools[:] = tools
            return self

        def _generate(self, messages: Any, *args: Any, **options: Any) -> Any:
            self.read[:] = [m for m in messages if m.type == "tool"]
            return super()._generate(messages, *args, **options)

    calls = [
        AIMessage("", tool_calls=[{"name": s.tool, "args": s.arguments, "id": f"call-{n}"}])
        for n, s in enumerate(script)
    ]
    return Scripted(responses=[*calls, AIMessage(DONE)])


def test_langchain(sandbox: Sandbox):
    model = chat_model(SCRIPT)
    assert example("LangChain")["repair"](sandbox, model, TASK) == DONE
    check_read(SCRIPT, [m.text for m in model.read])
    assert [m.status for m in model.read] == ["error" if s.fails else "success" for s in SCRIPT]
    assert [m.artifact["exit_code"] for m in model.read if m.name == "shell"] == [1, 0]
    check_mended(sandbox)


def test_langchain_shows_a_model_the_schemas(sandbox: Sandbox):
    from langchain_core.utils.function_calling import convert_to_openai_tool

    from cove.toolkits.langchain import tools

    plain = {s["name"]: s for s in schemas("anthropic")}
    for tool in tools(sandbox):
        function = convert_to_openai_tool(tool)["function"]
        assert function["description"] == plain[tool.name]["description"]
        assert function["parameters"]["properties"] == plain[tool.name]["input_schema"]["properties"]


def test_langchain_in_asyncio(sandbox: Sandbox):
    from langchain.agents import create_agent

    from cove.toolkits.langchain import tools

    async def main() -> str:
        model = chat_model(SCRIPT)
        connected = await AsyncSandbox.connect(sandbox.id)
        agent = create_agent(model, tools=tools(connected))
        state = await agent.ainvoke({"messages": [("user", TASK)]})
        await connected.close()
        check_read(SCRIPT, [m.text for m in model.read])
        return state["messages"][-1].text

    assert asyncio.run(main()) == DONE
    check_mended(sandbox)


def test_deepagents(sandbox: Sandbox):
    model = chat_model(DEEP_SCRIPT)
    assert example("deepagents")["repair"](sandbox, model, TASK) == DONE
    check_read(DEEP_SCRIPT, [m.text for m in model.read])
    assert {"execute", "read_file", "write_file", "edit_file", "ls", "grep", "glob"} <= {t.name for t in model.tools}
    check_mended(sandbox)


def test_the_backend_of_deepagents_keeps_its_protocol(sandbox: Sandbox):
    from cove.toolkits.deepagents import CoveBackend

    backend = CoveBackend(sandbox)
    assert backend.id == sandbox.id
    done = backend.execute("echo a; echo b >&2; echo c; exit 3")
    assert (done.output, done.exit_code, done.truncated) == ("a\nb\nc\n", 3, False)
    late = backend.execute("echo begun; sleep 64", timeout=1)
    assert late.exit_code == 124 and late.output.startswith("begun\n") and "killed" in late.output
    large = CoveBackend(sandbox, max_output=1000).execute("head -c 100000 /dev/zero")
    assert large.truncated and len(large.output) < 2000

    written = {"/workspace/d/a": None, "a": "invalid_path", "/workspace/d": "is_directory"}
    assert {r.path: r.error for r in backend.upload_files([(p, b"\0\xff") for p in written])} == written
    read = {**written, "/workspace/none": "file_not_found"}
    assert {r.path: r.error for r in backend.download_files(list(read))} == read
    assert backend.download_files(["/workspace/d/a"])[0].content == b"\0\xff"

    assert backend.write("/workspace/b.py", "x = 1\n").error is None
    assert backend.edit("/workspace/b.py", "x = 1", "x = 2").occurrences == 1
    assert backend.read("/workspace/b.py").file_data["content"] == "x = 2"
    assert [m["path"] for m in backend.glob("*.py", "/workspace").matches] == [
        "/workspace/b.py", "/workspace/project/cart.py", "/workspace/project/test_cart.py",
    ]  # fmt: skip
    assert [(m["path"], m["line"]) for m in backend.grep("x = ", "/workspace").matches] == [("/workspace/b.py", 1)]
    assert backend.delete("/workspace/b.py").error is None
    assert "not found" in backend.delete("/workspace/b.py").error
    large = "y" * 400_000  # more than an argument may have
    assert backend.write("/workspace/large", large).error is None
    assert backend.edit("/workspace/large", large, "z").occurrences == 1
    sandbox.kill()
    with pytest.raises((GoneError, NotFoundError)):
        backend.upload_files([("/workspace/a", b"")])


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_axio(sandbox: Sandbox, kind: str):
    from axio.blocks import ToolResultBlock
    from axio.testing import StubTransport, make_text_response, make_tool_use_response

    class Scripted(StubTransport):
        read: list[ToolResultBlock] = []

        def stream(self, messages: Any, tools: Any, system: str) -> AsyncIterator[Any]:
            self.read = [b for m in messages for b in m.content if isinstance(b, ToolResultBlock)]
            self.tools = tools
            return super().stream(messages, tools, system)

    calls = [make_tool_use_response(s.tool, f"call-{n}", s.arguments) for n, s in enumerate(SCRIPT)]
    transport = Scripted([*calls, make_text_response(DONE)])
    repair = example("axio")["repair"]

    async def main() -> str:
        if kind == "sync":
            return await repair(sandbox, transport, TASK)
        connected = await AsyncSandbox.connect(sandbox.id)
        try:
            answer = await repair(connected, transport, TASK)
            shell = next(t for t in transport.tools if t.name == "shell")
            assert shell.input_schema["required"] == ["command"]
            assert "null-ok" in await shell(command="echo null-ok", timeout=None, cwd=None)
            return answer
        finally:
            await connected.close()

    assert asyncio.run(main()) == DONE
    check_read(SCRIPT, [str(b.content) for b in transport.read])
    assert [b.is_error for b in transport.read] == [s.fails for s in SCRIPT]
    check_mended(sandbox)


def test_the_protocol(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch):
    # The program is the one that belongs to the package.
    from cove._daemon import program

    monkeypatch.setenv("PATH", os.path.dirname(program()) + os.pathsep + os.environ["PATH"])
    env = {name: os.environ[name] for name in ("COVE_STATE_DIR", "COVE_DATA_DIR", "PATH")}
    call = example("The protocol's own client")["call"]
    results = asyncio.run(call(sandbox, [(s.tool, s.arguments) for s in SCRIPT], env))
    check_read(SCRIPT, [r.content[0].text for r in results])
    assert [bool(r.is_error) for r in results] == [s.fails for s in SCRIPT]
    assert results[-1].structured_content["exit_code"] == 0
    check_mended(sandbox)
    assert sandbox.is_running()  # it is not the session's to remove


def test_the_first_example_works(sandbox: Sandbox, capsys: pytest.CaptureFixture[str]):
    example()["work"](sandbox)
    assert "False 0" in capsys.readouterr().out


def test_plain_functions_are_tools_of_any_framework(sandbox: Sandbox):
    from agents import function_tool
    from langchain_core.tools import tool

    plain = {s["name"]: s["input_schema"]["properties"] for s in schemas("anthropic")}
    for function in sandbox.tools.functions():
        name = function.__name__
        made = tool(function, parse_docstring=True)
        assert list(made.args) == list(plain[name])
        described = function_tool(function).params_json_schema["properties"]
        for parameter, schema in plain[name].items():
            text = " ".join(schema["description"].split())
            assert " ".join(made.args[parameter]["description"].split()) == text
            assert " ".join(described[parameter]["description"].split()) == text
    shell = tool(sandbox.tools.functions()[0])
    assert "42" in shell.invoke({"command": "echo 42"})


def test_what_is_tested_is_what_an_extra_installs():
    from packaging.requirements import Requirement

    # The extras of the installed package, and the pinned versions that these tests run with.
    found = [Requirement(r) for r in requires("cove-sandbox") or []]
    extras = {r.name: r for r in found if r.marker and "extra" in str(r.marker)}
    assert set(extras) == {"openai-agents", "langchain-core", "deepagents", "axio"}
    for name, requirement in extras.items():
        assert version(name) in requirement.specifier, requirement
