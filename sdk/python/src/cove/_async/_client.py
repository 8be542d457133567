"""A daemon: what it is, the sandboxes it has, its secrets and events."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Union

from .. import _spec as spec
from .._model import known, parse, parse_list
from .._runs import Command, RunRequest, RunResult
from ..types import Duration, Event, Path, RuntimeInfo, SandboxInfo, SecretInfo, VersionInfo
from ._run import one_shot, several
from ._sandbox import AsyncSandbox
from ._transport import AsyncTransport

if TYPE_CHECKING:
    import ssl

    from typing_extensions import Self, Unpack

    from .._options import RunOptions


class AsyncCove:
    """Speaks to one daemon, over connections that all of its sandboxes share.

    ``url`` and ``api_key`` default to COVE_URL and COVE_API_KEY, and then to this user's own
    daemon, which is started where it does not run."""

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        request_timeout: float | None = None,
        verify: bool | str | ssl.SSLContext = True,
    ) -> None:
        self._transport = AsyncTransport(url, api_key, request_timeout, verify)
        self.secrets = AsyncSecrets(self._transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes connections. Sandboxes go on."""
        await self._transport.close()

    def sandbox(self, *args: Any, **options: Any) -> AsyncSandbox:
        """Returns a sandbox, yet to be started; takes what AsyncSandbox takes."""
        return AsyncSandbox(*args, transport=self._transport, **options)

    async def connect(self, sandbox_id: str, timeout: Duration | None = None) -> AsyncSandbox:
        """Returns a handle on the sandbox with this id or name. With ``timeout`` it lives at
        least so long from now on."""
        return await AsyncSandbox.connect(sandbox_id, timeout, transport=self._transport)

    async def kill(self, sandbox_id: str) -> bool:
        """Destroys the sandbox with this id or name. False: there is none."""
        return await AsyncSandbox.kill(sandbox_id, transport=self._transport)

    async def list(self, labels: Mapping[str, str] | None = None, state: str | None = None) -> _Infos:
        """Returns the sandboxes that there are."""
        return await AsyncSandbox.list(labels, state, transport=self._transport)

    async def run(
        self,
        commands: Command | Sequence[Command],
        files: Path | Mapping[str, str | bytes] | None = None,
        **options: Unpack[RunOptions],
    ) -> RunResult:
        """Runs commands in a sandbox of their own; takes what RunRequest takes."""
        return await one_shot(self._transport, RunRequest(commands, files, **options))

    async def run_parallel(self, requests: Sequence[RunRequest | Mapping[str, Any]], concurrency: int = 4) -> _Runs:
        """Does several runs, some at the same time, and returns for each its result or its
        error. One for which the host has no room now is tried again."""
        return await several(self._transport, requests, concurrency)

    async def version(self) -> VersionInfo:
        """Returns what the daemon is."""
        return parse(VersionInfo, await self._transport.json("GET", "/v1/version"))

    async def runtimes(self) -> _Runtimes:
        """Returns what the daemon's host can, and can't, isolate with, and why."""
        return parse_list(RuntimeInfo, await self._transport.json("GET", "/v1/runtimes"), "runtimes")

    async def events(
        self, after: int | None = None, *, sandbox: str | None = None, types: Sequence[str] = (), follow: bool = True
    ) -> AsyncIterator[Event]:
        """Yields what happens to sandboxes: from now on, or what is kept after a number, 0
        being all of that."""
        spec.check("after", after, int)
        spec.check("sandbox", sandbox, str)
        spec.need("follow", follow, bool)
        params: dict[str, Any] = {"type": spec.strings("types", types)}
        if after is not None:
            params["after"] = str(after)
        if sandbox:
            params["sandbox"] = sandbox
        if not follow:
            params["no_follow"] = "true"
        async for data in self._transport.events("/v1/events", params=params, finite=not follow):
            for event in known(Event, data):
                yield event


_Infos = list[SandboxInfo]
_Runtimes = list[RuntimeInfo]
_Runs = list[Union[RunResult, Exception]]


class AsyncSecrets:
    """The daemon's stored secrets, whose values nobody reads back."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def set(self, name: str, value: str, hosts: Sequence[str], places: Sequence[str] | None = None) -> SecretInfo:
        """Stores a secret that may go to these hosts, or replaces the one of that name."""
        spec.need("value", value, str)
        spec.need("hosts", hosts, list, tuple)
        body = spec.drop_none(
            {"value": value, "hosts": spec.strings("hosts", hosts), "in": spec.strings("places", places)}
        )
        return parse(SecretInfo, await self._transport.json("PUT", _path(name), json=body))

    async def get(self, name: str) -> SecretInfo:
        """Describes a secret."""
        return parse(SecretInfo, await self._transport.json("GET", _path(name)))

    async def list(self) -> _Secrets:
        """Describes all secrets."""
        return parse_list(SecretInfo, await self._transport.json("GET", "/v1/secrets"), "secrets")

    async def remove(self, name: str) -> None:
        """Removes a secret; sandboxes that use it can't from then on."""
        await self._transport.request("DELETE", _path(name))


_Secrets = list[SecretInfo]


def _path(name: str) -> str:
    from urllib.parse import quote

    spec.need("name", name, str)
    return "/v1/secrets/" + (quote(spec.encode("name", name), safe="") if name not in ("", ".", "..") else "-")
