"""Requests to a daemon, and their errors."""

from __future__ import annotations

import json as jsonlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .. import _spec as spec
from .._daemon import Address, key, locate, seconds, start, trust, trusted
from .._frames import CONTENT_TYPE, ERROR, EXIT, Frame, FrameParser
from .._lease import tls
from .._model import nonsense
from .._version import __version__
from ..errors import (
    CoveError,
    ExhaustedError,
    ForbiddenError,
    InvalidError,
    TimedOutError,
    UnauthenticatedError,
    UnavailableError,
    from_body,
    from_status,
)
from ._io import Clients, here, in_thread, left, stay

if TYPE_CHECKING:
    import ssl

    import httpx

_MAX_ERROR = 1 << 20
_CONNECT = 10.0
_LONG = 64 << 10
#: A stream says something every 15 s; silence for longer means that the connection died.
_SILENCE = 45.0
#: A daemon closes connections that were idle for two minutes.
_KEEP = 60.0
_AGENT = f"cove-sandbox/{__version__} python/{sys.version_info[0]}.{sys.version_info[1]}"


class Transport:
    """Speaks to one daemon. Safe for concurrent use: by threads, by event loops (each with
    connections of its own) and by forked children (likewise)."""

    def __init__(
        self,
        url: str | Address | None = None,
        api_key: str | None = None,
        request_timeout: float | None = None,
        verify: bool | str | ssl.SSLContext = True,
    ) -> None:
        self.address: Address = url if isinstance(url, Address) else locate(url)
        self.key = key(api_key)
        self.request_timeout = seconds("request_timeout", request_timeout)
        self.verify = trusted(verify)
        # A daemon that dies closes its socket, and the kernel tells; a network may not.
        self._read = self.request_timeout or (None if self.address.socket else 60.0)
        self._clients = Clients(self._make)

    @property
    def local(self) -> bool:
        """Whether the daemon is at a unix socket."""
        return bool(self.address.socket)

    def _make(self) -> httpx.Client:
        import httpx

        headers = {"User-Agent": _AGENT, "Accept": "application/json", "Accept-Encoding": "identity"}
        if self.key:
            headers["Authorization"] = "Bearer " + self.key
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=_KEEP)
        timeout = self._timeout(self._read)
        if self.address.ours:
            trust(self.address)
        if self.address.socket:
            # No TLS is spoken here, and making a context for it costs 20 ms.
            transport = httpx.HTTPTransport(uds=self.address.socket, limits=limits, verify=False)
            return httpx.Client(transport=transport, trust_env=False, headers=headers, timeout=timeout)
        verify = tls(self.verify) if isinstance(self.verify, str) else self.verify
        return httpx.Client(limits=limits, verify=verify, headers=headers, timeout=timeout)

    @staticmethod
    def _timeout(read: float | None) -> httpx.Timeout:
        import httpx

        return httpx.Timeout(connect=_CONNECT, read=read, write=read, pool=None)

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        json: object = None,
        content: Any = None,
        headers: Mapping[str, str] | None = None,
        read: float | None = -1.0,
    ) -> httpx.Response:
        """Returns a reply, read whole. A status of 400 and above is an error. A read timeout
        of None is none, and -1 the default."""
        request = self._request(method, path, params, json, content, headers, read)
        response = self._send(request, stream=False)
        if response.status_code >= 300:
            raise _error(response, response.content)
        return response

    def json(self, method: str, path: str, **options: Any) -> Any:
        """Returns the JSON of a reply."""
        return decoded(self.request(method, path, **options))

    def _request(
        self,
        method: str,
        path: str,
        params: Mapping[str, Any] | None,
        json: object,
        content: Any,
        headers: Mapping[str, str] | None,
        read: float | None,
    ) -> httpx.Request:
        sent = dict(headers or {})
        if json is not None:
            try:
                content = spec.encode("the request", jsonlib.dumps(json, allow_nan=False, ensure_ascii=False))
            except (TypeError, ValueError) as error:
                if isinstance(error, CoveError):
                    raise
                raise InvalidError(f"the request is no JSON: {error}", hint="check numbers and options") from error
            sent["Content-Type"] = "application/json"
        elif content is not None:
            sent.setdefault("Content-Type", "application/octet-stream")
        timeout = self._timeout(self._read if read == -1.0 else read)
        url = self.address.base + path
        try:
            return self._clients.get().build_request(
                method, url, params=params, content=content, headers=sent, timeout=timeout
            )
        except UnicodeEncodeError as error:
            raise InvalidError("a path or name has characters that are no Unicode", hint="choose another") from error

    def _send(self, request: httpx.Request, stream: bool) -> httpx.Response:
        import httpx

        for attempt in (1, 2):
            try:
                return self._clients.get().send(request, stream=stream)
            except httpx.ConnectError as error:
                # Nothing was sent yet. This user's own daemon comes and goes with its use.
                if attempt == 2 or not self.address.ours:
                    raise self._unreachable(error) from error
                in_thread(start, self.address)
            except httpx.TimeoutException as error:
                raise _slow(error) from error
            except httpx.HTTPError as error:
                raise (self._refusal(request) or _broken(error)) from error
        raise AssertionError("unreachable")

    def _refusal(self, request: httpx.Request) -> CoveError | None:
        """Returns why the daemon did not want a long body, if that is why the connection broke.

        It says so and closes before it has read everything; over a network that answer can
        be lost with the connection, and so it is asked again, without a body."""
        long = "Transfer-Encoding" in request.headers or int(request.headers.get("Content-Length", 0)) > _LONG
        if self.local or not long:
            return None
        try:
            self.request("GET", "/v1/version", read=_CONNECT)
        except (UnauthenticatedError, ForbiddenError, ExhaustedError) as error:
            return error
        except CoveError:
            return None
        return None

    def _unreachable(self, error: Exception) -> UnavailableError:
        return UnavailableError(
            f"the daemon at {self.address} did not answer: {error}",
            hint="check that it runs (cove serve) and that the address is right",
        )

    @contextmanager
    def stream(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        json: object = None,
        accept: str = "*/*",
        read: float | None = _SILENCE,
    ) -> Iterator[Reply]:
        """Gives a reply whose body comes bit by bit. Leaving closes the connection."""
        request = self._request(method, path, params, json, None, {"Accept": accept}, read)
        response = self._send(request, stream=True)
        reply = Reply(response)
        try:
            if response.status_code >= 300:
                body = b""
                for piece in reply:
                    body += piece
                    if len(body) > _MAX_ERROR:
                        break
                raise _error(response, body)
            yield reply
        finally:
            reply.close()

    def frames(self, method: str, path: str, *, whole: bool = True, **options: Any) -> Iterator[Frame]:
        """Yields frames. With whole, they have to end with an exit."""
        parser = FrameParser()
        with self.stream(method, path, accept=CONTENT_TYPE, **options) as reply:
            for piece in reply:
                for frame in parser.feed(piece):
                    yield frame
                    if frame.kind in (EXIT, ERROR):
                        return
        if whole:
            raise _cut()

    def events(self, path: str, *, finite: bool = False, **options: Any) -> Iterator[Any]:
        """Yields the data of server-sent events. Only a finite stream may just end."""
        with self.stream("GET", path, accept="text/event-stream", **options) as reply:
            for event in self.decode(reply, finite):
                yield event

    def decode(self, reply: Reply, finite: bool = False) -> Iterator[Any]:
        """Yields the data of the server-sent events in a reply."""
        name, data, rest = "", "", b""
        for piece in reply:
            *lines, rest = (rest + piece).split(b"\n")
            if len(rest) > _MAX_ERROR:
                raise nonsense("an event without an end")
            for raw in lines:
                line = raw.rstrip(b"\r").decode("utf-8", "replace")
                field, _, value = line.partition(":")
                value = value[1:] if value.startswith(" ") else value
                if not line and data:
                    yield _event(name, data)
                    name, data = "", ""
                elif field == "event":
                    name = value
                elif field == "data":
                    data += value
        if not finite:
            raise _cut()

    def close(self) -> None:
        """Closes connections."""
        self._clients.close()


