"""The scripts of examples/ that make a directory of their own."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path


def run_script(
    script: Path, directory: Path, environment: Mapping[str, str] | None = None, *, seconds: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run a script in a directory by the python of the tests.

    Args:
        environment: variables for the script, as OUT.
        seconds: for all of it.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", str(script)],
        cwd=directory,
        env={**os.environ, "PATH": path, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=seconds,
    )
