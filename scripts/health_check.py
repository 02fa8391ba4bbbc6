"""Check that a deployed API serves its build, and answers and records a chat.

    python scripts/health_check.py URL [BUILD]

If the API requires a key, set CHECK_API_KEY.
"""

import json
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

PATIENCE_SECONDS = float(os.environ.get("CHECK_SECONDS") or 90)
PAUSE_SECONDS = 2.0
TIMEOUT_SECONDS = 35.0  # longer than the gateway's
QUESTION = {"userId": "deployment-check", "prompt": "Answer with one word: ready?"}

Json = dict[str, Any]


class FailedError(Exception):
    """The API does not work. `final`: waiting does not help."""

    def __init__(self, problem: str, *, final: bool = False) -> None:
        super().__init__(problem)
        self.final = final


def check(url: str, build: str = "") -> None:
    """Raise FailedError if the API does not work within CHECK_SECONDS."""
    end = time.monotonic() + PATIENCE_SECONDS
    print(_until(end, lambda: _right_version(url, build)))
    answer = _until(end, lambda: _ask(url, "/v1/chat", QUESTION))
    print(f"a chat was answered by {answer['model']} in {answer['latency_ms']} ms")
    _until(end, lambda: _recorded(url, answer))
    print(f"it was recorded as {answer['interaction_id']}")


def _until(end: float, step: Callable[[], Any]) -> Any:
    """Repeat a step until it succeeds. Raise its error when the time is up."""
    while True:
        try:
            return step()
        except FailedError as exc:
            if exc.final or time.monotonic() + PAUSE_SECONDS > end:
                raise
            print(f"not yet: {exc}")
            time.sleep(PAUSE_SECONDS)


def _right_version(url: str, build: str) -> str:
    version = _ask(url, "/v1/health")["version"]
    if build and not version.endswith(f"+{build}"):
        raise FailedError(f"/v1/health is of version {version}, not of build {build}")
    return f"version {version} answers"


def _recorded(url: str, answer: Json) -> None:
    record = _ask(url, f"/v1/interactions/{answer['interaction_id']}")
    if (record["status"], record["response"]) != ("ok", answer["response"]):
        raise FailedError(f"the record of the chat is {record['status']}")


def _ask(url: str, path: str, body: Json | None = None) -> Json:
    headers = {"content-type": "application/json", "user-agent": "deployment-check"}
    if key := os.environ.get("CHECK_API_KEY"):
        headers["x-api-key"] = key
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(f"{url}{path}", data, headers)  # noqa: S310  (our own address)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:  # noqa: S310
            answer: Json = json.load(response)
            return answer
    except urllib.error.HTTPError as exc:
        # A 404 can pass: a new route takes a moment.
        final = exc.code in (400, 401, 403, 422)
        raise FailedError(f"{path} answered {exc.code} {_code(exc)}".rstrip(), final=final) from exc
    except (OSError, ValueError) as exc:
        raise FailedError(f"{path} did not answer: {exc}") from exc


def _code(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["code"])
    except (ValueError, LookupError, TypeError):
        return ""


if __name__ == "__main__":
    try:
        check(*sys.argv[1:])
    except FailedError as exc:
        sys.exit(str(exc))