def decoded(response: httpx.Response) -> Any:
    """Returns the JSON of a reply."""
    try:
        return jsonlib.loads(response.content)
    except ValueError as error:
        raise nonsense("it is no JSON") from error


class Reply:
    """The body of a reply, as it comes. It belongs to where it was made."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self._home = here()

    def __iter__(self) -> Iterator[bytes]:
        import httpx

        stay(self._home)
        try:
            for piece in self._response.iter_raw():
                yield piece
                stay(self._home)
        except httpx.TimeoutException as error:
            raise _slow(error) from error
        except httpx.HTTPError as error:
            raise _broken(error) from error

    def close(self) -> None:
        """Closes the connection, if that can be done here."""
        if not left(self._home):
            self._response.close()


def _event(name: str, data: str) -> Any:
    try:
        value = jsonlib.loads(data)
    except ValueError as error:
        raise nonsense("an event that is no JSON") from error
    if name == "error":
        raise from_body(value)
    return value


def _error(response: httpx.Response, body: bytes) -> CoveError:
    status = response.status_code
    after = response.headers.get("Retry-After", "")
    retry_after = float(after) if after.isascii() and after.isdigit() else None
    try:
        data = jsonlib.loads(body)
        error = data["error"]
        if isinstance(error, dict) and error.get("code"):
            return from_body(error, status, retry_after)
    except (ValueError, KeyError, TypeError):
        pass
    # Not ours: something between us and the daemon answered.
    line = body.strip().split(b"\n")[0][:200].decode("utf-8", "replace")
    text = f"the server answered {status}" + (f": {line}" if line else "")
    return from_status(status)(text, hint="check that the URL leads to a cove daemon", retry_after=retry_after)


def _slow(error: Exception) -> TimedOutError:
    return TimedOutError(
        f"the daemon did not answer in time: {type(error).__name__}",
        hint="check that it is well, or give a longer request_timeout",
    )


def _broken(error: Exception) -> UnavailableError:
    return UnavailableError(
        f"the connection to the daemon broke: {error or type(error).__name__}",
        hint="the daemon went away in the middle of a reply; check its log and try again",
    )


def _cut() -> UnavailableError:
    return UnavailableError(
        "the daemon's stream ended too early",
        hint="the daemon went away in the middle of a reply; check its log and try again",
    )
