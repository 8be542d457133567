"""A sandbox."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from .. import _lease
from .. import _spec as spec
from .._either import either
from .._lease import Lease, keeper
from .._model import parse, parse_list
from ..errors import CoveError, GoneError, InvalidError, NotFoundError, closed
from ..types import (
    CommandResult,
    Duration,
    Limits,
    Mount,
    SandboxInfo,
    Secret,
)
from ._commands import Commands
from ._files import Files
from ._io import Lock, shielded
from ._pty import Pty
from ._reach import Reach
from ._transport import Transport, decoded

if TYPE_CHECKING:
    import ssl

    from typing_extensions import Self

    from ._tools import Tools

#: How long a sandbox lives unless said otherwise, in seconds; as the daemon has it.
_TTL = 3600.0
_FOREVER = float("inf")


class Sandbox(Reach):
    """A computer of its own, for code that is not trusted.

    It is made when a ``with`` block is entered, by ``start``, or by the first use, and ends
    with the block, by ``kill``, when ``ttl`` has passed, or with this process, however that
    ends; with ``keep=True`` only by ``kill`` or ``ttl``. ``create`` makes one at once.

    :param runtime: what isolates, as in gvisor (the daemon's default), runc, docker,
        docker:gvisor; ``image``: host (the default), an OCI reference or an archive.
    :param limits: see Limits. ``network``: True, False, "none", "open", a list of rules, or
        a Network; ``secrets``: names or Secrets that the sandbox uses without seeing them.
    :param ttl: how long it lives, in seconds or as in "2h"; default 1 hour; 0 is for ever.
        E2B's ``timeout`` is the same. ``idle``: ends it after that long without use.
    :param command_timeout: the longest that a command may take; default 300 s.
    :param ports: ports inside that are opened on the daemon's machine.
    :param url: the daemon's address; default COVE_URL, else this user's own daemon, which is
        started where it does not run. ``api_key``: default COVE_API_KEY.

    ``template``, ``envs`` and ``metadata`` are ``image``, ``env`` and ``labels``.
    """

    def __init__(
        self,
        runtime: str | None = None,
        limits: Limits | None = None,
        image: str | None = None,
        *,
        template: str | None = None,
        timeout: Duration | None = None,
        ttl: Duration | None = None,
        idle: Duration | None = None,
        command_timeout: Duration | None = None,
        env: Mapping[str, str] | None = None,
        envs: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        metadata: Mapping[str, str] | None = None,
        name: str | None = None,
        user: str | None = None,
        workdir: str | None = None,
        network: spec.NetworkLike | None = None,
        secrets: Sequence[Secret | str] | None = None,
        mounts: Sequence[Mount | Mapping[str, Any]] | None = None,
        ports: Sequence[int] | Mapping[int, int] | None = None,
        hosts: Mapping[str, str] | None = None,
        ulimits: Mapping[str, int | tuple[int, int]] | None = None,
        read_only: bool | None = None,
        platform: str | None = None,
        pull: str | None = None,
        options: Mapping[str, Any] | None = None,
        best_effort: bool | None = None,
        keep: bool = False,
        reuse: bool = False,
        url: str | None = None,
        api_key: str | None = None,
        request_timeout: float | None = None,
        verify: bool | str | ssl.SSLContext = True,
        transport: Transport | None = None,
    ) -> None:
        spec.check("keep", keep, bool)
        spec.check("reuse", reuse, bool)
        lifetime = spec.one("ttl", ttl, "timeout", timeout)
        self._spec = spec.sandbox(
            runtime=runtime, limits=limits, image=image, template=template, lifetime=lifetime, idle=idle,
            command_timeout=command_timeout, env=env, envs=envs, labels=labels, metadata=metadata, name=name,
            user=user, workdir=workdir, network=network, secrets=secrets, mounts=mounts, ports=ports, hosts=hosts,
            ulimits=ulimits, read_only=read_only, platform=platform, pull=pull, options=options,
            best_effort=best_effort,
        )  # fmt: skip
        # Text such as "2h" is for the daemon to read, so that there is no short lease then.
        self._keep = keep or isinstance(lifetime, str)
        self._removes = not keep
        self._reuse = reuse
        self._lifetime = _TTL if lifetime is None else spec.seconds(lifetime)
        self._transport = transport or Transport(url, api_key, request_timeout, verify)
        self._starting = Lock()
        self._info: SandboxInfo | None = None
        self._closed = False
        self._owner = 0
        self.commands = Commands(self)
        self.files = Files(self)
        self.pty = Pty(self)

    # Life

    @classmethod
    def create(cls, *args: Any, **options: Any) -> Self:
        """Makes a sandbox at once; takes what the class takes."""
        return cls(*args, **options).start()

    @classmethod
    def connect(
        cls,
        sandbox_id: str,
        timeout: Duration | None = None,
        *,
        url: str | None = None,
        api_key: str | None = None,
        request_timeout: float | None = None,
        verify: bool | str | ssl.SSLContext = True,
        transport: Transport | None = None,
    ) -> Self:
        """Returns a handle on the sandbox with this id or name, which whoever made it owns:
        only ``kill`` ends it. With ``timeout`` it lives at least so long from now on; one
        that lives longer stays as it is."""
        path = _sandbox_path(sandbox_id)
        spec.duration("timeout", timeout)
        transport = transport or Transport(url, api_key, request_timeout, verify)
        sandbox = cls(keep=True, transport=transport)
        sandbox._removes = False
        sandbox._info = parse(SandboxInfo, transport.json("GET", path))
        if timeout is not None and spec.lifetime("timeout", timeout) > sandbox._left():
            sandbox.set_timeout(timeout)
        return sandbox

    def _left(self) -> float:
        """Returns for how many seconds it lives unless somebody does something."""
        lease = keeper().get(self.id)
        if lease is not None and lease.renews:
            return _FOREVER if lease.deadline is None else lease.deadline - time.monotonic()
        end = self.info.expires_at
        return _FOREVER if end is None else end.timestamp() - time.time()

    @classmethod
    def list(
        cls,
        labels: Mapping[str, str] | None = None,
        state: str | None = None,
        *,
        metadata: Mapping[str, str] | None = None,
        url: str | None = None,
        api_key: str | None = None,
        request_timeout: float | None = None,
        verify: bool | str | ssl.SSLContext = True,
        transport: Transport | None = None,
    ) -> _Infos:
        """Returns the sandboxes that there are, oldest first: all, or those with these labels
        and in this state."""
        wanted = spec.text_map("labels", spec.one("labels", labels, "metadata", metadata)) or {}
        spec.check("state", state, str)
        params: dict[str, Any] = {"label": [f"{key}={value}" for key, value in wanted.items()]}
        if state:
            params["state"] = state
        given = transport
        transport = transport or Transport(url, api_key, request_timeout, verify)
        try:
            return parse_list(SandboxInfo, transport.json("GET", "/v1/sandboxes", params=params), "sandboxes")
        finally:
            if given is None:
                transport.close()

    def start(self) -> Self:
        """Makes the sandbox, unless that is done, and returns it."""
        with self._starting:
            if self._closed:
                raise closed()
            if self._info is None:
                shielded(self._create())
        return self

    def _create(self) -> SandboxInfo:
        body = dict(self._spec)
        leased = not self._keep and not self._reuse
        if leased:
            body["ttl"] = _lease.LEASE if self._lifetime is None else min(_lease.LEASE, self._lifetime)
        deadline = None if self._lifetime is None else time.monotonic() + self._lifetime
        params = {"if_exists": "return"} if self._reuse else None
        # It may have to fetch an image, however long that takes.
        path = "/v1/sandboxes"
        response = self._transport.request(
            "POST", path, json=body, params=params, read=None if self._transport.local else 900.0
        )
        info = self._info = parse(SandboxInfo, decoded(response))
        if self._reuse and response.status_code == 200:
            self._removes = False  # whoever made it owns it
        import os

        self._owner = os.getpid()
        if self._removes:
            self._own(deadline, renews=leased)
        return info

    def _own(self, deadline: float | None, renews: bool) -> None:
        transport = self._transport
        keeper().add(Lease(self.id, transport.address, transport.key, deadline, transport.verify, renews))

    def _kill(self) -> bool:
        """Destroys the sandbox and returns when nothing of it is left, also where somebody
        else owns it. Doing it twice does nothing.

        ``Sandbox.kill(id)`` destroys the one with this id or name. Both return whether there
        was one."""
        with self._starting:
            was, self._closed = self._closed, True
            info = self._info
        if info is None or was:
            self._transport.close()
            return False
        try:
            shielded(self._transport.request("DELETE", _sandbox_path(info.id)))
        except BaseException:
            self._closed = False  # it may be tried again, and is at the end of the process
            raise
        keeper().drop(info.id)
        self._transport.close()
        return True

    @staticmethod
    def _kill_by_id(
        sandbox_id: str,
        *,
        url: str | None = None,
        api_key: str | None = None,
        request_timeout: float | None = None,
        verify: bool | str | ssl.SSLContext = True,
        transport: Transport | None = None,
    ) -> bool:
        """Destroys the sandbox with this id or name, and returns when nothing of it is left.
        False: there is none."""
        path = _sandbox_path(sandbox_id)
        given = transport
        transport = transport or Transport(url, api_key, request_timeout, verify)
        try:
            info = parse(SandboxInfo, transport.json("GET", path))
            shielded(transport.request("DELETE", _sandbox_path(info.id)))
        except (NotFoundError, GoneError):
            return False
        finally:
            if given is None:
                transport.close()
        keeper().drop(info.id)
        return info.state != "stopped"  # one that ended is told of for a while

    kill = either(_kill, _kill_by_id)

    def close(self) -> None:
        """Lets go of the sandbox: destroys it, if this process made it and was not told to
        keep it. A forked child's ``close`` leaves it to its parent."""
        import os

        if self._info is None or (self._removes and self._owner == os.getpid()):
            self.kill()
            return
        self._closed = True
        self._transport.close()

    def detach(self) -> str:
        """Makes the sandbox outlive this process, for the rest of its ttl, and returns its id."""
        self.start()
        self._removes = False
        lease = keeper().drop(self.id)
        if lease is not None and lease.renews:
            left = 0 if lease.deadline is None else max(lease.deadline - time.monotonic(), 0.001)
            self._update({"ttl": spec.duration("ttl", left)})
        return self.id

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            # Interrupted after it was made: the block is not entered, and so never left.
            if self._info is not None and not self._closed:
                self.close()
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            self.close()
        except CoveError:
            # What happened in the block matters more; the lease ends the sandbox.
            if error is None:
                raise

    def __repr__(self) -> str:
        state = "closed" if self._closed else "not started" if self._info is None else self._info.state
        return f"<{type(self).__name__} {self._info.id if self._info else ''} {state}>"

    def set_timeout(self, timeout: Duration) -> None:
        """Sets how long it lives from now on; 0 is for ever."""
        wanted = spec.duration("timeout", timeout)
        if wanted is None:
            raise TypeError("timeout must be seconds, a timedelta or text")
        self.start()
        limit = spec.seconds(timeout)
        if not keeper().owns(self.id):
            self._update({"ttl": wanted})
            return
        renews = not isinstance(timeout, str)
        deadline = None if limit is None else time.monotonic() + limit
        # The lease first, so that a renewal that is under way does not undo this for long.
        self._own(deadline, renews)
        leased = _lease.LEASE if limit is None else min(_lease.LEASE, limit)
        self._update({"ttl": leased if renews else wanted})

    def _update(self, update: Mapping[str, Any]) -> None:
        self._info = parse(SandboxInfo, self._transport.json("PATCH", self._path(), json=update))

    def set_labels(self, labels: Mapping[str, str]) -> None:
        """Replaces the labels."""
        spec.need("labels", labels, Mapping)
        self._update({"labels": spec.text_map("labels", labels)})

    # What it is

    @property
    def id(self) -> str:
        """The id, unique for ever."""
        if self._info is None:
            raise (
                closed()
                if self._closed
                else InvalidError("the sandbox is not started", hint="enter it with with, or call start")
            )
        return self._info.id

    @property
    def sandbox_id(self) -> str:
        """The id, as E2B calls it."""
        return self.id

    @property
    def info(self) -> SandboxInfo:
        """What the daemon said last; see get_info."""
        assert self.id
        assert self._info is not None
        return self._info

    @property
    def isolation(self) -> str:
        """The isolation class: process, shared-kernel, userspace-kernel or vm."""
        return self.info.isolation

    def get_info(self) -> SandboxInfo:
        """Asks the daemon what the sandbox is and how it stands.

        While this process owns it, ``expires_at`` is the end of a lease that is renewed."""
        self._info = parse(SandboxInfo, self._transport.json("GET", self._path()))
        return self._info

    def is_running(self) -> bool:
        """Whether it can be used."""
        if self._closed:
            return False
        try:
            return (self.get_info()).state == "running"
        except CoveError as error:
            if error.code in ("not_found", "gone"):
                return False
            raise

    def _path(self, rest: str = "") -> str:
        if self._closed:
            raise closed()
        if self._info is None:
            self.start()
        assert self._info is not None
        return _sandbox_path(self._info.id) + rest

    # Commands

    def exec(
        self,
        argv: str | Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        workdir: str | None = None,
        user: str | None = None,
        stdin: str | bytes | None = None,
        timeout: Duration | None = None,
        check: bool = False,
    ) -> CommandResult:
        """Runs a program with arguments, which no shell sees: ``commands.run`` in short."""
        return self.commands.run(argv, env=env, workdir=workdir, user=user, stdin=stdin, timeout=timeout, check=check)

    @property
    def tools(self) -> Tools:
        """What a model works with in it; see ``cove.tools``."""
        from ._tools import Tools

        return Tools(self)


# In the class, this name is taken.
_Infos = list[SandboxInfo]


def _sandbox_path(id: str) -> str:
    from urllib.parse import quote

    if not isinstance(id, str):
        raise TypeError(f"sandbox_id must be str, not {type(id).__name__}")
    # Such a path segment would be lost on the way; no sandbox is called so.
    return "/v1/sandboxes/" + (quote(spec.encode("sandbox_id", id), safe="") if id not in ("", ".", "..") else "-")
