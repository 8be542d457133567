"""JSON of the API as the classes of ``types``."""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields
from datetime import datetime
from typing import Any, TypeVar

from .errors import UnavailableError
from .types import Event, ListeningPort, SandboxInfo

T = TypeVar("T")

_TIMES = frozenset({"created_at", "expires_at", "started_at", "modified_at", "updated_at", "time"})
_RENAMED = {"in": "places"}
_FRACTION = re.compile(r"\.(\d+)")


def parse(cls: type[T], data: object) -> T:
    """Returns data as a cls. Unknown fields are ignored, null ones have their default."""
    if not isinstance(data, dict):
        raise nonsense(f"an object was expected, not {type(data).__name__}")
    known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in data.items():
        name = _RENAMED.get(key, key)
        if name in known and value is not None:
            values[name] = _convert(cls, name, value)
    try:
        return cls(**values)
    except TypeError as error:
        raise nonsense(str(error)) from error


def known(cls: type[T], data: object) -> Iterator[T]:
    """Yields data as a cls, or nothing: an event of a kind that is not known here may lack
    what every other has."""
    if isinstance(data, dict) and any(f.name not in data for f in _required(cls)):
        return
    yield parse(cls, data)


def _required(cls: type[Any]) -> list[Field[Any]]:
    return [f for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING]


def parse_list(cls: type[T], data: object, member: str) -> list[T]:
    """Returns the list that is data's member."""
    items = (data.get(member) or []) if isinstance(data, dict) else None
    if not isinstance(items, list):
        raise nonsense(f"a list of {member} was expected")
    return [parse(cls, item) for item in items]


def outcome(data: object, code: str) -> dict[str, Any]:
    """Returns how a command ended as a CommandResult has it; code is the member that is its
    exit code."""
    if not isinstance(data, dict):
        raise nonsense("a result that is no object")
    try:
        return {
            "exit_code": int(data.get(code, -1)),
            "timed_out": bool(data.get("timed_out")),
            "duration": float(data.get("duration_ms") or 0) / 1000,
            "signal": str(data.get("signal") or ""),
            "error": str(data.get("error") or ""),
        }
    except (TypeError, ValueError) as error:
        raise nonsense(str(error)) from error


def output(data: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a command that was run in one request wrote, and how it ended."""
    coded = data.get("encoding") == "base64" if isinstance(data, dict) else False
    return {
        **outcome(data, "exit_code"),
        "stdout_bytes": binary(data.get("stdout")) if coded else str(data.get("stdout") or "").encode(),
        "stderr_bytes": binary(data.get("stderr")) if coded else str(data.get("stderr") or "").encode(),
        "truncated": bool(data.get("truncated")),
        "pid": integer(data.get("pid")),
    }


def binary(value: object) -> bytes:
    """Returns what base64 stands for."""
    try:
        return binascii.a2b_base64(str(value or ""))
    except ValueError as error:
        raise nonsense("it is no base64") from error


def integer(value: object) -> int:
    """Returns a number, 0 where there is none."""
    return int(value) if isinstance(value, (int, float)) else 0


def _convert(cls: type[Any], name: str, value: Any) -> Any:
    if name in _TIMES and isinstance(value, str):
        return moment(value)
    if cls is Event and name == "sandbox":
        return parse(SandboxInfo, value)
    if cls is Event and name == "port":
        return parse(ListeningPort, value)
    return value


def moment(text: str) -> datetime | None:
    """Returns an RFC 3339 time, which has nanoseconds where datetime has microseconds."""
    text = _FRACTION.sub(lambda m: "." + m[1][:6].ljust(6, "0"), text, count=1)
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None


def nonsense(problem: str) -> UnavailableError:
    """The error of a reply that can't be understood."""
    return UnavailableError(
        f"the daemon's reply makes no sense: {problem}", hint="check that the URL leads to a cove daemon"
    )
