"""Arguments as JSON of the API, with their types checked before anything is sent."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from .errors import InvalidError
from .types import Duration, Limits, Mount, Network, Secret

_NEVER = "never"


def check(name: str, value: object, *types: type) -> None:
    """Raises TypeError unless value is None or of one of the types. A bool is no int."""
    if value is None or (isinstance(value, types) and not (isinstance(value, bool) and bool not in types)):
        return
    wanted = " or ".join(t.__name__ for t in types)
    raise TypeError(f"{name} must be {wanted}, not {type(value).__name__}")


def duration(name: str, value: Duration | None) -> str | float | None:
    """Returns a duration as the API takes it. 0 is none at all: without end."""
    check(name, value, int, float, str, timedelta)
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, (int, float)):
        if not value >= 0:
            raise InvalidError(f"{name} is {value}", hint="give seconds, 0 for no limit")
        return _NEVER if value in (0, float("inf")) else float(value)
    return value


def seconds(value: Duration | None) -> float | None:
    """Returns how many seconds a duration has that is not text; None: unknown or endless."""
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, (int, float)) and 0 < value < float("inf"):
        return float(value)
    return None


def command(cmd: object) -> str | list[str]:
    """Returns a shell line, or program and arguments."""
    if isinstance(cmd, str):
        if not cmd:
            raise InvalidError("the command is empty", hint="give a shell line, or program and arguments")
        return cmd
    if isinstance(cmd, bytes) or not isinstance(cmd, Sequence):
        raise TypeError(f"a command must be str or a list of str, not {type(cmd).__name__}")
    argv = [os.fspath(part) if isinstance(part, os.PathLike) else part for part in cmd]
    for part in argv:
        if not isinstance(part, str):
            raise TypeError(f"a command must be str or a list of str, not of {type(part).__name__}")
    if not argv:
        raise InvalidError("the command is empty", hint="give a shell line, or program and arguments")
    return argv


def text_map(name: str, value: object) -> dict[str, str] | None:
    """Returns a mapping of text to text."""
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a dict, not {type(value).__name__}")
    for key, item in value.items():
        if not isinstance(key, str) or not isinstance(item, str):
            raise TypeError(f"{name} must map str to str; {key!r} maps to {type(item).__name__}")
    return dict(value)


def one(first: str, a: Any, second: str, b: Any) -> Any:
    """Returns the one of two spellings that was given."""
    if a is not None and b is not None:
        raise TypeError(f"{first} and {second} are the same; give one of them")
    return b if a is None else a


def drop_none(data: Mapping[str, Any]) -> dict[str, Any]:
    """Returns data without what was not given."""
    return {key: value for key, value in data.items() if value is not None}


def strings(name: str, value: object) -> list[str] | None:
    """Returns a list of text."""
    if value is None:
        return None
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        raise TypeError(f"{name} must be a list of str, not {type(value).__name__}")
    for item in value:
        if not isinstance(item, str):
            raise TypeError(f"{name} must be a list of str, not of {type(item).__name__}")
    return list(value)


def secret(value: Secret | str) -> dict[str, Any]:
    """Returns the use of a secret."""
    if isinstance(value, str):
        return {"name": value}
    check("a secret", value, Secret)
    return drop_none(
        {
            "name": value.name,
            "value": value.value,
            "hosts": strings("hosts", value.hosts) or None,
            "env": value.env,
            "in": strings("places", value.places) or None,
        }
    )


NetworkLike = bool | str | Sequence[str] | Network | Mapping[str, Any]


def network(value: NetworkLike | None) -> dict[str, Any] | None:
    """Returns a policy: of True (public addresses), False (nothing), a mode, or rules."""
    if value is None:
        return None
    if isinstance(value, bool):
        return {"mode": "open" if value else "none"}
    if isinstance(value, str):
        if value not in ("none", "open"):
            raise InvalidError(f"network is {value!r}", hint="give none, open, a list of rules, or a Network")
        return {"mode": value}
    if isinstance(value, Network):
        return drop_none(
            {
                "mode": value.mode,
                "allow": strings("allow", value.allow) or None,
                "deny": strings("deny", value.deny) or None,
                "secrets": [secret(s) for s in value.secrets] or None,
                "requests": [dict(r) for r in value.requests] or None,
                "limits": dict(value.limits) if value.limits else None,
                "final": value.final or None,
            }
        )
    if isinstance(value, Mapping):
        return dict(value)
    return {"mode": "allow", "allow": strings("network", value)}


def mount(value: Mount | Mapping[str, Any]) -> dict[str, Any]:
    """Returns a mount."""
    if isinstance(value, Mapping):
        return dict(value)
    check("a mount", value, Mount)
    return drop_none(
        {
            "type": value.type,
            "target": value.target,
            "source": value.source or None,
            "read_only": value.read_only or None,
            "size": value.size,
            "remove": value.remove or None,
        }
    )


def ports(value: Sequence[int] | Mapping[int, int] | None) -> list[dict[str, int]] | None:
    """Returns published ports: a list of ports inside, or ports inside to ports here."""
    if value is None:
        return None
    pairs = value.items() if isinstance(value, Mapping) else [(port, 0) for port in value]
    return [drop_none({"port": port_number(inside), "host_port": here or None}) for inside, here in pairs]


def port_number(value: object) -> int:
    """Returns a TCP port."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"a port must be int, not {type(value).__name__}")
    if not 0 < value < 65536:
        raise InvalidError(f"there is no port {value}", hint="give 1 to 65535")
    return value


def ulimits(value: Mapping[str, int | tuple[int, int]] | None) -> list[dict[str, Any]] | None:
    """Returns resource limits: name to limit, or to soft and hard limit."""
    if value is None:
        return None
    pairs = {name: v if isinstance(v, tuple) else (v, v) for name, v in value.items()}
    return [{"name": name, "soft": soft, "hard": hard} for name, (soft, hard) in pairs.items()]


def limits(value: Limits | None) -> dict[str, Any]:
    """Returns the parts of a spec that a Limits is about."""
    check("limits", value, Limits)
    if value is None:
        return {}
    check("limits.cpu", value.cpu, int, float)
    check("limits.memory", value.memory, int, str)
    check("limits.pids", value.pids, int)
    check("limits.disk", value.disk, int, str)
    check("limits.shm", value.shm, int, str)
    check("limits.network", value.network, bool)
    bounds = {"cpus": value.cpu, "memory": value.memory, "pids": value.pids, "disk": value.disk, "shm": value.shm}
    return drop_none(
        {
            "limits": drop_none(bounds) or None,
            "timeout": duration("limits.timeout", value.timeout),
            "network": network(value.network),
            "read_only": value.fs_readonly or None,
        }
    )
