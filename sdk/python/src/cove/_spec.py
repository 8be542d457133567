"""Arguments as JSON of the API, with their types checked before anything is sent."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from .errors import InvalidError
from .types import Duration, Limits, Mount, Network, PtySize, Secret

_NEVER = "never"


def check(name: str, value: object, *types: type) -> None:
    """Raises TypeError unless value is None or of one of the types. A bool is no int."""
    if value is None or (isinstance(value, types) and not (isinstance(value, bool) and bool not in types)):
        return
    wanted = " or ".join(t.__name__ for t in types)
    raise TypeError(f"{name} must be {wanted}, not {type(value).__name__}")


def need(name: str, value: object, *types: type) -> None:
    """Raises TypeError unless value is of one of the types, and so not None."""
    if value is None:
        raise TypeError(f"{name} must be {' or '.join(t.__name__ for t in types)}, not None")
    check(name, value, *types)


def encode(name: str, value: str) -> bytes:
    """Returns text as UTF-8; half of a surrogate pair is no text."""
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        hint = "give it as bytes where that is possible, or leave it out"
        raise InvalidError(f"{name} has characters that are no Unicode", hint=hint) from error


def text(name: str, value: str | None) -> str | None:
    """Returns text, or None."""
    check(name, value, str)
    return value


def function(name: str, value: object) -> None:
    """Raises TypeError unless value is None or can be called."""
    if value is not None and not callable(value):
        raise TypeError(f"{name} must be callable, not {type(value).__name__}")


def number(name: str, value: float) -> float:
    """Returns a number of seconds, which is not negative."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, not {type(value).__name__}")
    if not value >= 0:
        raise InvalidError(f"{name} is {value}", hint="give a number that is not negative")
    return value


def at_least_one(name: str, value: int) -> int:
    """Returns a positive number of something."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be int, not {type(value).__name__}")
    if value < 1:
        raise InvalidError(f"{name} is {value}", hint="give 1 or more")
    return value


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


_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ms|h|m|s)")


def lifetime(name: str, value: Duration) -> float:
    """Returns for how many seconds something is to live, infinity for ever. Text that is not
    understood here is as long as that: the daemon says what is wrong with it."""
    wanted = duration(name, value)
    if not isinstance(wanted, str):
        return float(wanted or 0)
    parts = _PART.findall(wanted)
    if not parts or "".join(number + unit for number, unit in parts) != wanted.strip():
        return float("inf")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


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


def below(path: object) -> str:
    """Returns a path of a file that is to be below the workdir."""
    if not isinstance(path, str):
        raise TypeError(f"a path must be str, not {type(path).__name__}")
    clean = posixpath.normpath(path)
    if not path or path.endswith("/") or "\0" in path or clean in (".", "..") or clean.startswith(("/", "../")):
        raise InvalidError(f"{path!r} is no name of a file below the workdir", hint="give a relative path, without ..")
    return clean


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


def items(name: str, value: object) -> list[Any]:
    """Returns a list, empty where nothing was given."""
    if value is None:
        return []
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Sequence):
        raise TypeError(f"{name} must be a list, not {type(value).__name__}")
    return list(value)


def secret(value: Secret | str) -> dict[str, Any]:
    """Returns the use of a secret."""
    if isinstance(value, str):
        return {"name": value}
    if not isinstance(value, Secret):
        raise TypeError(f"a secret must be str or Secret, not {type(value).__name__}")
    check("a secret's name", value.name, str)
    check("a secret's value", value.value, str)
    check("a secret's env", value.env, str)
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


def policy(value: NetworkLike | None) -> dict[str, Any] | None:
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
        check("mode", value.mode, str)
        check("limits", value.limits, Mapping)
        return drop_none(
            {
                "mode": value.mode,
                "allow": strings("allow", value.allow) or None,
                "deny": strings("deny", value.deny) or None,
                "secrets": [secret(s) for s in items("secrets", value.secrets)] or None,
                "requests": [_rule(r) for r in items("requests", value.requests)] or None,
                "limits": dict(value.limits) if value.limits else None,
                "final": value.final or None,
            }
        )
    if isinstance(value, Mapping):
        return dict(value)
    return {"mode": "allow", "allow": strings("network", value)}


def _rule(value: object) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"a rule on requests must be a dict, not {type(value).__name__}")
    return dict(value)


def mount(value: Mount | Mapping[str, Any]) -> dict[str, Any]:
    """Returns a mount."""
    if isinstance(value, Mapping):
        return dict(value)
    if not isinstance(value, Mount):
        raise TypeError(f"a mount must be Mount, not {type(value).__name__}")
    check("a mount's target", value.target, str)
    check("a mount's source", value.source, str)
    check("a mount's size", value.size, int, str)
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


def publish(value: Sequence[int] | Mapping[int, int] | None) -> list[dict[str, int]] | None:
    """Returns published ports: a list of ports inside, or ports inside to ports here."""
    if value is None:
        return None
    pairs = value.items() if isinstance(value, Mapping) else [(port, 0) for port in items("ports", value)]
    return [drop_none({"port": port_number(a), "host_port": port_number(b) if b else None}) for a, b in pairs]


def terminal(size: PtySize) -> dict[str, int]:
    """Returns the size of a terminal."""
    need("rows", size.rows, int)
    need("cols", size.cols, int)
    return {"rows": size.rows, "cols": size.cols}


def port_number(value: object) -> int:
    """Returns a TCP port."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"a port must be int, not {type(value).__name__}")
    if not 0 < value < 65536:
        raise InvalidError(f"there is no port {value}", hint="give 1 to 65535")
    return value


