"""Files of a sandbox."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any, Literal, Union, overload

from .. import _spec as spec
from .._model import known, parse, parse_list
from ..errors import ConflictError, NotFoundError
from ..types import FileEvent, FileInfo, Path, WriteEntry
from ._io import in_thread, upload

if TYPE_CHECKING:
    from ._sandbox import Sandbox

_PIECE = 256 << 10

# In the class, list is a method.
_Infos = list[FileInfo]

Data = Union[str, bytes, bytearray, memoryview, IO[bytes], IO[str]]


class Files:
    """Reads and writes the files of a sandbox. A relative path is below its working
    directory. ``user`` says with whose rights; by default the sandbox's user's."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def _path(self, rest: str = "") -> str:
        return self._sandbox._path("/files" + rest)

    @overload
    def read(self, path: str, format: Literal["text"] = "text", user: str | None = None) -> str: ...

    @overload
    def read(self, path: str, format: Literal["bytes"], user: str | None = None) -> bytes: ...

    @overload
    def read(self, path: str, format: Literal["stream"], user: str | None = None) -> Iterator[bytes]: ...

    def read(self, path: str, format: str = "text", user: str | None = None) -> Any:
        """Returns a file's content: as ``text`` (bytes that are no UTF-8 are replaced), as
        ``bytes``, or as a ``stream`` of bytes that is read while it arrives."""
        query = _query(path, user)
        if format == "stream":
            return self._stream(query)
        if format not in ("text", "bytes"):
            raise TypeError(f"format must be text, bytes or stream, not {format!r}")
        reply = self._sandbox._transport.request("GET", self._path(), params=query, headers={"Accept": "*/*"})
        return reply.content if format == "bytes" else reply.content.decode("utf-8", "replace")

    def _stream(self, query: dict[str, str]) -> Iterator[bytes]:
        with self._sandbox._transport.stream("GET", self._path(), params=query) as reply:
            for piece in reply:
                yield piece

    def read_bytes(self, path: str, user: str | None = None) -> bytes:
        """Returns a file's content."""
        return self.read(path, "bytes", user)

    def write(self, path: str, data: Data, user: str | None = None, *, mode: int | None = None) -> FileInfo:
        """Writes text, bytes or what a file object yields, making parents where they are
        missing. The mode is 0644 unless said otherwise."""
        query = _query(path, user)
        spec.check("mode", mode, int)
        if mode is not None:
            query["mode"] = f"{mode & 0o7777:04o}"
        reply = self._sandbox._transport.json("PUT", self._path(), params=query, content=_content(data))
        return parse(FileInfo, reply)

    def write_files(
        self,
        files: Mapping[str, str | bytes] | Sequence[WriteEntry | Mapping[str, Any] | tuple[str, str | bytes]],
        user: str | None = None,
    ) -> _Infos:
        """Writes several files: path to content, or a list of entries with path and data."""
        given = files.items() if isinstance(files, Mapping) else spec.items("files", files)
        entries = [_pair(entry) for entry in given]
        for path, data in entries:
            _query(path, user)
            _check_data(data)
        return [self.write(path, data, user) for path, data in entries]

    def list(self, path: str, depth: int = 1, user: str | None = None) -> _Infos:
        """Returns what a directory holds, ``depth`` levels deep, as one flat list."""
        spec.need("depth", depth, int)
        query = {**_query(path, user), "depth": str(depth)}
        return parse_list(FileInfo, self._sandbox._transport.json("GET", self._path("/list"), params=query), "entries")

    def exists(self, path: str, user: str | None = None) -> bool:
        """Whether something is there."""
        try:
            self.get_info(path, user)
        except NotFoundError:
            return False
        return True

    def get_info(self, path: str, user: str | None = None) -> FileInfo:
        """Describes a file. A symlink is described itself."""
        reply = self._sandbox._transport.json("GET", self._path("/stat"), params=_query(path, user))
        return parse(FileInfo, reply)

    def make_dir(self, path: str, user: str | None = None) -> bool:
        """Makes a directory with its parents. False: it was there already."""
        try:
            self._sandbox._transport.json("POST", self._path("/mkdir"), json=_query(path, user))
        except ConflictError:
            return False
        return True

    def remove(self, path: str, user: str | None = None) -> None:
        """Removes a file, or a directory with everything in it, if it is there."""
        self._sandbox._transport.request("DELETE", self._path(), params=_query(path, user))

    def rename(self, old_path: str, new_path: str, user: str | None = None) -> FileInfo:
        """Moves a file or directory, making missing parents."""
        _query(new_path, user)
        body = {"from": old_path, "to": new_path, **({"user": user} if user else {})}
        _query(old_path, user)
        return parse(FileInfo, self._sandbox._transport.json("POST", self._path("/move"), json=body))

    def watch_dir(self, path: str, recursive: bool = False, user: str | None = None) -> Watch:
        """Watches a directory. Iterate over what it returns, from which on nothing is missed;
        leave its ``with`` block, or call ``stop``, to end."""
        spec.need("recursive", recursive, bool)
        query = {**_query(path, user), "recursive": "true" if recursive else "false"}
        watch = Watch(self, query)
        watch._open()
        return watch

    def upload(self, local: Path, path: str, user: str | None = None) -> None:
        """Copies a file to ``path``, or what a folder holds to below ``path``, as one archive.

        Modes, times and symlinks are kept. Sockets, devices and pipes are left out and
        listed in an error, after everything else was copied.
        """
        from .._tar import LeftOut, pack

        local = os.path.abspath(os.fspath(local))
        query = _query(path, user)
        if not os.path.isdir(local):
            self._upload_file(local, path, user)
            return
        left = LeftOut()
        self._sandbox._transport.request(
            "PUT",
            self._path("/archive"),
            params=query,
            content=upload(pack(local, left)),
            headers={"Content-Type": "application/x-tar"},
        )
        left.check()

    def _upload_file(self, local: str, path: str, user: str | None) -> None:
        if not os.path.exists(local):
            raise NotFoundError(f"there is no {local} here", hint="check the path on this machine")
        with open(local, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777
            target = path + os.path.basename(local) if path.endswith("/") else path
            self.write(target, file, user, mode=mode)

    def download(self, path: str, local: Path, user: str | None = None) -> None:
        """Copies a file to ``local`` (into it, where that is a directory), or what a directory
        holds to below ``local``.

        What is inside is hostile: nothing is written outside of ``local``, and devices and
        links that lead out are left out and listed in an error, after everything else.
        """
        local = os.path.abspath(os.fspath(local))
        query = _query(path, user)
        query["path"] = path.rstrip("/") + "/." if path else path
        if self._is_dir(query):
            import tempfile

            from .._tar import unpack

            with tempfile.TemporaryFile() as spool:
                self._fetch(self._path("/archive"), query, spool)
                spool.seek(0)
                in_thread(unpack, spool, local)
            return
        if os.path.isdir(local):
            local = os.path.join(local, os.path.basename(path))
        os.makedirs(os.path.dirname(local), exist_ok=True)
        # Beside it first, so that one that breaks off leaves what was there.
        part = f"{local}.{os.getpid()}.part"
        try:
            with open(part, "xb") as file:
                self._fetch(self._path(), _query(path, user), file)
            os.replace(part, local)
        except BaseException:
            if os.path.exists(part):
                os.unlink(part)
            raise

    def _is_dir(self, query: Mapping[str, str]) -> bool:
        from ..errors import InvalidError

        try:
            info = self._sandbox._transport.json("GET", self._path("/stat"), params=query)
        except (NotFoundError, InvalidError, ConflictError):
            return False
        return parse(FileInfo, info).is_dir

    def _fetch(self, path: str, query: Mapping[str, str], file: IO[bytes]) -> None:
        with self._sandbox._transport.stream("GET", path, params=query) as reply:
            for piece in reply:
                file.write(piece)


class Watch:
    """What happens below a directory, as it comes."""

    def __init__(self, files: Files, query: Mapping[str, str]) -> None:
        self._files = files
        self._query = query
        self._stream: Any = None
        self._events: Any = None

    def _open(self) -> None:
        transport = self._files._sandbox._transport
        self._stream = transport.stream(
            "GET", self._files._path("/watch"), params=self._query, accept="text/event-stream"
        )
        reply = self._stream.__enter__()
        self._events = transport.decode(reply)

    def __iter__(self) -> Iterator[FileEvent]:
        for data in self._events:
            for event in known(FileEvent, data):
                yield event

    def stop(self) -> None:
        """Stops watching."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.__exit__(None, None, None)

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _query(path: object, user: object) -> dict[str, str]:
    if not isinstance(path, str):
        raise TypeError(f"path must be str, not {type(path).__name__}")
    spec.check("user", user, str)
    return {"path": path, **({"user": user} if isinstance(user, str) else {})}


def _check_data(data: object) -> None:
    if not isinstance(data, (str, bytes, bytearray, memoryview)) and not hasattr(data, "read"):
        raise TypeError(f"data must be str, bytes or a file object, not {type(data).__name__}")


def _content(data: Any) -> Any:
    _check_data(data)
    if isinstance(data, str):
        return spec.encode("data", data)
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data)
    return upload(_pieces(data))


def _pieces(file: Any) -> Iterator[bytes]:
    while True:
        piece = file.read(_PIECE)
        if not piece:
            return
        yield piece.encode() if isinstance(piece, str) else piece


def _pair(entry: Any) -> tuple[str, Any]:
    if isinstance(entry, WriteEntry):
        return entry.path, entry.data
    if isinstance(entry, Mapping) and {"path", "data"} <= entry.keys():
        return entry["path"], entry["data"]
    if isinstance(entry, (tuple, list)) and len(entry) == 2:
        return entry[0], entry[1]
    raise TypeError(f"a file to write must be a WriteEntry, a dict with path and data, or a pair, not {entry!r:.80}")
