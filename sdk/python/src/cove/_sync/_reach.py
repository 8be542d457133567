"""What leads into a sandbox and out of it, and what is told of it."""

from __future__ import annotations

import time
from collections.abc import Iterator

from .. import _spec as spec
from .._model import known, nonsense, parse, parse_list
from ..errors import TimedOutError
from ..types import Duration, Event, ListeningPort, NetworkEvent, NetworkStatus, SandboxInfo, Stats
from ._io import in_thread
from ._transport import Transport


class Reach:
    """The ports, the network, and the events of a sandbox; what else it is, Sandbox
    adds."""

    _transport: Transport

    @property
    def info(self) -> SandboxInfo:
        """What the daemon said last."""
        raise NotImplementedError

    def _path(self, rest: str = "") -> str:
        raise NotImplementedError

    # Ports

    def get_url(self, port: int) -> str:
        """Returns an address at which a program on this machine reaches a port inside, by
        HTTP, also before something listens there.

        Of a daemon elsewhere it is the daemon's proxy, which wants the API key. Otherwise it
        is a port of this machine's loopback: one that ``ports`` opened, or one that this
        process forwards, as long as it and the sandbox live."""
        number = spec.port_number(port)
        path = self._path(f"/ports/{number}/")
        if not self._transport.local:
            return self._transport.address.base + path
        for open in self.info.spec.get("ports") or []:
            if open.get("port") == number and open.get("host_port"):
                return f"http://{open.get('address') or '127.0.0.1'}:{open['host_port']}/"
        from .._forward import forward

        here = in_thread(forward, self._transport.address.socket, path.rstrip("/"))
        return f"http://127.0.0.1:{here}/"

    def get_host(self, port: int) -> str:
        """Returns host and port of ``get_url``, as E2B calls it."""
        url = self.get_url(port)
        return url.split("://", 1)[1].rstrip("/")

    def ports(self) -> _Ports:
        """Returns the ports on which something listens inside, as the sandbox tells it."""
        return parse_list(ListeningPort, self._transport.json("GET", self._path("/ports")), "ports")

    def wait_port(self, port: int, timeout: float = 30.0) -> None:
        """Returns once something listens on a port inside; TimedOutError when nothing did."""
        number = spec.port_number(port)
        timeout = spec.number("timeout", timeout)
        spec.check("timeout", timeout, int, float)
        deadline = time.monotonic() + timeout
        while True:
            left = deadline - time.monotonic()
            params = {"wait": str(number), "timeout": f"{max(min(left, 30.0), 0.001):.3f}s"}
            try:
                self._transport.request("GET", self._path("/ports"), params=params, read=60.0)
                return
            except TimedOutError:
                if time.monotonic() >= deadline:
                    raise

    def preview(self, port: int, ttl: Duration | None = None) -> str:
        """Returns an address of a port for a browser, where the daemon serves previews. Who
        has it can use the port."""
        body = spec.drop_none({"port": spec.port_number(port), "ttl": spec.duration("ttl", ttl)})
        reply = self._transport.json("POST", self._path("/previews"), json=body)
        if not isinstance(reply, dict) or "url" not in reply:
            raise nonsense("a preview without an address")
        return str(reply["url"])

    # Network, statistics, events

    def get_network(self) -> NetworkStatus:
        """Returns what the sandbox may reach, and what has passed."""
        return parse(NetworkStatus, self._transport.json("GET", self._path("/network")))

    def set_network(self, network: spec.NetworkLike) -> NetworkStatus:
        """Changes what the sandbox may reach; holds when this returns. Connections that are
        not allowed any more are closed."""
        update = spec.policy(network)
        if update is None:
            raise TypeError("network must not be None")
        if update == {"mode": "none"}:
            update = {
                "mode": "none",
                "allow": [],
                "requests": [],
                "secrets": [],
            }  # rules that stayed would contradict it
        return parse(NetworkStatus, self._transport.json("PATCH", self._path("/network"), json=update))

    def network_log(self, after: int = 0) -> _Decisions:
        """Returns the decisions about what it wanted to reach that are kept."""
        spec.need("after", after, int)
        params = {"after": str(after)}
        reply = self._transport.json("GET", self._path("/network/log"), params=params)
        return parse_list(NetworkEvent, reply, "events")

    def network_events(self, after: int = 0) -> Iterator[NetworkEvent]:
        """Yields those decisions, kept ones first, until the sandbox ends."""
        spec.need("after", after, int)
        path = self._path("/network/log")
        for data in self._transport.events(path, params={"after": str(after)}):
            for decision in known(NetworkEvent, data):
                yield decision

    def stats(self) -> Stats:
        """Returns what the sandbox uses now."""
        return parse(Stats, self._transport.json("GET", self._path("/stats")))

    def watch_stats(self, interval: float = 1.0) -> Iterator[Stats]:
        """Yields what it uses, again after every interval, until it ends."""
        params = {"interval": f"{spec.number('interval', interval)}s"}
        path = self._path("/stats")
        for data in self._transport.events(path, params=params):
            for stats in known(Stats, data):
                yield stats

    def events(self, after: int | None = None) -> Iterator[Event]:
        """Yields what happens to this sandbox: from now on, or what is kept after a number."""
        spec.check("after", after, int)
        self._path()  # which starts it
        params = {"sandbox": self.info.id}
        if after is not None:
            params["after"] = str(after)
        for data in self._transport.events("/v1/events", params=params):
            for event in known(Event, data):
                yield event


_Ports = list[ListeningPort]
_Decisions = list[NetworkEvent]
