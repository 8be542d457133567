"""A small image with Python and a shell, made of this machine's own files: what the images that
examples name stand for where no registry is in reach."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Sequence

from cove._daemon import program

#: What examples name.
NAMES = (
    "python:3.12",
    "python:3.12-slim",
    "python:3.11-slim",
    "python:3.12-alpine",
    "python:latest",
    "alpine:latest",
    "ghcr.io/astral-sh/uv:python3.12-bookworm-slim",
)

_LEFT_OUT = re.compile(r"/(test|lib2to3|ensurepip|pydoc_data|config-[^/]*|distutils|idlelib|tkinter)(/|$)")

#: As Debian has them.
_PYTHON, _PACKAGES = "/usr/bin/python3", "/usr/lib/python3/dist-packages/pip"

#: pip is told to look here, and nowhere else.
_PIP = b"[global]\nno-index = true\nfind-links = /opt/wheels\nbreak-system-packages = true\n"


def missing(runtime: str) -> list[str]:
    """What an image is made of, and what the tests on it start, and is not on this machine."""
    files = [_PYTHON, "/usr/bin/busybox", _PACKAGES]
    programs = ["ldd", "curl", "script", *(["docker"] if runtime.startswith("docker") else [])]
    return [f for f in files if not os.path.exists(f)] + [p for p in programs if shutil.which(p) is None]


def build(path: str) -> None:
    """Writes the image's files as a tar."""
    with tarfile.open(path, "w", dereference=True) as tar:
        python = os.path.realpath(_PYTHON)
        version = re.sub(r".*/", "", python)
        home = f"/usr/lib/{version}"
        libraries = {python, *(f"{home}/lib-dynload/{name}" for name in os.listdir(f"{home}/lib-dynload"))}
        for file in sorted({python, *_needed(sorted(libraries))}):
            tar.add(file)
        tar.add(home, filter=_keep)
        tar.add(_PACKAGES, f"{home}/pip", filter=_source)
        for name in ("python", "python3"):
            _link(tar, f"usr/bin/{name}", version)
        tar.add("/usr/bin/busybox", "bin/busybox")
        applets = subprocess.run(["busybox", "--list"], capture_output=True, text=True, check=True).stdout.split()
        for name in set(applets) - {"busybox"}:
            _link(tar, f"bin/{name}", "busybox")
        _file(tar, "etc/pip.conf", _PIP)
        _file(tar, "usr/bin/pip", b'#!/bin/sh\nexec python3 -m pip "$@"\n', 0o755)
        _file(tar, "opt/wheels/requests-2.32.3-py3-none-any.whl", _wheel())


def _needed(programs: list[str]) -> set[str]:
    """The loader and libraries that programs are linked with."""
    told = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=False).stdout
    return set(re.findall(r"(/lib\S+) \(0x", told))


def _keep(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if _LEFT_OUT.search(entry.name) else entry


def _source(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if entry.name.endswith("__pycache__") else entry


def _link(tar: tarfile.TarFile, name: str, target: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, target
    tar.addfile(entry)


def _file(tar: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    tar.addfile(entry, io.BytesIO(content))


def _wheel() -> bytes:
    """A package called requests, which examples install."""
    out = io.BytesIO()
    info = "requests-2.32.3.dist-info"
    with zipfile.ZipFile(out, "w") as wheel:
        wheel.writestr("requests/__init__.py", '__version__ = "2.32.3"\n')
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: requests\nVersion: 2.32.3\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    return out.getvalue()


def add(runtime: str, archive: str, names: Sequence[str] = NAMES) -> list[str]:
    """Gives a runtime the images that it lacks, and returns their names."""
    added: list[str] = []
    for name in names:
        if _images(runtime, "inspect", name).returncode == 0:
            continue  # an engine's own, which is the real one
        again = added and runtime.startswith("docker")
        done = _images(runtime, "tag", added[0], name) if again else _images(runtime, "import", archive, name)
        assert done.returncode == 0, done.stderr
        added.append(name)
    return added


def remove(runtime: str, names: Sequence[str]) -> None:
    """Takes them away again, which an engine would keep."""
    for name in names:
        _images(runtime, "rm", name)


def _images(runtime: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The images of an engine are looked after by its own tool, which has the same words."""
    tool = "docker" if runtime.startswith("docker") else program()
    return subprocess.run([tool, "image", *arguments], capture_output=True, text=True, timeout=120, check=False)
