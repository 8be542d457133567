"""The tools: their definitions without a daemon, and what they do with one."""

from __future__ import annotations

import asyncio
import inspect
import json
import subprocess
import sys

import pytest
from conftest import RUNTIME

from cove import AsyncSandbox, NotFoundError, Sandbox
from cove.tools import AsyncTools, Tools, schemas

NAMES = ["shell", "run_python", "read_file", "write_file", "list_files", "patch_file", "edit_file", "grep", "glob"]


@pytest.fixture(scope="module")
def tools(box: Sandbox) -> Tools:
    return Tools(box)


@pytest.mark.parametrize("format", ["openai", "openai-responses", "anthropic", "mcp", "cove"])
def test_schemas_are_those_that_the_program_hands_out(format):
    from cove._daemon import program

    done = subprocess.run([program(), "tools", "--format", format], capture_output=True, text=True, check=True)
    assert schemas(format) == json.loads(done.stdout)


def test_the_daemon_has_the_definitions_of_the_package(tools: Tools):
    reply = tools._sandbox._transport.json("GET", "/v1/tools")
    assert reply["tools"] == schemas("cove")


def test_schemas_of_some_tools_are_the_callers_own():
    first = schemas("openai", only=["shell", "glob"])
    assert [s["function"]["name"] for s in first] == ["shell", "glob"]
    first[0]["function"]["parameters"].clear()
    assert schemas("openai", only=["shell"])[0]["function"]["parameters"]["required"]
    with pytest.raises(ValueError, match="anthropic"):
        schemas("xml")  # type: ignore[arg-type]
    with pytest.raises(NotFoundError, match="run_python"):
        schemas("openai", only=["sudo"])
    with pytest.raises(TypeError):
        schemas("openai", only="shell")


def test_every_tool_is_a_method_with_its_parameters():
    for kind in (Tools, AsyncTools):
        for tool in schemas("cove"):
            parameters = dict(inspect.signature(getattr(kind, tool["name"])).parameters)
            parameters.pop("self")
            assert list(parameters) == list(tool["parameters"]["properties"])
            required = [name for name, p in parameters.items() if p.default is p.empty]
            assert required == tool["parameters"].get("required", [])


def test_every_tool_works(tools: Tools):
    assert tools.names == NAMES
    assert not tools.write_file("src/a.py", "def f():\n    return 1\n", mode="0755").is_error
    assert "return 1" in tools.read_file("src/a.py", start_line=2).text
    assert not tools.edit_file("src/a.py", "return 1", "return 2").is_error
    assert not tools.patch_file("src/a.py", 1, 0, "# first").is_error
    assert [e["name"] for e in tools.list_files("src").data["entries"]] == ["a.py"]
    assert tools.grep("return [0-9]", glob="*.py").data["matches"][0]["line"] == 3
    assert tools.glob("**/*.py").data["paths"] == ["src/a.py"]
    assert tools.run_python("import a; print(a.f())", cwd="src").data["stdout"] == "2\n"
    result = tools.shell("stat -c %a src/a.py; cat; exit 3", stdin="größe")
    assert (result.is_error, result.data["exit_code"], result.data["stdout"]) == (False, 3, "755\ngröße")
    assert str(result) == result.text


def test_a_timeout_kills_and_keeps_the_output(tools: Tools):
    result = tools.shell("echo begun; sleep 61 & sleep 62", timeout=0.5)
    assert result.is_error and result.data["timed_out"] and result.data["stdout"] == "begun\n"
    assert tools.shell("pgrep -f 'sleep 6[12]'").data["exit_code"] == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ('{"command": ', "not a JSON object"),
        ('["ls"]', "not a JSON object"),
        ('{"command": NaN}', "not a JSON object"),
        ("[" * 100_000, "not a JSON object"),
        ('"ls"', "not a JSON object"),
        ("", "command is missing"),
        (None, "command is missing"),
        ("null", "command is missing"),
        ({"command": 7}, "give it as string"),
        ({"command": "true", "color": "red"}, "color"),
        ({"command": "true", "timeout": -1}, "timeout"),
    ],
)
def test_what_a_model_does_wrong_is_told_to_the_model(tools: Tools, arguments, says):
    result = tools.call("shell", arguments)
    assert result.is_error and result.data["code"] == "invalid"
    assert says in result.text


def test_what_a_program_does_wrong_is_raised(tools: Tools):
    with pytest.raises(NotFoundError, match="use one of shell"):
        tools.call("sudo", {})
    with pytest.raises(NotFoundError, match="use one of read_file"):
        Tools(tools._sandbox, only=["read_file"]).call("shell", {"command": "true"})
    with pytest.raises(TypeError, match="dict or JSON"):
        tools.call("shell", 7)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="name must be str"):
        tools.call(7, {})  # type: ignore[arg-type]


def test_arguments_may_be_the_json_that_a_model_wrote(tools: Tools):
    for arguments in ('{"command": "echo ok", "timeout": null, "cwd": null, "stdin": null}', b'{"command": "echo ok"}'):
        result = tools.call("shell", arguments)
        assert (result.is_error, result.data["stdout"]) == (False, "ok\n")


def test_the_same_works_in_asyncio_and_a_cancelled_call_is_killed():
    async def main() -> None:
        async with AsyncSandbox(RUNTIME) as sandbox:
            tools = AsyncTools(sandbox)
            results = await asyncio.gather(*(tools.shell(f"echo {n}") for n in range(3)))
            assert [r.data["stdout"] for r in results] == ["0\n", "1\n", "2\n"]
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(tools.shell("echo $$ >pid; exec sleep 63"), 1)
            for _ in range(200):
                if (await tools.shell("kill -0 $(cat pid)")).data["exit_code"]:
                    return
                await asyncio.sleep(0.05)
            raise AssertionError("the command lives on")

    asyncio.run(main())


def test_functions_are_plain_and_typed(tools: Tools):
    functions = {f.__name__: f for f in tools.functions()}
    assert list(functions) == NAMES
    shell = functions["shell"]
    signature = inspect.signature(shell)
    assert list(signature.parameters) == ["command", "timeout", "cwd", "stdin"]
    assert signature.parameters["command"].annotation is str and signature.return_annotation is str
    assert shell.__annotations__["command"] is str
    assert shell.__doc__ and "Args:" in shell.__doc__
    assert "ok" in shell("echo ok")
    assert [inspect.iscoroutinefunction(f) for f in AsyncTools(tools._sandbox).functions()] == [True] * 9  # type: ignore[arg-type]


def test_schemas_load_neither_httpx_nor_asyncio_nor_a_framework():
    code = (
        "import sys, cove.tools, cove.toolkits; cove.tools.schemas(); "
        "print([m for m in ('httpx', 'asyncio', 'agents', 'langchain_core', 'axio') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("toolkit", ["openai_agents", "langchain", "deepagents", "axio"])
def test_a_framework_that_is_not_there_is_named(toolkit):
    code = f"import sys; sys.modules.update(dict.fromkeys(('agents', 'langchain_core', 'deepagents', 'axio'))); import cove.toolkits.{toolkit}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f"pip install 'cove-sandbox[{toolkit.replace('_', '-')}]'" in done.stderr
