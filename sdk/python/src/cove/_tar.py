"""Folders as one archive: made of what is here, and unpacked as what comes from a sandbox,
which is hostile."""

from __future__ import annotations

import errno
import io
import os
import posixpath
import stat
import tarfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO

from .errors import NotFoundError, UnavailableError, UnsupportedError

_PIECE = 256 << 10
_LONGEST = 4096  # PATH_MAX


class LeftOut:
    """What a copy could not carry."""

    def __init__(self) -> None:
        self.entries: list[str] = []
        """Names, and why."""

    def add(self, name: str, why: str) -> None:
        """Notes an entry."""
        self.entries.append(f"{name[:200]!r} {why}")

    def check(self) -> None:
        """Raises an error that lists the entries, if there are any."""
        if self.entries:
            more = len(self.entries) - 10
            text = "; ".join(self.entries[:10]) + (f"; and {more} more" if more > 0 else "")
            raise UnsupportedError(f"left out: {text}", hint="everything else was copied")


def pack(root: str, left: LeftOut) -> Iterator[bytes]:
    """Yields a tar of what the directory root holds, in pieces of some size. Symlinks are
    kept as they are; what is neither file, directory nor symlink is left out."""
    if not os.path.isdir(root):
        raise NotFoundError(f"{root} is not a directory", hint="check the path on this machine")
    return _gather(_walk(root, left))


def pack_files(files: Mapping[str, bytes]) -> Iterator[bytes]:
    """Yields a tar of files, by path."""
    return _gather(_members(files))


