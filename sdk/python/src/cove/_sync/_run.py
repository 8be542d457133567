"""One-shot runs: files in, commands, and what they changed out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .. import _spec as spec
from .._runs import Command, RunRequest, RunResult, boundary
from ..types import Path
from ._io import upload
from ._parallel import all_of
from ._transport import Transport

if TYPE_CHECKING:
    import ssl

    from typing_extensions import Unpack

    from .._options import RunOptions


def run(
    commands: Command | Sequence[Command],
    files: Path | Mapping[str, str | bytes] | None = None,
    *,
    url: str | None = None,
    api_key: str | None = None,
    request_timeout: float | None = None,
    verify: bool | str | ssl.SSLContext = True,
    **options: Unpack[RunOptions],
) -> RunResult:
    """Runs commands in a sandbox of their own, which is gone when this returns or raises.

    Takes what RunRequest takes: ``run("make test", "project", image="python:3.12")``. A
    command that fails is a result: see ``RunResult.check``.
    """
    request = RunRequest(commands, files, **options)
    transport = Transport(url, api_key, request_timeout, verify)
    try:
        return one_shot(transport, request)
    finally:
        transport.close()


def run_parallel(
    requests: Sequence[RunRequest | Mapping[str, Any]],
    concurrency: int = 4,
    *,
    url: str | None = None,
    api_key: str | None = None,
    request_timeout: float | None = None,
    verify: bool | str | ssl.SSLContext = True,
) -> list[RunResult | Exception]:
    """Does several runs, ``concurrency`` at the same time, and returns for each its result or
    the error that it ended with, in their order.

    One for which the host has no room now is tried again. When this call is interrupted,
    what runs is killed.
    """
    transport = Transport(url, api_key, request_timeout, verify)
    try:
        return several(transport, requests, concurrency)
    finally:
        transport.close()


def several(
    transport: Transport, requests: Sequence[RunRequest | Mapping[str, Any]], concurrency: int
) -> list[RunResult | Exception]:
    """Does several runs."""
    wanted = [RunRequest(**r) if isinstance(r, Mapping) else r for r in spec.items("requests", requests)]
    for request in wanted:
        if not isinstance(request, RunRequest):
            raise TypeError(f"a request must be RunRequest, not {type(request).__name__}")
    return all_of(transport, wanted, spec.at_least_one("concurrency", concurrency))


def one_shot(transport: Transport, request: RunRequest) -> RunResult:
    """Does one run."""
    left: list[str] = []
    border = boundary()
    content = request.content(border, left)
    read = None if transport.local else request.patience()
    if content is None:
        reply = transport.json("POST", "/v1/run", json=request.body, read=read)
    else:
        headers = {"Content-Type": f"multipart/form-data; boundary={border}"}
        reply = transport.json("POST", "/v1/run", content=upload(content), headers=headers, read=read)
    return request.result(reply, left)
