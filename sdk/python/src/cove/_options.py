"""Keyword arguments that several functions take, for type checkers; nothing here is
imported when the package is used."""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from typing import IO, Any, Literal, TypedDict, Union

from ._runs import Retry
from ._spec import NetworkLike
from .types import Duration, Limits, Mount, Path, Secret, Size


class SpecOptions(TypedDict, total=False):
    """What a sandbox is."""

    runtime: str | None
    limits: Limits | None
    image: str | None
    template: str | None
    env: Mapping[str, str] | None
    envs: Mapping[str, str] | None
    labels: Mapping[str, str] | None
    metadata: Mapping[str, str] | None
    user: str | None
    workdir: str | None
    network: NetworkLike | None
    secrets: Sequence[Secret | str] | None
    mounts: Sequence[Mount | Mapping[str, Any]] | None
    hosts: Mapping[str, str] | None
    ulimits: Mapping[str, int | tuple[int, int]] | None
    read_only: bool | None
    platform: str | None
    pull: str | None
    options: Mapping[str, Any] | None
    best_effort: bool | None


class SandboxOptions(SpecOptions, total=False):
    """What ``Sandbox`` takes."""

    timeout: Duration | None
    ttl: Duration | None
    idle: Duration | None
    command_timeout: Duration | None
    name: str | None
    ports: Sequence[int] | Mapping[int, int] | None
    keep: bool
    reuse: bool
    url: str | None
    api_key: str | None
    request_timeout: float | None
    verify: bool | str | ssl.SSLContext


class RunOptions(SpecOptions, total=False):
    """What a ``RunRequest`` takes beside its commands and files."""

    archive: Union[Path, bytes, IO[bytes], None]
    cwd: str | None
    fail_fast: bool
    retry: Retry | int | None
    timeout: Duration | None
    max_output: Size | None
    returns: Literal["archive", "patch", "both", "none"]
