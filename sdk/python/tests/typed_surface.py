"""What a type checker has to make of the surface; checked by mypy, never run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

from typing_extensions import assert_type

from cove import AsyncSandbox, Limits, RunResult, Sandbox, async_run, run, run_parallel, sandboxed


@sandboxed
def bare(sandbox: Sandbox, code: str, times: int = 1) -> str:
    return sandbox.exec(["python3", "-c", code * times]).stdout


@sandboxed(image="python:3.12", network=["pip"], ttl=60)
def plain(sandbox: Sandbox, code: str) -> int:
    return len(code)


@sandboxed(parameter="box")
async def asynchronous(box: AsyncSandbox, code: str) -> int:
    return (await box.exec([code])).exit_code


@sandboxed()
def pieces(sandbox: Sandbox) -> Iterator[str]:
    yield sandbox.id


@sandboxed()
async def async_pieces(sandbox: AsyncSandbox) -> AsyncIterator[str]:
    yield sandbox.id


class Tools:
    @sandboxed()
    def method(self, sandbox: Sandbox, code: str) -> str:
        return code


async def decorated() -> None:
    assert_type(bare("x", times=2), str)
    assert_type(plain(code="x"), int)
    assert_type(await asynchronous("x"), int)
    assert_type(pieces(), Iterator[str])
    assert_type(async_pieces(), AsyncIterator[str])
    assert_type(Tools().method("x"), str)
    bare(1)  # type: ignore[arg-type]
    plain()  # type: ignore[call-arg]
    await asynchronous("x", Sandbox())  # type: ignore[call-arg]
    sandboxed(image=3)  # type: ignore[call-overload]
    sandboxed(no_such_option=3)  # type: ignore[call-overload]


async def killed(sandbox: Sandbox, other: AsyncSandbox) -> None:
    assert_type(sandbox.kill(), bool)
    assert_type(Sandbox.kill("id", url="http://host"), bool)
    assert_type(await other.kill(), bool)
    assert_type(await AsyncSandbox.kill("id"), bool)
    sandbox.kill("id")  # type: ignore[call-arg]
    Sandbox.kill()  # type: ignore[call-arg]


async def runs() -> None:
    assert_type(run("make", "project", limits=Limits(cpu=1), retry=2), RunResult)
    assert_type(await async_run(["make", ["make", "test"]], {"Makefile": "all:"}), RunResult)
    assert_type(run_parallel([{"commands": "make"}]), list[RunResult | Exception])
    run("make", image=3)  # type: ignore[arg-type]
    run("make", no_such_option=3)  # type: ignore[call-arg]
