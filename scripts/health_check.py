"""Check that a deployed API serves its build, and answers and records a chat.

    python scripts/health_check.py URL [BUILD [streaming|buffered]]

On Lambda, the third argument is how answers should leave the function: with `streaming` the chat is
streamed. If the API requires a key, set CHECK_API_KEY.
"""

import http.client
import json
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

PATIENCE_SECONDS = float(os.environ.get("CHECK_SECONDS") or 90)
PAUSE_SECONDS = 2.0
TIMEOUT_SECONDS = 35.0  # longer than an HTTP API waits
QUESTION = {"userId": "deployment-check", "prompt": "Answer with one word: ready?"}

Json = dict[str, Any]


class FailedError(Exception):
    """The API does not work. `final`: waiting does not help."""

    def __init__(self, problem: str, *, final: bool = False) -> None:
        super().__init__(problem)
        self.final = final


def check(url: str, build: str = "", response_mode: str = "") -> None:
    """Raise FailedError if the API does not work within CHECK_SECONDS."""
    end = time.monotonic() + PATIENCE_SECONDS
    print(_until(end, lambda: _right_version(url, build, response_mode)))
    chat = _stream_chat if response_mode == "streaming" else _chat
    answer = _until(end, lambda: chat(url))
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


def _right_version(url: str, build: str, response_mode: str) -> str:
    with _open(url, "/v1/health") as response:
        mode, health = response.headers["x-response-mode"], json.load(response)
    if "statusCode" in health:
        # A streaming front passes a buffered answer on as if it were the body.
        raise FailedError("the front streams, but the function answers in the buffered shape")
    version: str = health["version"]
    if build and not version.endswith(f"+{build}"):
        raise FailedError(f"/v1/health is of version {version}, not of build {build}")
    if response_mode and mode != response_mode:
        raise FailedError(f"the function answers {mode}, but its front is {response_mode}")
    return f"version {version} answers"


def _chat(url: str) -> Json:
    with _open(url, "/v1/chat", QUESTION) as response:
        answer: Json = json.load(response)
        return answer


def _stream_chat(url: str) -> Json:
    """Return the answer of a streamed chat, which must come in pieces."""
    started = time.monotonic()
    with _open(url, "/v1/chat", QUESTION | {"stream": True}) as response:
        # Whatever knows the length has waited for the end.
        if length := response.headers["content-length"]:
            raise FailedError(f"a stream arrived as one piece of {length} bytes")
        first_byte = response.read(1)
        print(f"a stream began after {time.monotonic() - started:.2f} s")
        events = dict(_events((first_byte + response.read()).decode()))
    print(f"and ended after {time.monotonic() - started:.2f} s")
    if "done" not in events:
        raise FailedError(f"a stream ended without its answer: {events.get('error')}")
    answer: Json = events["done"]
    return answer


def _events(text: str) -> Iterator[tuple[str, Any]]:
    """Yield the name and the data of each server-sent event."""
    for event in text.split("\n\n"):
        fields = dict(line.partition(": ")[::2] for line in event.splitlines())
        if "event" in fields:
            yield fields["event"], json.loads(fields["data"])


def _recorded(url: str, answer: Json) -> None:
    path = f"/v1/interactions/{answer['interaction_id']}"
    with _open(url, path) as response:
        record = json.load(response)
    if (record["status"], record["response"]) != ("ok", answer["response"]):
        raise FailedError(f"the record of the chat is {record['status']}")


@contextmanager
def _open(
    url: str, path: str, body: Mapping[str, Any] | None = None
) -> Iterator[http.client.HTTPResponse]:
    """Yield the response to a request. Raise FailedError for all that goes wrong with it."""
    headers = {"content-type": "application/json", "user-agent": "deployment-check"}
    if key := os.environ.get("CHECK_API_KEY"):
        headers["x-api-key"] = key
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(f"{url}{path}", data, headers)  # noqa: S310  (our own address)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:  # noqa: S310
            yield response
    except urllib.error.HTTPError as exc:
        # A 403 or a 404 can pass: a new permission or route takes a moment.
        final = exc.code in (400, 401, 422)
        raise FailedError(f"{path} answered {exc.code} {_code(exc)}", final=final) from exc
    except (OSError, ValueError, KeyError, http.client.HTTPException) as exc:
        raise FailedError(f"{path} did not answer: {exc!r}") from exc


def _code(error: urllib.error.HTTPError) -> str:
    """Return our code of an error, which a front's own answers lack."""
    try:
        return str(json.load(error)["code"])
    except (ValueError, LookupError, TypeError):
        return "(not by the application)"


if __name__ == "__main__":
    try:
        check(*sys.argv[1:])
    except FailedError as exc:
        sys.exit(str(exc))
