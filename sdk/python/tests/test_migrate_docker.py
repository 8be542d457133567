"""What docs/migrate/docker.md says in place of docker's commands and flags, row by row."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import RUNTIME
from notes import check, rows

from cove._daemon import program

ENGINE = RUNTIME.startswith("docker")

#: In these, web is a sandbox of python:3.12, and same FILE TEXT compares.
COMMANDS = {
    "`docker run --rm IMAGE CMD…`": "cove run --image python:3.12 -- echo ran | same ran",
    "`docker run -i`": "echo typed | cove run -- cat | same typed",
    "`docker run -it`": "script -qec 'cove run -it -- tty' /dev/null </dev/null | has /dev/pts/",
    "`docker run -d --name web IMAGE CMD…`": """
        cove create --name other --image python:3.12 >/dev/null
        cove exec -d other -- sleep 600 | has '^[0-9]+$'
        cove rm other >/dev/null""",
    "`docker exec [-it] [-d] [-e] [-u] [-w] web CMD…`": """
        cove exec -e A=1 -u user -w /tmp web -- sh -c 'echo $A $PWD $(id -u)' | same '1 /tmp 1000'
        script -qec 'cove exec -it web -- tty' /dev/null </dev/null | has /dev/pts/
        cove exec -d web -- true | has '^[0-9]+$'""",
    "`docker cp SRC web:/path`, and back": """
        echo copied >there; cove cp there web:/tmp/there; cove cp web:/tmp/there back; cmp there back
        cove cp web:/tmp/there - | same copied""",
    "`docker ps`, `docker ps -q --filter label=a=b`": """
        cove ls | has web; cove ls -q --label a=b | has .; test -z "$(cove ls -q --label a=c)" """,
    "`docker top web`": "cove exec -d web -- sleep 601 >/dev/null; cove ps web | has 'sleep 601'",
    "`docker logs -f web`": "cove logs -f web $(cove exec -d web -- echo logged) | same logged",
    "`docker inspect`, `docker stats`, `docker events`": """
        cove inspect web | has web; cove inspect --json web | python3 -m json.tool >/dev/null
        head -n 2 < <(cove stats --watch web 2>/dev/null) | has .; cove events | has sandbox
        cove events -f >events 2>/dev/null &
        until grep -q sandbox events; do cove create --name short >/dev/null; cove rm short >/dev/null; done; kill %1""",
    "`docker rm -f web`, `docker kill web`": "cove create --name gone >/dev/null; cove rm gone; fails gone cove inspect gone",
    "`docker kill -s TERM` of one process": """
        pid=$(cove exec -d web -- sleep 602); cove exec web -- sh -c "kill -TERM $pid"
        for i in $(seq 100); do cove ps --json web | has SIGTERM && exit; sleep 0.1; done; exit 1""",
    "`docker port web`, `docker run -p` afterwards": """
        cove exec -d -w /opt web -- python3 -m http.server 8000 >/dev/null
        cove port web 8000:0 --wait >address & until grep -q . address; do sleep 0.05; done
        curl -fsS "$(cut -d" " -f1 address)" | has wheels; kill %1
        cove ports web | has 8000""",
    "`docker pull`, `images`, `rmi`, `image prune`, `image inspect`": ""
    if ENGINE
    else """
        cove image ls | has python; cove image inspect python:3.12 >/dev/null
        cove image import "$ARCHIVE" spare:1 >/dev/null; cove image rm spare:1; cove image prune --help >/dev/null""",
    "`docker load -i app.tar`": ""
    if ENGINE
    else """
        cove image import "$ARCHIVE" app:1 >/dev/null; cove run --image app:1 -- echo loaded | same loaded; cove image rm app:1""",
    "`docker info`": "cove runtime ls | has gvisor",
    "`DOCKER_HOST=ssh://…`, `tcp://…`": "COVE_URL=unix://$COVE_STATE_DIR/cove.sock COVE_STATE_DIR=/nowhere cove ls -q | has .",
    "exit codes 125, 126, 127, 128+n": """
        code() { want=$1; shift; got=0; cove run "$@" 2>/dev/null >&2 || got=$?; test $got = $want; }
        code 125 --image rootfs:/nowhere -- true; code 2 --no-such-flag -- true; code 126 -- /tmp; code 127 -- no-such-program
        code 137 -- sh -c 'kill -9 $$'; code 124 --timeout 200ms -- sleep 60; code 7 -- sh -c 'exit 7'""",
}

_REFUSED = "fails policy cove run %s -- true"

FLAGS = {
    "`-e`, `-u`, `-w`, `--name`, `--platform`, `--pull`": """
        cove run -e A=1 -u user -w /tmp --name flags --platform linux/amd64 --pull never --image python:3.12 -- \\
            sh -c 'echo $A $(id -u) $PWD' | same '1 1000 /tmp'""",
    "`--cpus`, `--memory`": "cove run --cpus 0.5 --memory 256m -- true",
    "`--pids-limit`": "fails fork cove run --pids 30 -- sh -c 'for i in $(seq 60); do sleep 5 & done'",
    "`--storage-opt size=2g`": "fails space cove run --disk 64m -- sh -c 'head -c 128M /dev/zero >/workspace/big'",
    "`--shm-size`, `--tmpfs`, `--ulimit`, `--add-host`": """
        cove run --shm-size 32m --tmpfs /scratch:size=8m --ulimit nofile=100:200 --add-host db:10.0.0.5 -- \\
            sh -c 'echo x >/scratch/x; ulimit -n; grep -c db /etc/hosts' | tr '\\n' ' ' | same '100 1 '""",
    "`--read-only`": "cove run --read-only -- sh -c 'echo x >/tmp/x && echo x >x && ! touch /home/user/x 2>/dev/null && echo so' | same so",
    "`-l`, `--label`": "cove create --name labelled --label team=a >/dev/null; cove ls -q --label team=a | has .; cove rm labelled",
    '`-v "$PWD":/work`, to work on files': "mkdir p; echo one >p/f; cove run --in p --out p -- sh -c 'echo two >>f'; tr '\\n' ' ' <p/f | same 'one two '",
    "`-v /srv/data:/data:ro`, `--mount type=bind,…`": _REFUSED % "-v /srv:/data:ro",
    "`-v work:/data`, `--mount type=volume,…`": """
        cove run --mount type=volume,src=cove-test-work,dst=/data,remove -- sh -c 'echo x >/data/x && cat /data/x' | same x"""
    if ENGINE
    else "",
    "`-v /var/run/docker.sock:…`": _REFUSED % "-v /var/run/docker.sock:/var/run/docker.sock",
    "`-p 8080:80`": """
        cove create --name published -p 8000 >/dev/null 2>address
        cove exec -d -w /usr published -- python3 -m http.server 8000 >/dev/null
        curl -fsS --retry 20 --retry-all-errors "$(grep -o '127.0.0.1:[0-9]*' address)" | has bin; cove rm published""",
    "`--network none`": """
        mkdir p; echo 'import socket; socket.create_connection(("1.1.1.1", 80), 5)' >p/try.py
        fails Error cove run --in p -- python3 try.py""",
    "`--network bridge`, the default": "cove run --allow pip,github.com -- true; cove run --network open -- true",
    "`--network NAME`, `host`, `--dns`": (_REFUSED % "--network-mode host --dns 1.1.1.1") if ENGINE else "",
    "`--link db`, a network of two containers": """
        cove create --name db >/dev/null; cove exec -d -w /usr db -- python3 -m http.server 5432 >/dev/null
        cove run --allow sandbox:db:5432 -- python3 -c '
