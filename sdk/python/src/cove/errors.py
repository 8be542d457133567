"""Errors, one class for each code of the API, with the hint in their text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .types import CommandResult

__all__ = [
    "CommandFailed",
    "ConflictError",
    "CoveError",
    "ExhaustedError",
    "ForbiddenError",
    "GoneError",
    "InternalError",
    "InvalidError",
    "NoSpaceError",
    "NotFoundError",
    "TimedOutError",
    "TooLargeError",
    "UnauthenticatedError",
    "UnavailableError",
    "UnsupportedError",
]


class CoveError(Exception):
    """The base of every error that Cove reports."""

    code: str = "internal"

    def __init__(self, message: str, *, hint: str = "", exit_code: int = 0, retry_after: float | None = None) -> None:
        self.message = message
        self.hint = hint
        #: As shells have it, of a command that could not be started: 127, 126; else 0.
        self.exit_code = exit_code
        #: In how many seconds it may be tried again, where the daemon said so.
        self.retry_after = retry_after
        super().__init__(message)

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions cross process borders, as from a multiprocessing pool.
        return _rebuild, (type(self), self.message, self.hint, self.exit_code, self.retry_after, self.code)


def _rebuild(
    cls: type[CoveError], message: str, hint: str, exit_code: int, retry_after: float | None, code: str
) -> CoveError:
    error = cls(message, hint=hint, exit_code=exit_code, retry_after=retry_after)
    error.code = code
    return error


class InvalidError(CoveError, ValueError):
    """What was asked for makes no sense."""

    code = "invalid"


class UnauthenticatedError(CoveError):
    """The key is missing or wrong."""

    code = "unauthenticated"


class ForbiddenError(CoveError):
    """The key, or the operator's policy, does not allow this."""

    code = "forbidden"


class NotFoundError(CoveError, LookupError):
    """There is no such sandbox, process or file."""

    code = "not_found"


class ConflictError(CoveError):
    """It is there already, or in a state that does not allow this."""

    code = "conflict"


class GoneError(CoveError):
    """The sandbox has ended, or this handle was closed."""

    code = "gone"


class TooLargeError(CoveError):
    """What was sent is larger than allowed."""

    code = "too_large"


class UnsupportedError(CoveError):
    """This runtime, host or daemon can't do that."""

    code = "unsupported"


class ExhaustedError(CoveError):
    """A limit was reached: of the host, the key or the sandbox."""

    code = "exhausted"


class InternalError(CoveError):
    """A defect of the daemon; its log says more."""

    code = "internal"


class UnavailableError(CoveError, ConnectionError):
    """No daemon answered, or it went away in the middle of a reply."""

    code = "unavailable"


class TimedOutError(CoveError, TimeoutError):
    """It took too long. Also a ``TimeoutError`` of Python's."""

    code = "timeout"


class NoSpaceError(CoveError):
    """The disk, or the sandbox's share of it, is full."""

    code = "no_space"


class CommandFailed(CoveError):
    """A command that was run with ``check=True`` did not succeed."""

    code = "command_failed"

    def __init__(self, result: CommandResult) -> None:
        self.result = result
        if result.timed_out:
            how = f"timed out after {result.duration:.1f} s"
        elif result.signal:
            how = f"was ended by {result.signal}"
        else:
            how = f"exited with {result.exit_code}"
        excerpt = (result.stderr or result.stdout).strip()[-2000:]
        super().__init__(f"the command {how}" + (f":\n{excerpt}" if excerpt else ""), exit_code=result.exit_code)

    def __reduce__(self) -> tuple[Any, ...]:
        return CommandFailed, (self.result,)


_CLASSES: dict[str, type[CoveError]] = {
    cls.code: cls
    for cls in (
        InvalidError,
        UnauthenticatedError,
        ForbiddenError,
        NotFoundError,
        ConflictError,
        GoneError,
        TooLargeError,
        UnsupportedError,
        ExhaustedError,
        InternalError,
        UnavailableError,
        TimedOutError,
        NoSpaceError,
    )
}

#: The codes of statuses, also of those that something between us and the daemon gives.
_STATUSES = {
    400: "invalid", 401: "unauthenticated", 403: "forbidden", 404: "not_found", 408: "timeout",
    409: "conflict", 410: "gone", 413: "too_large", 414: "too_large", 422: "unsupported",
    429: "exhausted", 431: "too_large", 501: "unsupported", 502: "unavailable",
    503: "unavailable", 504: "timeout", 507: "no_space",
}  # fmt: skip


def from_body(body: object, status: int = 500, retry_after: float | None = None) -> CoveError:
    """Returns the error that a reply's ``error`` object describes. One of a code that is not
    known here keeps it, and has the class that the status says."""
    data: dict[str, Any] = body if isinstance(body, dict) else {}
    code = str(data.get("code") or "")
    cls = _CLASSES.get(code) or from_status(status)
    exit_code = data.get("exit_code")
    error = cls(
        str(data.get("message") or code or cls.code),
        hint=str(data.get("hint") or ""),
        exit_code=exit_code if isinstance(exit_code, int) else 0,
        retry_after=retry_after,
    )
    error.code = code or cls.code
    return error


def from_status(status: int) -> type[CoveError]:
    """Returns the class for a reply that does not say its code."""
    fallback = "invalid" if 400 <= status < 500 else "internal"
    return _CLASSES[_STATUSES.get(status, fallback)]


def closed() -> GoneError:
    """The error of a handle that was closed."""
    return GoneError("the sandbox is closed", hint="make a new one, or connect to another by its id")
