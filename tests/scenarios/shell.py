"""A person's shell: commands as the README has them, in a folder."""

import os
import subprocess
import sys
from pathlib import Path

# The folder of `uic` first; little training, since quality is not what is tried here.
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "UIC__TRAIN__EPOCHS": "1",
    "UIC__TRAIN__TARGETS": "3",
}


def run(command: str, folder: Path, *, timeout_s: float = 400, **more: str) -> str:
    """What the command printed; it must succeed. `more` are variables of its environment."""
    words = ["bash", "-euo", "pipefail", "-c", command]
    environment = ENVIRONMENT | more
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout_s)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout
