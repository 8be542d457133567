"""What goes in and comes out: results, descriptions, limits, policies.

Every class here ignores fields that it does not know, so that a newer daemon can say more.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, Union

from .errors import CommandFailed

if TYPE_CHECKING:
    from typing import TypeAlias

__all__ = [
    "CommandResult",
    "Duration",
    "Event",
    "FileEvent",
    "FileInfo",
    "Limits",
    "ListeningPort",
    "Mount",
    "Network",
    "NetworkEvent",
    "NetworkStatus",
    "Output",
    "Path",
    "ProcessInfo",
    "PtySize",
    "RuntimeInfo",
    "SandboxInfo",
    "Secret",
    "SecretInfo",
    "Size",
    "Stats",
    "VersionInfo",
    "WriteEntry",
]

#: Seconds, a timedelta, or text such as "90s", "1h30m" or "never".
Duration: TypeAlias = Union[float, int, str, timedelta]
#: Bytes, or text such as "512m" or "2GiB".
Size: TypeAlias = Union[int, str]
#: A path on this machine.
Path: TypeAlias = Union[str, "os.PathLike[str]"]

T = TypeVar("T")


class Output(NamedTuple):
    """A piece of what a process writes. One of the three is set."""

    stdout: str | None = None
    stderr: str | None = None
    pty: bytes | None = None


@dataclass(frozen=True)
class CommandResult:
    """How a command ended, and what it wrote."""

    exit_code: int
    """-1 when a signal ended it."""
    stdout_bytes: bytes = field(default=b"", repr=False)
    stderr_bytes: bytes = field(default=b"", repr=False)
    timed_out: bool = False
    truncated: bool = False
    """Bytes between head and tail of a stream were left out: see ``max_output``."""
    duration: float = 0.0
    """Seconds."""
    signal: str = ""
    """The signal that ended it, as in SIGKILL."""
    pid: int = 0
    error: str = ""

    @property
    def stdout(self) -> str:
        """Standard output as text; bytes that are no UTF-8 are replaced."""
        return self.stdout_bytes.decode("utf-8", "replace")

    @property
    def stderr(self) -> str:
        """Standard error as text; bytes that are no UTF-8 are replaced."""
        return self.stderr_bytes.decode("utf-8", "replace")

    @property
    def success(self) -> bool:
        """Whether it exited with 0, in time."""
        return self.exit_code == 0 and not self.timed_out

    def check(self) -> CommandResult:
        """Returns this result, or raises CommandFailed when the command did not succeed."""
        if not self.success:
            raise CommandFailed(self)
        return self

    def __str__(self) -> str:
        return self.stdout


@dataclass(frozen=True)
class Limits:
    """Bounds on what a sandbox uses. What is None has Cove's default."""

    cpu: float | None = None
    """Processors, in fractions of one; default 1."""
    memory: Size | None = None
    """Memory without swap; default 512 MiB."""
    timeout: Duration | None = None
    """The longest that one command may take, unless it says otherwise; default 300 s."""
    network: bool | None = None
    """True: public addresses; False or None: nothing. More is said by a Network."""
    fs_readonly: bool = False
    """Only /tmp and /workspace can be written to."""
    pids: int | None = None
    """Processes and threads; default 256."""
    disk: Size | None = None
    """Bytes written to the root filesystem; default 2 GiB."""
    shm: Size | None = None
    """Size of /dev/shm; default 64 MiB."""


@dataclass(frozen=True)
class Secret:
    """A secret that the sandbox uses without seeing it.

    Inside, the variable ``env`` holds a placeholder, which is exchanged for the value in
    requests to ``hosts``. Without a value, it is the daemon's stored secret of that name.
    """

    name: str
    value: str | None = field(default=None, repr=False)
    hosts: Sequence[str] = ()
    env: str | None = None
    places: Sequence[str] = ()
    """Where in a request: header (the default), query, body."""


@dataclass(frozen=True)
class Network:
    """What a sandbox may reach. By itself: nothing."""

    allow: Sequence[str] = ()
    """Rules: NAME, *.NAME, ADDRESS or CIDR, each with :PORT; a preset; sandbox:NAME:PORT."""
    deny: Sequence[str] = ()
    mode: str | None = None
    """none, allow or open; default allow with an allow list, else none."""
    secrets: Sequence[Secret | str] = ()
    requests: Sequence[Mapping[str, Any]] = ()
    """Rules on HTTP requests, as the API has them."""
    limits: Mapping[str, Any] | None = None
    final: bool = False
    """The policy can't be changed later."""


@dataclass(frozen=True)
class Mount:
    """A directory of the daemon's host, a named volume, or memory, seen inside."""

    target: str
    source: str = ""
    type: str = "bind"
    read_only: bool = False
    size: Size | None = None
    remove: bool = False


@dataclass(frozen=True)
class PtySize:
    """A terminal's size, in characters."""

    rows: int = 24
    cols: int = 80


