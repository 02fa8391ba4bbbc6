"""Run management commands in tests."""

import io

import pytest
from django.core.management import CommandError, call_command


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
