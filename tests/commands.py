"""Management commands, as they are run and refused."""

import io

import pytest
from django.core.management import CommandError, call_command


def run(*words: str) -> tuple[str, str]:
    """What a command writes on standard output, and on standard error."""
    out, err = io.StringIO(), io.StringIO()
    call_command(*words, stdout=out, stderr=err, no_color=True)
    return out.getvalue(), err.getvalue()


def refusal(*words: str) -> str:
    with pytest.raises(CommandError) as excinfo:
        run(*words)
    assert excinfo.value.returncode == 1
    return str(excinfo.value)
