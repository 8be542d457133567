"""JSON of the API as the classes of ``types``."""

from __future__ import annotations

import re
from dataclasses import fields
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


def parse_list(cls: type[T], data: object, member: str) -> list[T]:
    """Returns the list that is data's member."""
    items = data.get(member) if isinstance(data, dict) else None
    return [parse(cls, item) for item in items or []]


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
