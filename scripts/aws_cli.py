"""Run the aws command line tool, and invoke a Lambda function with it."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def aws(*words: str, given: str | None = None) -> Any:
    """Run aws with `given` as its input, and return the JSON it prints. Exit if it fails."""
    done = subprocess.run(
        ["aws", *words, "--output", "json"],
        input=given,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(done.returncode)
    return json.loads(done.stdout or "null")


def invoke(function: str, event: Mapping[str, Any]) -> dict[str, Any]:
    """Return a function's answer to an event. `function` may end with a version or an alias."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        options = ["--cli-binary-format", "raw-in-base64-out", "--payload", json.dumps(event)]
        aws("lambda", "invoke", "--function-name", function, *options, str(answer))
        result: dict[str, Any] = json.loads(answer.read_text())
        return result


def failure(result: Mapping[str, Any]) -> str:
    """Return the error of a function that failed."""
    return f"{result.get('errorType', 'Error')}: {result.get('errorMessage', 'no answer')}"
