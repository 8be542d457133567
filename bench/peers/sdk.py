"""Measures Cove's own Python package: python sdk.py RUNTIME ROUNDS, with COVE_URL set.

Prints one JSON object: milliseconds of each `commands.run("true")`, of loading the package
in a new interpreter, and of loading httpx alone.
"""

import json
import subprocess
import sys
import time

LOAD = "import time; at = time.perf_counter(); {}; print((time.perf_counter() - at) * 1000)"


def load(statement: str) -> float:
    command = [sys.executable, "-c", LOAD.format(statement)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


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
    load("from cove import Limits, Sandbox")  # compiles it
    ours = [load("from cove import Limits, Sandbox") for _ in range(rounds)]
    httpx = [load("import httpx") for _ in range(rounds)]
    json.dump({"run": runs, "load": ours, "httpx": httpx}, sys.stdout)


if __name__ == "__main__":
    main()
