"""Where the daemon is, and how one is started on this machine."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .errors import ForbiddenError, InvalidError, UnavailableError

if TYPE_CHECKING:
    import ssl

#: A daemon attaches the sandboxes of its predecessor before it serves.
START_TIMEOUT = 60.0


@dataclass(frozen=True)
class Address:
    """A daemon's address: a unix socket, or a web address."""

    base: str
    """The URL that paths are appended to."""
    socket: str = ""
    ours: bool = False
    """This user's daemon on this machine, which is started when it is not there."""

    def __str__(self) -> str:
        return self.socket or self.base


def locate(url: str | None) -> Address:
    """Returns the address of a URL, of COVE_URL, or of this user's daemon."""
    if url is not None and not isinstance(url, str):
        raise TypeError(f"url must be str, not {type(url).__name__}")
    url = url or os.environ.get("COVE_URL")
    if not url:
        return Address("http://cove", os.path.join(state_dir(), "cove.sock"), ours=True)
    from urllib.parse import unquote, urlsplit

    try:
        parts = urlsplit(url)
        _ = parts.port  # which is a number or none
    except ValueError:
        raise _invalid(url) from None
    if parts.scheme == "unix" and not parts.netloc and parts.path:
        return Address("http://cove", unquote(parts.path))
    if parts.scheme in ("http", "https") and parts.hostname:
        if parts.query or parts.fragment or "@" in parts.netloc:
            raise _invalid(url)
        return Address(f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}")
    raise _invalid(url)


def key(given: str | None) -> str | None:
    """Returns the API key that was given, or that of COVE_API_KEY."""
    if given is not None and not isinstance(given, str):
        raise TypeError(f"api_key must be str, not {type(given).__name__}")
    found = given or os.environ.get("COVE_API_KEY") or None
    # In a header it would break the request, and the error of that would show it.
    if found and not (found.isascii() and found.isprintable() and " " not in found):
        raise InvalidError(
            "the API key has characters that no key has", hint="check for line breaks and blanks around it"
        )
    return found


def seconds(name: str, value: float | None) -> float | None:
    """Returns a number of seconds, which is positive."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, not {type(value).__name__}")
    if not value > 0:
        raise InvalidError(f"{name} is {value}", hint="give seconds, or None for the default")
    return value


def trusted(verify: bool | str | ssl.SSLContext) -> bool | str | ssl.SSLContext:
    """Returns what certificates are checked by, once its type is."""
    if not isinstance(verify, (bool, str)):
        import ssl

        if not isinstance(verify, ssl.SSLContext):
            raise TypeError(f"verify must be bool, a file's path or an SSLContext, not {type(verify).__name__}")
    return verify


def _invalid(url: str) -> InvalidError:
    shown = "what is given" if "@" in url else repr(url)  # not a password
    return InvalidError(
        f"{shown} is no address of a daemon", hint="use unix:///path/of/socket, http://host:port or https://host:port"
    )


def state_dir() -> str:
    """Returns the directory of this user's daemon, as the cove program finds it."""
    environ = os.environ
    if environ.get("COVE_STATE_DIR"):
        return os.path.abspath(environ["COVE_STATE_DIR"])
    if os.geteuid() == 0:
        return "/run/cove"
    if environ.get("XDG_RUNTIME_DIR", "").startswith("/"):
        return os.path.join(environ["XDG_RUNTIME_DIR"], "cove")
    if environ.get("COVE_DATA_DIR"):
        data = os.path.abspath(environ["COVE_DATA_DIR"])
    elif environ.get("XDG_DATA_HOME", "").startswith("/"):
        data = os.path.join(environ["XDG_DATA_HOME"], "cove")
    else:
        data = os.path.join(environ.get("HOME", "/"), ".local", "share", "cove")
    return os.path.join(data, "run")


def trust(address: Address) -> None:
    """Refuses a socket in a directory where somebody else could have put one."""
    import stat

    directory = os.path.dirname(address.socket)
    try:
        info = os.lstat(directory)
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid() or info.st_mode & 0o022:
        raise ForbiddenError(
            f"{directory} is not a directory that only you can write to",
            hint="give Cove directories of your own with COVE_STATE_DIR and COVE_DATA_DIR, or remove this one",
        )


def program() -> str:
    """Returns the path of the cove program: COVE_BIN (it or its directory), the one that
    came with this package, or the one in PATH."""
    chosen = os.environ.get("COVE_BIN")
    if chosen:
        return os.path.join(chosen, "cove") if os.path.isdir(chosen) else chosen
    packaged = os.path.join(os.path.dirname(os.path.abspath(__file__)), "_bin", "cove")
    if os.path.isfile(packaged):
        return packaged
    import shutil

    found = shutil.which("cove")
    # Not the script of this package, which would look for a program in turn.
    if found and not os.path.samefile(os.path.dirname(found), os.path.dirname(sys.executable)):
        return found
    raise UnavailableError(
        "no daemon runs here, and there is no cove program to start one",
        hint="install the wheel for linux x86_64, put cove into PATH or COVE_BIN, or set COVE_URL",
    )


def start(address: Address) -> None:
    """Starts this user's daemon and returns when it serves.

    The cove program does that by itself when it is asked for anything: it takes a lock, so
    that of many callers one starts it and the others wait, and gives it a session of its own.
    """
    import subprocess

    trust(address)
    path = program()
    environment = {name: value for name, value in os.environ.items() if name != "COVE_URL"}
    try:
        done = subprocess.run(  # noqa: S603
            [path, "ls", "--json"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=START_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(
            f"{path} did not start the daemon in {START_TIMEOUT:.0f} s", hint="start it yourself with cove serve"
        ) from error
    except OSError as error:
        raise UnavailableError(
            f"{path} can't be run: {error.strerror}", hint="check COVE_BIN, or reinstall the package"
        ) from error
    if done.returncode != 0:
        text = done.stderr.decode("utf-8", "replace").strip()[-4000:]
        raise UnavailableError(f"the daemon did not start: {text}", hint="start it yourself with cove serve")


def main() -> None:
    """The command ``cove``: the program that came with this package."""
    path = program()
    os.execv(path, ["cove", *sys.argv[1:]])  # noqa: S606
