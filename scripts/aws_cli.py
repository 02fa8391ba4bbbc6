"""The aws command line tool: what it prints, and invocations of a Lambda function."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def aws(*words: str, given: str | None = None) -> Any:
    """Call it, and return the JSON that it prints; `given` is what it reads. Exits if it fails."""
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
    """What a function answers to an event. `function` may end with a version or an alias."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        options = ["--cli-binary-format", "raw-in-base64-out", "--payload", json.dumps(event)]
        aws("lambda", "invoke", "--function-name", function, *options, str(answer))
        result: dict[str, Any] = json.loads(answer.read_text())
        return result


def failure(result: Mapping[str, Any]) -> str:
    """The sentence for an answer that is none, because the function itself failed."""
    return f"{result.get('errorType', 'Error')}: {result.get('errorMessage', 'no answer')}"
