"""One-shot runs: what is asked for, and what comes back."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, Literal, Union

from . import _spec as spec
from ._model import binary, integer, nonsense, output
from .errors import CommandFailed, InvalidError, NotFoundError
from .types import CommandResult, Duration, Path, Size

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ._options import SpecOptions

Command = Union[str, Sequence[str]]
Returns = Literal["archive", "patch", "both", "none"]

_RETURNS = ("archive", "patch", "both", "none")
_PIECE = 256 << 10
#: The longest that one command may take unless it is said, as the daemon has it.
_TIMEOUT = 300.0
#: More than the commands' own time: an image may have to be fetched.
_SLACK = 900.0


@dataclass(frozen=True)
class Retry:
    """When a command of a run is run again."""

    attempts: int = 1
    """Most times that each command is run."""
    backoff: Duration | None = None
    """Pause before the second try, doubled before each further one; default 1 s."""
    exit_codes: Sequence[int] | None = None
    """Run again only after these; default after each but 0."""


@dataclass(frozen=True)
class Change:
    """What happened to a file, a directory or a symlink."""

    path: str
    """Below the sandbox's workdir."""
    kind: str
    """added, modified, deleted or renamed."""
    type: str = "file"
    """file, directory, symlink or other."""
    mode: int = 0
    """Permission bits."""
    old_path: str = ""
    """Where it was, when it was renamed."""


@dataclass(frozen=True)
class RunCommandResult(CommandResult):
    """How a command of a run ended. One that can't be started has the exit code 127 or 126."""

    command: str | Sequence[str] = ""
    attempts: int = 1
    """How many times it was run; the rest is of the last time."""


@dataclass(frozen=True)
class RunResult:
    """What a run gives back."""

    results: Sequence[RunCommandResult]
    """One for each command that was run."""
    changes: Sequence[Change] = ()
    """What all commands together changed."""
    archive: bytes | None = field(default=None, repr=False)
    """Gzipped tar of what was added, renamed or modified."""
    patch: str | None = field(default=None, repr=False)
    """What changed, as ``git apply`` takes it."""
    success: bool = True
    """Whether every command that was asked for was run and succeeded."""
    left_out: Sequence[str] = ()
    """What of the folder was not sent: sockets, devices and pipes."""

    @property
    def files(self) -> dict[str, bytes]:
        """The content of the files that were added, renamed or modified, by path. Symlinks
        and names that lead out are not among them."""
        from ._tar import contents

        return {} if self.archive is None else contents(self.archive)

    def apply(self, directory: Path) -> None:
        """Changes a directory of this machine, which is made where it is missing, as the
        commands changed theirs.

        New and modified files are written, deleted ones removed, and a directory only when
        it is empty. What is inside is hostile: nothing outside is touched, and links that
        lead out are left out and listed in an error, after everything else.
        """
        from ._tar import apply

        apply(os.fspath(directory), self._gone(), self.archive)

    def _gone(self) -> Iterator[tuple[str, str | None]]:
        """Yields what is not there any more, and what is of another kind now, with that."""
        for change in self.changes:
            if change.kind == "deleted":
                yield change.path, None
            elif change.kind == "renamed":
                yield change.old_path, None
            elif change.kind == "modified":
                yield change.path, change.type

    def check(self) -> RunResult:
        """Returns this result, or raises CommandFailed for the first command that failed."""
        for result in self.results:
            if not result.success:
                raise CommandFailed(result)
        return self


