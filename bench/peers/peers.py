"""Measures what Python libraries over Docker cost: python peers.py LIBRARY IMAGE ROUNDS.

Prints one JSON object: milliseconds of each round for create, exec, write, read and
destroy. One round makes a sandbox, runs `true` ten times (each is a sample), writes 1 MB,
reads it back and removes the sandbox. DOCKER_HOST says where the engine is.
"""

import asyncio
import json
import os
import sys
import time

TEXT = "0123456789abcdef" * (1 << 16)  # 1 MiB
EXECS = 10


class Samples(dict[str, list[float]]):
    def __init__(self) -> None:
        super().__init__({name: [] for name in ("create", "exec", "write", "read", "destroy")})
        self.began = 0.0

    def begin(self) -> None:
        self.began = time.perf_counter()

    def end(self, name: str) -> None:
        self[name].append((time.perf_counter() - self.began) * 1000)


def doka(image: str, rounds: int) -> Samples:
    from doka import Limits, Sandbox

    samples = Samples()
    for _ in range(rounds):
        samples.begin()
        box = Sandbox("docker", Limits(network=False), image)
        box.start()
        samples.end("create")
        for _ in range(EXECS):
            samples.begin()
            assert box.commands.run("true").exit_code == 0
            samples.end("exec")
        samples.begin()
        box.files.write("/tmp/large", TEXT)
        samples.end("write")
        samples.begin()
        assert len(box.files.read("/tmp/large")) == len(TEXT)
        samples.end("read")
        samples.begin()
        box.close()
        samples.end("destroy")
    return samples


async def axio(image: str, rounds: int) -> Samples:
    from axio_tools_docker import DockerSandbox

    samples = Samples()
    for _ in range(rounds):
        samples.begin()
        box = DockerSandbox(os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock"), image=image, memory="512m", workdir="/tmp")
        await box.__aenter__()
        samples.end("create")
        for _ in range(EXECS):
            samples.begin()
            await box.exec("true")
            samples.end("exec")
        samples.begin()
        await box.write_file("/tmp/large", TEXT)
        samples.end("write")
        samples.begin()
        assert len(await box.read_file_bytes("/tmp/large")) == len(TEXT)
        samples.end("read")
        samples.begin()
        await box.__aexit__(None, None, None)
        samples.end("destroy")
    return samples


def main() -> None:
    library, image, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
    samples = doka(image, rounds) if library == "dokapy" else asyncio.run(axio(image, rounds))
    json.dump(samples, sys.stdout)


if __name__ == "__main__":
    main()
