"""Puts the programs into a wheel, where COVE_WHEEL_BIN names the directory that has them.

Without it the wheel is for any machine and brings none.
"""

from __future__ import annotations

import os
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PROGRAMS = ("cove", "cove-agent", "cove-runsc")
# The programs are static, so that any Linux will do; the oldest tag that pip knows as such.
TAG = "py3-none-manylinux2014_x86_64"


class CustomBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """The hook that hatchling calls."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        directory = os.environ.get("COVE_WHEEL_BIN")
        if not directory or version == "editable":
            return
        for program in PROGRAMS:
            path = os.path.join(directory, program)
            if not os.access(path, os.X_OK):
                raise FileNotFoundError(f"{path} is not there; build it with make build")
            build_data["force_include"][path] = f"cove/_bin/{program}"
        build_data["pure_python"] = False
        build_data["tag"] = TAG