import time, urllib.request as r
for _ in range(100):
    try: print(r.urlopen("http://db.sandbox:5432/", timeout=10).status); break
    except OSError: time.sleep(0.1)' | same 200
        cove rm db""",
    "`-e TOKEN=…` for a service": """
        got=$(TOKEN=s3cret-0123456789 cove run --secret TOKEN@api.example.org -- sh -c 'echo $TOKEN')
        [ -n "$got" ] && [ "$got" != s3cret-0123456789 ]""",
    "`--cap-drop`": "cove run --cap-drop NET_BIND_SERVICE -- true",
    "`--cap-add`, `--device`, `--privileged`": "\n".join(
        _REFUSED % f for f in ("--cap-add NET_ADMIN", "--device /dev/null", "--privileged")
    )
    if ENGINE
    else "",
    "`--security-opt no-new-privileges`, seccomp": "cove run -- grep -q 'NoNewPrivs:.1' /proc/self/status",
    "`--runtime runsc`": "cove run --runtime gvisor -- dmesg | has [gG][vV]isor",
    "`--init`": "cove run -- cat /proc/1/comm | has agent",
}

UNTRIED = {
    "`--rm`, `--restart`, `--entrypoint`, `--env-file`, `--hostname`, `--gpus`, `-P`": "there is nothing in their place"
}

HEAD = """set -euo pipefail
same() { local got; got=$(cat); [ "$got" = "$1" ] || { echo "got $got" >&2; return 1; }; }
has() { local got; got=$(cat); [[ "$got" =~ $1 ]] || { echo "got $got" >&2; return 1; }; }
fails() {
    local why=$1; shift
    if "$@" >out 2>err; then echo "it does not fail: $*" >&2; return 1; fi
    grep -qi "$why" out err || { cat err >&2; return 1; }
}
"""


def cove(script: str, directory: Path, **more: str) -> None:
    """Runs a script that must succeed."""
    path = f"{Path(program()).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", HEAD + script],
        cwd=directory,
        env={**os.environ, **more, "PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def web(images: None, tmp_path_factory) -> Iterator[None]:
    """The sandbox that commands are about."""
    directory = tmp_path_factory.mktemp("web")
    cove("cove create --name web --image python:3.12 --label a=b", directory)
    yield
    cove("cove rm web", directory)


@pytest.mark.parametrize("old", [*COMMANDS, *FLAGS])
def test_what_takes_the_place_of_docker(web: None, image_archive: str, tmp_path: Path, old: str):
    script = {**COMMANDS, **FLAGS}[old]
    if not script:
        pytest.skip(f"it is not for {RUNTIME}")
    cove(script, tmp_path, ARCHIVE=image_archive)


def test_every_row_is_tried():
    check(rows("docker", "Commands", "Flags of `docker run`"), {**COMMANDS, **FLAGS}, UNTRIED)
