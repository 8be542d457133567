"""Measures Cove's own Python package: python sdk.py RUNTIME ROUNDS, with COVE_URL set.

Prints one JSON object: milliseconds of each `commands.run("true")`, of loading the package
in a new interpreter, and of loading httpx alone.
"""

import json
import os
import subprocess
import sys
import tempfile
import time

LOAD = "import time; at = time.perf_counter(); {}; print((time.perf_counter() - at) * 1000)"


def load(statement: str, compiled: str) -> float:
    """Loads something as an installer leaves it: compiled, here in a directory of ours."""
    command = [sys.executable, "-c", LOAD.format(statement)]
    env = {**os.environ, "PYTHONPYCACHEPREFIX": compiled, "PYTHONDONTWRITEBYTECODE": ""}
    return float(subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    from cove import Sandbox

    runtime, rounds = sys.argv[1], int(sys.argv[2])
    runs: list[float] = []
    with Sandbox(runtime) as sandbox:
        for turn in range(20 * rounds + 20):
            at = time.perf_counter()
            assert sandbox.commands.run("true").exit_code == 0
            if turn >= 20:  # the first ones warm up
                runs.append((time.perf_counter() - at) * 1000)
    loads: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as compiled:
        for name, statement in (("load", "from cove import Limits, Sandbox"), ("httpx", "import httpx")):
            load(statement, compiled)  # compiles it
            loads[name] = [load(statement, compiled) for _ in range(rounds)]
    json.dump({"run": runs, **loads}, sys.stdout)


if __name__ == "__main__":
    main()
