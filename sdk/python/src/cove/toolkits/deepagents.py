"""A sandbox for deepagents: ``pip install 'cove-sandbox[deepagents]'``."""

from __future__ import annotations

from .._sync._sandbox import Sandbox
from ..errors import (
    CoveError,
    ForbiddenError,
    GoneError,
    InvalidError,
    NotFoundError,
    UnauthenticatedError,
    UnavailableError,
)
from ._calls import missing

try:
    from deepagents.backends.protocol import ExecuteResponse, FileDownloadResponse, FileUploadResponse
    from deepagents.backends.sandbox import BaseSandbox
except ImportError as error:
    raise missing("deepagents", error) from error

__all__ = ["CoveBackend"]

#: The exit code of a command that was killed because its time was over, as of timeout(1).
_TIMED_OUT = 124


class CoveBackend(BaseSandbox):
    """A sandbox as the backend of a deep agent: ``create_deep_agent(backend=CoveBackend(box))``.

    Its tools are deepagents' own, which need ``sh``, ``python3`` and ``grep`` in the image;
    paths are absolute, and work is kept in /workspace. ``timeout`` is the longest that a
    command may take which the model gives no other, in seconds; default the sandbox's.
    Of what a command writes, ``max_output`` is kept, head and tail.
    """

    def __init__(self, sandbox: Sandbox, timeout: float | None = None, max_output: int = 4 << 20) -> None:
        if not isinstance(sandbox, Sandbox):
            raise TypeError(f"sandbox must be Sandbox, not {type(sandbox).__name__}")
        self._sandbox = sandbox
        self._timeout = timeout
        self._max_output = max_output

    @property
    def id(self) -> str:
        """The sandbox's id."""
        return self._sandbox.start().id

    def execute(self, command: str, *, timeout: int | None = None) -> ExecuteResponse:
        """Runs a shell line, whose output and errors come as one text, as they were written."""
        # A shell of its own, so that the line is what its shell reads and nothing else.
        argv = ["sh", "-c", 'exec sh -c "$1" 2>&1', "sh", command]
        seconds = self._timeout if timeout is None else timeout
        result = self._sandbox.commands.run(argv, timeout=seconds, max_output=self._max_output)
        if not result.timed_out:
            return ExecuteResponse(result.stdout, result.exit_code, result.truncated)
        told = f"{result.stdout}\n[killed: its time was over after {result.duration:.0f} s]"
        return ExecuteResponse(told.lstrip(), _TIMED_OUT, result.truncated)

    def upload_files(self, files: list[tuple[str, bytes]]) -> list[FileUploadResponse]:
        """Writes files, and makes the directories that lead to them."""
        return [FileUploadResponse(path, self._upload(path, content)) for path, content in files]

    def _upload(self, path: str, content: bytes) -> str | None:
        if not path.startswith("/"):
            return "invalid_path"
        try:
            self._sandbox.files.write(path, content)
        except CoveError as error:
            return self._reason(path, error)
        return None

    def download_files(self, paths: list[str]) -> list[FileDownloadResponse]:
        """Reads files."""
        return [self._download(path) for path in paths]

    def _download(self, path: str) -> FileDownloadResponse:
        if not path.startswith("/"):
            return FileDownloadResponse(path, error="invalid_path")
        try:
            return FileDownloadResponse(path, content=self._sandbox.files.read(path, "bytes"))
        except CoveError as error:
            return FileDownloadResponse(path, error=self._reason(path, error))

    def _reason(self, path: str, error: CoveError) -> str:
        """Returns deepagents' word for what went wrong with one file, or the error's own. What
        went wrong with the sandbox is raised: no other path would work either."""
        if isinstance(error, (GoneError, UnavailableError, UnauthenticatedError)):
            raise error
        if isinstance(error, NotFoundError):
            self._sandbox.get_info()  # it is the file that is not there
            return "file_not_found"
        if isinstance(error, ForbiddenError):
            return "permission_denied"
        if isinstance(error, InvalidError):
            return "is_directory" if self._is_directory(path) else "invalid_path"
        return str(error)

    def _is_directory(self, path: str) -> bool:
        try:
            return self._sandbox.files.get_info(path).type == "directory"
        except CoveError:
            return False
