"""Run management commands in tests."""

import io
import os
import subprocess
import sys

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from tests.server_process import ROOT, base_environment


def run(*words: str) -> tuple[str, str]:
    """Run a command; return its standard output and standard error."""
    out, err = io.StringIO(), io.StringIO()
    call_command(*words, stdout=out, stderr=err, no_color=True)
    return out.getvalue(), err.getvalue()


def refusal(*words: str) -> str:
    """Run a command that must fail; return its error."""
    with pytest.raises(CommandError) as excinfo:
        run(*words)
    assert excinfo.value.returncode == 1
    return str(excinfo.value)


def in_shell(line: str, **variables: str) -> tuple[int, bytes, str]:
    """Run a line of bash, with `manage.py` in it; return its exit code, output and error.

    It uses the database of the tests. The test needs `transactional_db`.
    """
    environment = {
        **base_environment(),
        "ENV_FILE": os.devnull,
        "DATABASE_PATH": str(connection.settings_dict["NAME"]),
        "SECRET_KEY": "tests",
        **variables,
    }
    script = f"set -o pipefail; manage.py() {{ '{sys.executable}' manage.py \"$@\"; }}; {line}"
    ran = subprocess.run(
        ["bash", "-c", script],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
    )
    return ran.returncode, ran.stdout, ran.stderr.decode()
