"""What users of doka, axio-tools-docker and Roche do, beyond the examples of test_migrate."""

from __future__ import annotations

import asyncio

from conftest import RUNTIME

from cove import AsyncSandbox, Limits, Sandbox


def test_doka():
    with Sandbox(RUNTIME, Limits(cpu=1, memory="512m", network=False)) as sandbox:
        result = sandbox.commands.run("echo hello")
        assert (result.stdout, result.exit_code, result.success) == ("hello\n", 0, True)
        sandbox.files.write("/workspace/deep/main.py", "print('hi')")  # parents are made
        assert sandbox.files.exists("/workspace/deep/main.py")
        assert sandbox.files.read("/workspace/deep/main.py") == "print('hi')"
        process = sandbox.commands.run(
            "for i in 1 2 3; do echo $i; done", background=True, env={"A": "1"}, workdir="/tmp"
        )
        assert "".join(process.stdout.stream()) == "1\n2\n3\n"
        assert process.wait().exit_code == 0
        process = sandbox.commands.run("sleep 600", background=True)
        process.kill()
        assert not process.wait().success


def test_doka_start_and_close():
    sandbox = Sandbox(RUNTIME)
    sandbox.start()
    try:
        assert sandbox.commands.run("python3 -c 'print(1)'").stdout == "1\n"
    finally:
        sandbox.close()


def test_axio_tools_docker():
    async def main() -> None:
        limits = Limits(memory="256m", cpu=1.0)
        async with AsyncSandbox(RUNTIME, limits, workdir="/workspace", env={"A": "1"}) as sandbox:
            result = await sandbox.commands.run("echo $A; cat", stdin="in", timeout=30)
            assert (result.stdout, result.exit_code) == ("1\nin", 0)
            await sandbox.files.write("notes/todo.txt", "one\ntwo\n", mode=0o644)
            assert await sandbox.files.read("notes/todo.txt", "bytes") == b"one\ntwo\n"
            assert [f.name for f in await sandbox.files.list("notes")] == ["todo.txt"]
            slow = await sandbox.commands.run("echo begun; sleep 600", timeout=0.5)
            assert slow.timed_out and slow.stdout == "begun\n"  # kept, and the process is dead

    asyncio.run(main())


def test_roche(tmp_path):
    (tmp_path / "data.csv").write_text("1,2,3\n")
    with Sandbox.create(RUNTIME, timeout=300) as sandbox:
        output = sandbox.exec(["python3", "-c", "print('Hello from Roche!')"])
        assert (output.stdout, output.stderr, output.exit_code) == ("Hello from Roche!\n", "", 0)
        sandbox.files.upload(tmp_path / "data.csv", "/workspace/data.csv")
        sandbox.commands.run("tr , '\\n' <data.csv >lines.txt", check=True)
        sandbox.files.download("/workspace/lines.txt", tmp_path / "lines.txt")
        assert (tmp_path / "lines.txt").read_text() == "1\n2\n3\n"
        # No network unless it is asked for.
        assert sandbox.exec(["python3", "-c", "import socket; socket.getaddrinfo('example.com', 80)"]).exit_code == 1


def test_roche_in_asyncio_and_in_parallel():
    async def one(n: int) -> str:
        async with AsyncSandbox(RUNTIME) as sandbox:
            return (await sandbox.exec(["python3", "-c", f"print({n} * {n})"])).stdout

    async def main() -> list[str]:
        return await asyncio.gather(*(one(n) for n in range(3)))

    assert asyncio.run(main()) == ["0\n", "1\n", "4\n"]
