"""daiv-sandbox's callers: the requests of its README with curl and httpx, of which nothing is
changed but the address, against ``cove serve`` with daiv-sandbox's own variables."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import socket
import subprocess
import tarfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from conftest import RUNTIME, end_daemon
from images import add, remove

from cove._daemon import program

NOTE = Path(__file__).resolve().parents[3] / "docs" / "migrate" / "daiv-sandbox.md"
OLD_ADDRESS = "http://localhost:8888"
RUN = "550e8400-e29b-41d4-a716-446655440000"

COMMANDS = r"""curl -X POST \
  -H "Content-Type: application/json" \
  -H "X-API-KEY: notsosecret" \
  -d "{\"run_id\": \"550e8400-e29b-41d4-a716-446655440000\", \"base_image\": \"python:3.12\", \"archive\": \"$(base64 -w 0 django-webhooks-master.tar.gz)\", \"commands\": [\"ls -la\"]}" \
  http://localhost:8888/api/v1/run/commands/
"""

CODE = r"""curl -X POST \
  -H "Content-Type: application/json" \
  -H "X-API-KEY: notsosecret" \
  -d "{\"run_id\": \"550e8400-e29b-41d4-a716-446655440000\", \"language\": \"python\", \"dependencies\": [\"requests\"], \"code\": \"print('Hello, World!')\"}" \
  http://localhost:8888/api/v1/run/code/
"""


@pytest.fixture(scope="module")
def address(image_archive: str, tmp_path_factory) -> Iterator[str]:
    """The address of daiv-sandbox's API, served as daiv-sandbox was told to."""
    directory = tmp_path_factory.mktemp("daiv")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    patch = pytest.MonkeyPatch()
    patch.setenv("COVE_STATE_DIR", str(directory / "s"))
    patch.setenv("COVE_DATA_DIR", str(directory / "d"))
    variables = {
        "DAIV_SANDBOX_API_KEY": "notsosecret",
        "DAIV_SANDBOX_PORT": str(port),
        "DAIV_SANDBOX_RUNTIME": {"gvisor": "runsc"}.get(RUNTIME, RUNTIME),
        "DAIV_SANDBOX_MAX_EXECUTION_TIME": "60",
        "DAIV_SANDBOX_KEEP_TEMPLATE": "True",
        "DAIV_SANDBOX_ENVIRONMENT": "production",
    }
    with open(directory / "log", "wb") as log:
        serving = subprocess.Popen(
            [program(), "serve"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **variables}
        )
    names: list[str] = []
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 30
        while not _healthy(url):
            assert serving.poll() is None and time.monotonic() < deadline, (directory / "log").read_text()
            time.sleep(0.05)
        names = add(RUNTIME, image_archive, ("python:3.12", "ghcr.io/astral-sh/uv:python3.12-bookworm-slim"))
        yield url
        left = subprocess.run([program(), "ls", "-q"], capture_output=True, text=True, timeout=60, check=True)
        assert left.stdout == ""
    finally:
        remove(RUNTIME, names)
        end_daemon(str(directory / "s"))
        serving.wait(30)
        patch.undo()


def _healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/-/health/").json() == {"status": "ok"}
    except httpx.TransportError:
        return False


def shell(script: str, directory: Path) -> object:
    """Runs what was typed into a terminal, and returns the reply."""
    done = subprocess.run(
        ["bash", "-euc", script], cwd=directory, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def archive(content: dict[str, bytes]) -> io.BytesIO:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, data in content.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    out.seek(0)
    return out


def test_the_curl_example_of_commands(address: str, tmp_path: Path):
    (tmp_path / "django-webhooks-master.tar.gz").write_bytes(
        archive({"django-webhooks-master/README": b"x"}).getvalue()
    )
    reply = shell(COMMANDS.replace(OLD_ADDRESS, address), tmp_path)
    (result,) = reply["results"]
    assert (result["command"], result["exit_code"], reply["archive"]) == ("ls -la", 0, None)
    assert "django-webhooks-master" in result["output"] and result["output"].startswith("total ")


def test_the_curl_example_of_code(address: str, tmp_path: Path):
    assert shell(CODE.replace(OLD_ADDRESS, address), tmp_path) == {"output": "Hello, World!\n"}


def test_the_example_of_the_note(address: str, tmp_path: Path):
    (block,) = re.findall(r"^```sh\n(.*?)^```", NOTE.read_text(), re.MULTILINE | re.DOTALL)
    serve, request = block.split("\n", 1)
    assert serve == "DAIV_SANDBOX_API_KEY=notsosecret cove serve"  # which is what the fixture does
    (tmp_path / "project.tar.gz").write_bytes(archive({"setup.py": b""}).getvalue())
    reply = shell(request.replace("http://localhost:8000", address), tmp_path)
    assert "setup.py" in reply["results"][0]["output"] and reply["archive"] is None


def test_the_httpx_example_of_commands(address: str):
    tarstream = archive({"some file": b""})
    with tarfile.open(fileobj=tarstream, mode="r:*"):
        response = httpx.post(
            "http://localhost:8888/api/v1/run/commands/".replace(OLD_ADDRESS, address),
            headers={"X-API-KEY": "notsosecret"},
            json={
                "run_id": RUN,
                "base_image": "python:3.12",
                "archive": base64.b64encode(tarstream.getvalue()).decode(),
                "commands": ["ls -la"],
            },
            timeout=60,  # of a busy machine
        )
        response.raise_for_status()
        resp = response.json()
    assert resp["archive"] is None and "some file" in resp["results"][0]["output"]


def test_the_httpx_example_of_code(address: str):
    response = httpx.post(
        "http://localhost:8888/api/v1/run/code/".replace(OLD_ADDRESS, address),
        headers={"X-API-KEY": "notsosecret"},
        json={"run_id": RUN, "language": "python", "dependencies": ["requests"], "code": "print('Hello, World!')"},
        timeout=60,
    )
    response.raise_for_status()
    assert response.json() == {"output": "Hello, World!\n"}


def test_what_a_formatter_changes_comes_back(address: str):
    body = {
        "run_id": str(uuid.uuid4()),
        "base_image": "python:3.12",
        "archive": base64.b64encode(archive({"p/a.py": b"x=1", "p/same.py": b""}).getvalue()).decode(),
        "commands": ["sed -i 's/=/ = /' a.py", "echo told; echo apart >&2; exit 3"],
        "workdir": "p",
    }
    reply = httpx.post(
        f"{address}/api/v1/run/commands/", headers={"X-API-Key": "notsosecret"}, json=body, timeout=60
    ).json()
    assert [(r["output"], r["exit_code"]) for r in reply["results"]] == [("", 0), ("told\napart\n", 3)]
    with tarfile.open(fileobj=io.BytesIO(base64.b64decode(reply["archive"]))) as tar:
        assert {m.name: tar.extractfile(m).read() for m in tar} == {"a.py": b"x = 1"}


def test_nobody_without_the_key(address: str):
    for headers in ({}, {"X-API-Key": "notso"}):
        assert httpx.post(f"{address}/api/v1/run/commands/", headers=headers, json={}).status_code == 403
    assert httpx.get(f"{address}/-/version/").json()["version"]