def _gather(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yields the same in larger pieces: each is a step on its way."""
    gathered = bytearray()
    for piece in pieces:
        gathered += piece
        if len(gathered) >= _PIECE:
            yield bytes(gathered)
            gathered.clear()
    yield bytes(gathered)


def _members(files: Mapping[str, bytes]) -> Iterator[bytes]:
    for name, data in files.items():
        entry = tarfile.TarInfo(name)
        entry.size, entry.mtime = len(data), int(time.time())
        yield _header(entry)
        yield data
        yield bytes(-entry.size % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _walk(root: str, left: LeftOut) -> Iterator[bytes]:
    for directory, folders, files in os.walk(root, onerror=_raise):
        folders.sort()
        for name in [*folders, *sorted(files)]:
            path = os.path.join(directory, name)
            yield from _entry(path, os.path.relpath(path, root).replace(os.sep, "/"), left)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _raise(error: OSError) -> None:
    raise error


def _entry(path: str, name: str, left: LeftOut) -> Iterator[bytes]:
    info = os.lstat(path)
    entry = tarfile.TarInfo(name)
    entry.mode = stat.S_IMODE(info.st_mode)
    entry.mtime = int(info.st_mtime)
    if stat.S_ISLNK(info.st_mode):
        entry.type, entry.linkname = tarfile.SYMTYPE, os.readlink(path)
    elif stat.S_ISDIR(info.st_mode):
        entry.type = tarfile.DIRTYPE
    elif not stat.S_ISREG(info.st_mode):
        left.add(name, "is neither file, directory nor symlink")
        return
    if entry.type != tarfile.REGTYPE:
        yield _header(entry)
        return
    with open(path, "rb") as file:
        # A file that grows meanwhile is copied as it was when its size was taken.
        entry.size = todo = os.fstat(file.fileno()).st_size
        yield _header(entry)
        while todo > 0:
            piece = file.read(min(_PIECE, todo))
            if not piece:
                raise OSError(f"{path} became shorter while it was read")
            todo -= len(piece)
            yield piece
    yield bytes(-entry.size % tarfile.BLOCKSIZE)


def _header(entry: tarfile.TarInfo) -> bytes:
    return entry.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def unpack(archive: IO[bytes], target: str) -> None:
    """Extracts a tar below the directory target, which is made.

    Nothing is written outside of it, also not through symlinks that are there. Devices,
    pipes, and names and links that lead out are left out and listed in the error, after
    everything else. Owners, setuid, setgid and sticky bits are not kept.
    """
    os.makedirs(target, exist_ok=True)
    Unpacker(os.path.realpath(target)).run(archive)


def apply(target: str, gone: Iterable[tuple[str, str | None]], archive: bytes | None) -> None:
    """Changes the directory target, which is made: removes what is gone, or has become of
    another type, and extracts the archive, which is gzipped, as ``unpack`` does."""
    os.makedirs(target, exist_ok=True)
    root = os.path.realpath(target)
    for name, type_ in sorted(gone, key=lambda pair: pair[0], reverse=True):  # what a directory holds before itself
        _remove(root, name, type_)
    if archive is not None:
        with _plain(archive) as plain:
            unpack(plain, root)


def _remove(root: str, name: str, type_: str | None) -> None:
    clean = posixpath.normpath(name)
    if clean == "." or not _local(clean):
        return
    path = root
    for part in clean.split("/"):
        # Not through a symlink, and not through what is no directory here.
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            return
        path = os.path.join(path, part)
        if not os.path.lexists(path):
            return
    folder = stat.S_ISDIR(os.lstat(path).st_mode)
    if type_ is not None and folder == (type_ == "directory"):
        return
    if not folder:
        os.unlink(path)
        return
    try:
        os.rmdir(path)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise  # with more inside than the run knew of, it stays


@contextmanager
def _plain(archive: bytes) -> Iterator[IO[bytes]]:
    """Gives what a gzipped archive holds."""
    import gzip
    import zlib

    try:
        with gzip.open(io.BytesIO(archive)) as plain:
            yield plain  # type: ignore[misc] # it is read, and nothing else
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise _broken() from error


def contents(archive: bytes) -> dict[str, bytes]:
    """Returns the files of a gzipped tar by path, but for those whose names lead out."""
    files: dict[str, bytes] = {}
    try:
        with _plain(archive) as plain, tarfile.open(fileobj=plain, mode="r:", errorlevel=1) as tar:
            for entry in tar:
                name = posixpath.normpath(entry.name)
                if entry.isreg() and _local(name) and _local(entry.name, climb=True):
                    source = tar.extractfile(entry)
                    files[name] = b"" if source is None else source.read()
    except tarfile.TarError as error:
        raise _broken() from error
    return files


def _broken() -> UnavailableError:
    return UnavailableError("the sandbox sent an archive that is broken", hint="try again")


class Unpacker:
    """Writes a tar below a directory. A directory once seen to be real stays so, since
    nothing here replaces one."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._left = LeftOut()
        self._real = {"."}
        self._dirs: dict[str, tarfile.TarInfo] = {}

    def run(self, archive: IO[bytes]) -> None:
        """Extracts everything."""
        try:
            with tarfile.open(fileobj=archive, mode="r:", errorlevel=1) as tar:
                for entry in tar:
                    self._entry(tar, entry)
        except (tarfile.TarError, EOFError) as error:
            raise _broken() from error
        self._finish()
        self._left.check()

    def _at(self, name: str) -> str:
        return os.path.join(self._root, name)

    def _entry(self, tar: tarfile.TarFile, entry: tarfile.TarInfo) -> None:
        name = posixpath.normpath(entry.name)
        if name == ".":
            return
        if not _local(name) or not _local(entry.name, climb=True) or len(name) > _LONGEST:
            self._left.add(entry.name, "is not a name inside of the copy")
        elif entry.isdir():
            if self._make_dir(name):
                self._dirs[name] = entry
        elif not (entry.isreg() or entry.issym() or entry.islnk()):
            self._left.add(entry.name, "is neither file, directory nor symlink")
        elif self._make_dir(posixpath.dirname(name) or ".") and self._clear(name):
            if entry.issym():
                self._symlink(name, entry)
            elif entry.islnk():
                self._hardlink(name, entry)
            else:
                self._file(tar, name, entry)

    def _make_dir(self, name: str) -> bool:
        if name in self._real:
            return True
        if not self._make_dir(posixpath.dirname(name) or "."):
            return False
        path = self._at(name)
        try:
            info = os.lstat(path)
        except FileNotFoundError:
            os.mkdir(path, 0o755)
        else:
            if not stat.S_ISDIR(info.st_mode):
                self._left.add(name, "should be a directory, but something else is there")
                return False
            if info.st_mode & 0o700 != 0o700:
                os.chmod(path, stat.S_IMODE(info.st_mode) | 0o700)
        self._real.add(name)
        return True

    def _clear(self, name: str) -> bool:
        try:
            info = os.lstat(self._at(name))
        except FileNotFoundError:
            return True
        if stat.S_ISDIR(info.st_mode):
            self._left.add(name, "can't replace the directory that is there")
            return False
        os.unlink(self._at(name))
        return True

    def _file(self, tar: tarfile.TarFile, name: str, entry: tarfile.TarInfo) -> None:
        source = tar.extractfile(entry)
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW
        with os.fdopen(os.open(self._at(name), flags, 0o600), "wb") as file:
            todo = entry.size
            while source is not None and todo > 0:
                piece = source.read(min(_PIECE, todo))
                if not piece:
                    raise tarfile.ReadError("unexpected end of data")
                todo -= len(piece)
                file.write(piece)
            os.fchmod(file.fileno(), entry.mode & 0o777)
        _set_time(self._at(name), entry)

    def _symlink(self, name: str, entry: tarfile.TarInfo) -> None:
        # Its parents are real directories and its target goes up at its beginning only, so
        # that what the target says is where it leads, however many links lie on the way.
        target = entry.linkname
        clean = target == posixpath.normpath(target)
        if (
            posixpath.isabs(target)
            or not clean
            or "\0" in target
            or not _local(posixpath.normpath(posixpath.join(posixpath.dirname(name), target)))
        ):
            self._left.add(name, f"is a link that leads out, to {target[:200]!r}")
            return
        os.symlink(target, self._at(name))

    def _hardlink(self, name: str, entry: tarfile.TarInfo) -> None:
        target = posixpath.normpath(entry.linkname)
        if not _local(target) or (posixpath.dirname(target) or ".") not in self._real:
            self._left.add(name, f"is a link that leads out, to {entry.linkname[:200]!r}")
            return
        try:
            regular = stat.S_ISREG(os.lstat(self._at(target)).st_mode)
        except FileNotFoundError:
            regular = False
        if not regular:
            self._left.add(name, "is a link to something that is not a file")
            return
        os.link(self._at(target), self._at(name), follow_symlinks=False)

    def _finish(self) -> None:
        # Last, and those in a directory before it: it may be read-only.
        for name in sorted(self._dirs, reverse=True):
            _set_time(self._at(name), self._dirs[name])
            os.chmod(self._at(name), self._dirs[name].mode & 0o777)


def _set_time(path: str, entry: tarfile.TarInfo) -> None:
    try:
        os.utime(path, (entry.mtime, entry.mtime), follow_symlinks=False)
    except (OverflowError, ValueError, OSError):
        return  # a time that this machine can't have


def _local(name: str, climb: bool = False) -> bool:
    """Whether a path stays below where it begins; with climb, only whether it is relative
    and nowhere goes above."""
    if not name or name.startswith("/") or "\0" in name:
        return False
    if not climb:
        return name != ".." and not name.startswith("../")
    depth = 0
    for part in name.split("/"):
        depth += {"": 0, ".": 0, "..": -1}.get(part, 1)
        if depth < 0:
            return False
    return True