@dataclass(frozen=True)
class WriteEntry:
    """One file of ``files.write_files``."""

    path: str
    data: str | bytes


@dataclass(frozen=True)
class SandboxInfo:
    """A sandbox as the daemon describes it."""

    id: str
    state: str
    runtime: str
    isolation: str = ""
    name: str = ""
    acquired: str = ""
    reason: str = ""
    message: str = ""
    created_at: datetime | None = None
    expires_at: datetime | None = None
    controls: Mapping[str, str] = field(default_factory=dict)
    spec: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def sandbox_id(self) -> str:
        """The id."""
        return self.id

    @property
    def labels(self) -> Mapping[str, str]:
        """The labels that it was created with, or that were set since."""
        return dict(self.spec.get("labels") or {})

    @property
    def metadata(self) -> Mapping[str, str]:
        """The labels, as E2B calls them."""
        return self.labels

    @property
    def started_at(self) -> datetime | None:
        """When it was made."""
        return self.created_at

    @property
    def end_at(self) -> datetime | None:
        """When it will be destroyed, unless it is extended; None: never."""
        return self.expires_at


@dataclass(frozen=True)
class ProcessInfo:
    """Something that was started in a sandbox."""

    pid: int
    command: Sequence[str] = ()
    running: bool = False
    started_at: datetime | None = None
    cwd: str = ""
    user: str = ""
    tag: str = ""
    tty: bool = False
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    exit: Mapping[str, Any] | None = None

    @property
    def exit_code(self) -> int | None:
        """How it exited; None while it runs."""
        return None if self.exit is None else int(self.exit.get("code", -1))


@dataclass(frozen=True)
class FileInfo:
    """A file, directory or symlink."""

    name: str
    path: str
    type: str
    """file, directory, symlink or other."""
    size: int = 0
    mode: int = 0
    owner: str = ""
    group: str = ""
    modified_at: datetime | None = None
    target: str = ""
    """Where a symlink points."""

    @property
    def is_dir(self) -> bool:
        """Whether it is a directory."""
        return self.type == "directory"

    @property
    def modified_time(self) -> datetime | None:
        """When it was last written, as E2B calls it."""
        return self.modified_at

    @property
    def symlink_target(self) -> str:
        """Where a symlink points, as E2B calls it."""
        return self.target


@dataclass(frozen=True)
class FileEvent:
    """What happened to a file: create, write, remove, rename or chmod."""

    type: str
    name: str
    """The path below the watched directory."""


@dataclass(frozen=True)
class Stats:
    """What a sandbox uses. None is what its runtime can't tell."""

    time: datetime | None = None
    cpu_time: float | None = None
    """Seconds of processor time since it was created."""
    memory: int | None = None
    memory_limit: int = 0
    processes: int | None = None
    disk: int | None = None
    disk_limit: int = 0
    received: int | None = None
    sent: int | None = None


@dataclass(frozen=True)
class NetworkStatus:
    """The policy that holds, and what has passed."""

    network: Mapping[str, Any] = field(default_factory=dict)
    open: int = 0
    total: int = 0
    refused: int = 0
    received: int = 0
    sent: int = 0


@dataclass(frozen=True)
class NetworkEvent:
    """A decision about something that the sandbox wanted to reach."""

    seq: int
    kind: str
    """lookup, connection, closed or request."""
    allowed: bool
    time: datetime | None = None
    name: str = ""
    address: str = ""
    port: int = 0
    rule: str = ""
    reason: str = ""
    method: str = ""
    path: str = ""
    status: int = 0
    sent: int = 0
    received: int = 0
    secrets: Sequence[str] = ()


@dataclass(frozen=True)
class ListeningPort:
    """A TCP port inside on which something listens."""

    port: int
    address: str = ""
    command: str = ""
    pid: int = 0


@dataclass(frozen=True)
class Event:
    """Something that happened to a sandbox."""

    seq: int
    type: str
    """sandbox.creating, .running, .updated, .stopped, .failed, .removed, port.opened, .closed."""
    sandbox: SandboxInfo
    time: datetime | None = None
    port: ListeningPort | None = None


@dataclass(frozen=True)
class SecretInfo:
    """A stored secret, without its value. ``owner`` is whose sandboxes alone may use it; empty for everybody's."""

    name: str
    hosts: Sequence[str] = ()
    places: Sequence[str] = ()
    created_at: datetime | None = None
    updated_at: datetime | None = None
    owner: str = ""


@dataclass(frozen=True)
class RuntimeInfo:
    """What the daemon's host can, or can't, isolate with."""

    name: str
    available: bool
    isolation: str = ""
    default: bool = False
    reason: str = ""
    hint: str = ""
    version: str = ""
    features: Sequence[str] = ()
    warnings: Sequence[str] = ()
    controls: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class VersionInfo:
    """What the daemon is."""

    version: str
    api: str = ""
    os: str = ""
    arch: str = ""
    go: str = ""
