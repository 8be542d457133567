"""What must hold on every version of Python: the README's two lines, and a bit of each part."""

from __future__ import annotations

import asyncio
import os

from conftest import RUNTIME

CODE = "print('größe', 6 * 7)"


def test_the_first_lines_of_the_readme_work_with_nothing_running():
    from cove import Limits, Sandbox

    limits = Limits(cpu=1, memory="512m", network=False)
    with Sandbox(runtime=RUNTIME, image="host", limits=limits) as sandbox:
        sandbox.files.write("/workspace/main.py", CODE)
        result = sandbox.commands.run("python3 main.py")
        assert (result.stdout, result.stderr, result.exit_code) == ("größe 42\n", "", 0)
        pieces: list[str] = []
        sandbox.commands.run("printf a; printf b >&2", on_stdout=pieces.append, on_stderr=pieces.append)
        assert sorted("".join(pieces)) == ["a", "b"]
        handle = sandbox.commands.run("cat", background=True, stdin=True)
        handle.send_stdin("hello", close=True)
        assert list(handle.stdout.stream()) == ["hello"]
        assert handle.wait().exit_code == 0


def test_the_same_works_in_asyncio():
    from cove import AsyncSandbox

    async def main() -> None:
        async with AsyncSandbox(runtime=RUNTIME) as sandbox:
            await sandbox.files.write("main.py", CODE)
            results = await asyncio.gather(*(sandbox.commands.run("python3 main.py") for _ in range(3)))
            assert [r.stdout for r in results] == ["größe 42\n"] * 3

    asyncio.run(main())


def test_what_is_tested_is_the_installed_wheel():
    import cove

    if os.environ.get("COVE_TEST_WHEEL"):
        assert "site-packages" in cove.__file__
        program = os.path.join(os.path.dirname(cove.__file__), "_bin", "cove")
        assert os.access(program, os.X_OK)