def _ulimits(value: Mapping[str, int | tuple[int, int]] | None) -> list[dict[str, Any]] | None:
    """Returns resource limits: name to limit, or to soft and hard limit."""
    if value is None:
        return None
    check("ulimits", value, Mapping)
    pairs = {name: v if isinstance(v, tuple) else (v, v) for name, v in value.items()}
    for name, pair in pairs.items():
        if not isinstance(name, str) or [type(bound) for bound in pair] != [int, int]:
            raise TypeError(f"ulimits must map str to int, or to a soft and a hard one, not {name!r} to {pair!r}")
    return [{"name": name, "soft": soft, "hard": hard} for name, (soft, hard) in pairs.items()]


def sandbox(
    *,
    runtime: str | None = None,
    limits: Limits | None = None,
    image: str | None = None,
    template: str | None = None,
    lifetime: Duration | None = None,
    idle: Duration | None = None,
    command_timeout: Duration | None = None,
    env: Mapping[str, str] | None = None,
    envs: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    metadata: Mapping[str, str] | None = None,
    name: str | None = None,
    user: str | None = None,
    workdir: str | None = None,
    network: NetworkLike | None = None,
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
) -> dict[str, Any]:
    """Returns the spec of a sandbox."""
    for what, text in {
        "runtime": runtime, "image": image, "template": template, "name": name, "user": user,
        "workdir": workdir, "platform": platform, "pull": pull,
    }.items():  # fmt: skip
        check(what, text, str)
    check("read_only", read_only, bool)
    check("best_effort", best_effort, bool)
    check("options", options, Mapping)
    body = _limits(limits)
    if network is not None:
        body["network"] = policy(network)
    if secrets is not None:
        rules = body.setdefault("network", {})
        rules["secrets"] = [*rules.get("secrets", []), *(secret(s) for s in items("secrets", secrets))]
    if command_timeout is not None:
        body["timeout"] = duration("command_timeout", command_timeout)
    if read_only is not None:
        body["read_only"] = read_only
    body.update(
        runtime=runtime,
        image=one("image", image, "template", template),
        name=name,
        env=text_map("env", one("env", env, "envs", envs)),
        labels=text_map("labels", one("labels", labels, "metadata", metadata)),
        user=user,
        workdir=workdir,
        idle=duration("idle", idle),
        ttl=duration("ttl", lifetime),
        mounts=[mount(m) for m in items("mounts", mounts)] or None,
        ports=publish(ports),
        hosts=text_map("hosts", hosts),
        ulimits=_ulimits(ulimits),
        platform=platform,
        pull=pull,
        options=dict(options) if options else None,
        best_effort=best_effort,
    )
    return drop_none(body)


def _limits(value: Limits | None) -> dict[str, Any]:
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
    check("limits.fs_readonly", value.fs_readonly, bool)
    bounds = {"cpus": value.cpu, "memory": value.memory, "pids": value.pids, "disk": value.disk, "shm": value.shm}
    return drop_none(
        {
            "limits": drop_none(bounds) or None,
            "timeout": duration("limits.timeout", value.timeout),
            "network": policy(value.network),
            "read_only": value.fs_readonly or None,
        }
    )
