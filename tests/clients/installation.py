"""Clients that need an environment of their own, installed by the tests when their lock changes.

`python -m tests.clients.installation` installs all of them ahead of the tests. Concurrent processes
wait for the first one.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.not_run import fail_or_skip

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
NODE = HERE / "node"
PYTHON_LOCK = ROOT / "requirements" / "clients.txt"
PYTHON = ROOT / ".cache" / "clients"


def node() -> Path:
    """Return the folder of the Node scripts, after installing what they import."""
    if not shutil.which("npm"):
        fail_or_skip("npm (of Node.js 20 or newer) must be installed for tests of Node's clients")
    _install(NODE / "package-lock.json", NODE / "node_modules", _install_node)
    return NODE


def python() -> Path:
    """Return the Python whose environment has the clients of requirements/clients.txt."""
    _install(PYTHON_LOCK, PYTHON, _install_python)
    return PYTHON / "bin" / "python"


def _install(lock: Path, target: Path, install: Callable[[], None]) -> None:
    wanted = hashlib.sha256(lock.read_bytes()).hexdigest()
    installed = target / ".installed-lock"
    target.mkdir(parents=True, exist_ok=True)
    with target.with_suffix(".lock").open("w") as exclusive:
        fcntl.flock(exclusive, fcntl.LOCK_EX)
        if not installed.exists() or installed.read_text() != wanted:
            install()
            installed.write_text(wanted)


def _install_node() -> None:
    _run("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", f"--prefix={NODE}")


def _install_python() -> None:
    _run(sys.executable, "-m", "venv", "--clear", str(PYTHON))
    # pip, because uv does not read pip's configuration, which may name another index.
    pip = (str(PYTHON / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-compile")
    _run(*pip, "--disable-pip-version-check", "--require-hashes", f"--requirement={PYTHON_LOCK}")


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: is a package index reachable?\n{done.stderr}")


if __name__ == "__main__":
    with ThreadPoolExecutor() as pool:
        installing = [pool.submit(node), pool.submit(python)]
    for each in installing:
        each.result()