class RunRequest:
    """A one-shot run. Its sandbox is made for it and gone after it.

    :param commands: one shell line, or a list of commands that run one after another, each
        a shell line or a list of program and arguments, which no shell sees.
    :param files: what is in the sandbox's workdir at first: a folder of this machine, or a
        dict of path to content.
    :param archive: or a tar, plain or packed by gzip, bzip2 or zstd: its path, its bytes, or
        a file object.
    :param cwd: the directory below the workdir that the commands run in.
    :param fail_fast: no further command is run after one that failed.
    :param retry: how often a command that fails is run again: a Retry, or the most attempts.
    :param timeout: of each try of a command; default the sandbox's, 300 s; 0 is none.
    :param max_output: most that is kept of each stream of each command; default 1 MiB.
    :param returns: what comes back of the files that changed: archive (the default), patch,
        both or none.

    Everything else describes the sandbox, as for ``Sandbox``: runtime, image, limits, env,
    user, workdir, network, secrets, mounts and so on. Types are checked here.
    """

    def __init__(
        self,
        commands: Command | Sequence[Command],
        files: Path | Mapping[str, str | bytes] | None = None,
        *,
        archive: Path | bytes | IO[bytes] | None = None,
        cwd: str | None = None,
        fail_fast: bool = False,
        retry: Retry | int | None = None,
        timeout: Duration | None = None,
        max_output: Size | None = None,
        returns: Returns = "archive",
        **sandbox: Unpack[SpecOptions],
    ) -> None:
        spec.check("fail_fast", fail_fast, bool)
        spec.check("max_output", max_output, int, str)
        if returns not in _RETURNS:
            raise InvalidError(f"returns is {returns!r}", hint="give archive, patch, both or none")
        described = spec.sandbox(**sandbox)
        wanted = _commands(commands)
        self.body = spec.drop_none(
            {
                "commands": wanted,
                "spec": described or None,
                "cwd": spec.text("cwd", cwd),
                "fail_fast": fail_fast or None,
                "retry": _retry(retry),
                "timeout": spec.duration("timeout", timeout),
                "max_output": max_output,
                "encoding": "base64",
                "return": returns,
            }
        )
        self._source = _source(files, archive)
        self._again = True

    def __repr__(self) -> str:
        return f"RunRequest({self.body['commands']!r})"

    @property
    def repeatable(self) -> bool:
        """Whether it can be sent again: an archive that is read from a pipe can't."""
        return self._again

    def content(self, boundary: str, left: list[str]) -> Iterator[bytes] | None:
        """Yields the form to send, None where there are no files. What can't be sent is
        added to left."""
        return (
            None
            if self._source is None
            else _form(
                boundary, spec.encode("the request", json.dumps(self.body, ensure_ascii=False)), self._archive(left)
            )
        )

    def _archive(self, left: list[str]) -> Iterator[bytes]:
        from ._tar import LeftOut, pack, pack_files

        source = self._source
        if isinstance(source, Folder):
            out = LeftOut()
            yield from pack(source.path, out)
            left += out.entries
        elif isinstance(source, Mapping):
            yield from pack_files(source)
        elif isinstance(source, bytes):
            yield from _pieces(io.BytesIO(source))
        elif isinstance(source, str):
            with open(source, "rb") as file:
                yield from _pieces(file)
        elif source is not None:
            self._again = bool(source.seekable())
            at = source.tell() if self._again else 0
            yield from _pieces(source)
            if self._again:
                source.seek(at)

    def patience(self) -> float | None:
        """Returns the longest that it can take, in seconds; None: unknown or without end."""
        timeout = self.body.get("timeout", self.body.get("spec", {}).get("timeout", _TIMEOUT))
        retry = self.body.get("retry", {})
        backoff = retry.get("backoff", 1.0)
        if not isinstance(timeout, float) or not isinstance(backoff, float):
            return None
        attempts = max(retry.get("attempts", 1), 1)
        each = attempts * timeout + sum(min(backoff * 2**n, 60.0) for n in range(attempts - 1))
        return float(len(self.body["commands"]) * each + _SLACK)

    def result(self, data: object, left: Sequence[str]) -> RunResult:
        """Returns what a reply says."""
        if not isinstance(data, dict) or not isinstance(data.get("results"), list):
            raise nonsense("a run without results")
        results = [_result(item) for item in data["results"]]
        return RunResult(
            results=results,
            changes=[_change(item) for item in data.get("changes") or []],
            archive=None if data.get("archive") is None else binary(data["archive"]),
            patch=None if data.get("patch") is None else str(data["patch"]),
            success=len(results) == len(self.body["commands"]) and all(r.success for r in results),
            left_out=tuple(left),
        )


def _commands(commands: object) -> list[str | list[str]]:
    given = [commands] if isinstance(commands, str) else spec.items("commands", commands)
    if not given:
        raise InvalidError("there are no commands", hint="give a shell line, or a list of commands")
    wanted = [spec.command(command) for command in given]
    for command in wanted:
        if isinstance(command, str) and command.startswith("-"):
            hint = "a list is a list of commands; give a program with arguments as a list in it"
            raise InvalidError(f"{command!r} is no command", hint=hint)
    return wanted


@dataclass(frozen=True)
class Folder:
    """A directory of this machine."""

    path: str


def boundary() -> str:
    """Returns what parts a form; nobody can put it into a file beforehand."""
    return os.urandom(16).hex()


def _source(files: object, archive: Any) -> Any:
    """Returns a Folder, a dict of files, bytes, the path of an archive, or a file object."""
    spec.one("files", files, "archive", archive)
    if files is not None:
        return _files(files)
    if archive is None or hasattr(archive, "read"):
        return archive
    if isinstance(archive, (bytes, bytearray, memoryview)):
        return bytes(archive)
    if not isinstance(archive, (str, os.PathLike)):
        raise TypeError(f"archive must be a path, bytes or a file object, not {type(archive).__name__}")
    path = os.fspath(archive)
    if not os.path.isfile(path):
        raise NotFoundError(f"there is no file {path} here", hint="give the path of a tar, or a folder as files")
    return path


def _files(files: object) -> Folder | dict[str, bytes]:
    if isinstance(files, Mapping):
        return {spec.below(path): _content(path, data) for path, data in files.items()}
    if not isinstance(files, (str, os.PathLike)):
        raise TypeError(f"files must be a path or a dict, not {type(files).__name__}")
    path = os.path.abspath(os.fspath(files))
    if not os.path.isdir(path):
        raise NotFoundError(f"there is no folder {path} here", hint="give a folder as files, or a tar as archive")
    return Folder(path)


def _content(path: object, data: object) -> bytes:
    if isinstance(data, str):
        return spec.encode("a file's content", data)
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise TypeError(f"files must map str to str or bytes; {path!r} maps to {type(data).__name__}")
    return bytes(data)


def _retry(retry: Retry | int | None) -> dict[str, Any] | None:
    if retry is None:
        return None
    spec.check("retry", retry, Retry, int)
    if isinstance(retry, int):
        retry = Retry(retry)
    spec.check("attempts", retry.attempts, int)
    for code in spec.items("exit_codes", retry.exit_codes):
        spec.check("an exit code", code, int)
    codes = None if retry.exit_codes is None else list(retry.exit_codes)
    return spec.drop_none(
        {"attempts": retry.attempts, "backoff": spec.duration("backoff", retry.backoff), "exit_codes": codes}
    )


def _form(boundary: str, request: bytes, archive: Iterator[bytes]) -> Iterator[bytes]:
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="'
    kinds = (
        'request"\r\nContent-Type: application/json',
        'archive"; filename="archive"\r\nContent-Type: application/x-tar',
    )
    yield f"{head}{kinds[0]}\r\n\r\n".encode() + request + f"\r\n{head}{kinds[1]}\r\n\r\n".encode()
    yield from archive
    yield f"\r\n--{boundary}--\r\n".encode()


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    while piece := file.read(_PIECE):
        if not isinstance(piece, bytes):
            raise TypeError(f"an archive must be a file of bytes, not of {type(piece).__name__}")
        yield piece


def _result(data: Any) -> RunCommandResult:
    if not isinstance(data, dict):
        raise nonsense("a result that is no object")
    command = data.get("command") or ""
    return RunCommandResult(**output(data), command=command, attempts=integer(data.get("attempts")))


def _change(data: Any) -> Change:
    if not isinstance(data, dict):
        raise nonsense("a change that is no object")
    try:
        mode = int(str(data.get("mode") or "0"), 8)
    except ValueError:
        mode = 0
    kind, type_ = str(data.get("kind") or ""), str(data.get("type") or "")
    return Change(str(data.get("path") or ""), kind, type_, mode, str(data.get("from") or ""))
