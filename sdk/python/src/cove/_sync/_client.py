"""A daemon: what it is, the sandboxes it has, its secrets and events."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .. import _spec as spec
from .._model import known, parse, parse_list
from .._runs import Command, RunRequest, RunResult
from ..types import Duration, Event, Path, RuntimeInfo, SandboxInfo, SecretInfo, VersionInfo
from ._run import one_shot, several
from ._sandbox import Sandbox
from ._transport import Transport

if TYPE_CHECKING:
    import ssl

    from typing_extensions import Self, Unpack

    from .._options import RunOptions


class Cove:
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
        self._transport = Transport(url, api_key, request_timeout, verify)
        self.secrets = Secrets(self._transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes connections. Sandboxes go on."""
        self._transport.close()

    def sandbox(self, *args: Any, **options: Any) -> Sandbox:
        """Returns a sandbox, yet to be started; takes what Sandbox takes."""
        return Sandbox(*args, transport=self._transport, **options)

    def connect(self, sandbox_id: str, timeout: Duration | None = None) -> Sandbox:
        """Returns a handle on the sandbox with this id or name. With ``timeout`` it lives at
        least so long from now on."""
        return Sandbox.connect(sandbox_id, timeout, transport=self._transport)

    def kill(self, sandbox_id: str) -> bool:
        """Destroys the sandbox with this id or name. False: there is none."""
        return Sandbox.kill(sandbox_id, transport=self._transport)

    def list(self, labels: Mapping[str, str] | None = None, state: str | None = None) -> _Infos:
        """Returns the sandboxes that there are."""
        return Sandbox.list(labels, state, transport=self._transport)

    def run(
        self,
        commands: Command | Sequence[Command],
        files: Path | Mapping[str, str | bytes] | None = None,
        **options: Unpack[RunOptions],
    ) -> RunResult:
        """Runs commands in a sandbox of their own; takes what RunRequest takes."""
        return one_shot(self._transport, RunRequest(commands, files, **options))

    def run_parallel(self, requests: Sequence[RunRequest | Mapping[str, Any]], concurrency: int = 4) -> _Runs:
        """Does several runs, some at the same time, and returns for each its result or its
        error. One for which the host has no room now is tried again."""
        return several(self._transport, requests, concurrency)

    def version(self) -> VersionInfo:
        """Returns what the daemon is."""
        return parse(VersionInfo, self._transport.json("GET", "/v1/version"))

    def runtimes(self) -> _Runtimes:
        """Returns what the daemon's host can, and can't, isolate with, and why."""
        return parse_list(RuntimeInfo, self._transport.json("GET", "/v1/runtimes"), "runtimes")

    def events(
        self, after: int | None = None, *, sandbox: str | None = None, types: Sequence[str] = (), follow: bool = True
    ) -> Iterator[Event]:
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
        for data in self._transport.events("/v1/events", params=params, finite=not follow):
            for event in known(Event, data):
                yield event


_Infos = list[SandboxInfo]
_Runtimes = list[RuntimeInfo]
_Runs = list[RunResult | Exception]


class Secrets:
    """The daemon's stored secrets, whose values nobody reads back."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def set(self, name: str, value: str, hosts: Sequence[str], places: Sequence[str] | None = None) -> SecretInfo:
        """Stores a secret that may go to these hosts, or replaces the one of that name."""
        spec.need("value", value, str)
        spec.need("hosts", hosts, list, tuple)
        body = spec.drop_none(
            {"value": value, "hosts": spec.strings("hosts", hosts), "in": spec.strings("places", places)}
        )
        return parse(SecretInfo, self._transport.json("PUT", _path(name), json=body))

    def get(self, name: str) -> SecretInfo:
        """Describes a secret."""
        return parse(SecretInfo, self._transport.json("GET", _path(name)))

    def list(self) -> _Secrets:
        """Describes all secrets."""
        return parse_list(SecretInfo, self._transport.json("GET", "/v1/secrets"), "secrets")

    def remove(self, name: str) -> None:
        """Removes a secret; sandboxes that use it can't from then on."""
        self._transport.request("DELETE", _path(name))


_Secrets = list[SecretInfo]


def _path(name: str) -> str:
    from urllib.parse import quote

    spec.need("name", name, str)
    return "/v1/secrets/" + (quote(spec.encode("name", name), safe="") if name not in ("", ".", "..") else "-")
