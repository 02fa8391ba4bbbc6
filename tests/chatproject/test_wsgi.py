"""The application as a WSGI server calls it, with chunked bodies."""

import gc
import io
import json
import weakref
from collections.abc import Callable
from typing import Any
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest

from chatproject.wsgi import application, django_application

Configure = Callable[..., None]
pytestmark = pytest.mark.django_db(transaction=True)

QUESTION = json.dumps({"userId": "alice", "prompt": "Olá! 🦆"}).encode()


class Endless(io.BytesIO):
    """A body without end."""

    def read(self, size: int | None = -1) -> bytes:
        assert size is not None
        assert size > 0, "it has no end"
        return b" " * size


class Broken(io.BytesIO):
    """A body whose client has disconnected."""

    def read(self, size: int | None = -1) -> bytes:
        raise ConnectionResetError


def post(body: bytes | io.BytesIO, **environ: Any) -> tuple[int, dict[str, Any]]:
    """Send a chat request; return the status and the body of its answer."""
    status, content = send(body, **environ)
    return status, json.loads(content)


def send(body: bytes | io.BytesIO, **environ: Any) -> tuple[int, bytes]:
    setup_testing_defaults(environ)
    environ |= {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/v1/chat",
        "QUERY_STRING": "",
        "CONTENT_TYPE": "application/json",
        "HTTP_HOST": "localhost",
        "wsgi.input": io.BytesIO(body) if isinstance(body, bytes) else body,
    }
    started: list[str] = []

    def start_response(status: str, headers: Any, exc_info: Any = None) -> Any:
        started.append(status)

    answer = application(environ, start_response)
    try:
        content = b"".join(answer)
    finally:
        answer.close()
    return int(started[0].split()[0]), content


def chunked(body: bytes | io.BytesIO) -> tuple[int, dict[str, Any]]:
    ended = {"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"}
    return post(body, **ended)


def test_a_body_of_known_length_is_read() -> None:
    status, answer = post(QUESTION, CONTENT_LENGTH=str(len(QUESTION)))
    assert (status, answer["prompt"]) == (200, "Olá! 🦆")


def test_a_chunked_body_is_read_to_its_end() -> None:
    status, answer = chunked(QUESTION)
    assert (status, answer["prompt"]) == (200, "Olá! 🦆")


def test_a_chunked_body_of_the_greatest_size_is_read_and_a_larger_one_is_not(
    change_settings: Configure,
) -> None:
    change_settings(MAX_BODY_BYTES=2000)
    assert chunked(QUESTION.ljust(2000))[0] == 200
    status, answer = chunked(QUESTION.ljust(2001))
    assert (status, answer["code"]) == (413, "payload_too_large")


def test_a_chunked_body_without_end_is_refused() -> None:
    status, answer = chunked(Endless())
    assert (status, answer["code"]) == (413, "payload_too_large")


def test_a_chunked_body_without_chunks_is_empty() -> None:
    status, answer = chunked(b"")
    assert (status, answer["code"]) == (400, "malformed_json")


def test_a_body_of_unknown_length_is_not_read() -> None:
    status, answer = post(QUESTION, HTTP_TRANSFER_ENCODING="chunked")
    assert (status, answer["code"]) == (400, "malformed_json")


def test_a_body_that_is_longer_than_announced_is_cut_there() -> None:
    status, answer = post(QUESTION + b"garbage", CONTENT_LENGTH=str(len(QUESTION)))
    assert (status, answer["prompt"]) == (200, "Olá! 🦆")


def test_a_body_that_is_shorter_than_announced_is_malformed() -> None:
    status, answer = post(QUESTION[:-5], CONTENT_LENGTH=str(len(QUESTION)))
    assert (status, answer["code"]) == (400, "malformed_json")


def test_a_connection_that_breaks_in_the_middle_of_a_body_is_the_client_s_fault() -> None:
    status, answer = post(Broken(), CONTENT_LENGTH="100")
    assert (status, answer["code"]) == (400, "malformed_json")


@pytest.mark.parametrize(
    "body",
    [QUESTION, QUESTION.replace(b"}", b', "stream": true}'), b"{}"],
    ids=["plain", "streamed", "refused"],
)
def test_a_body_is_freed_with_the_answer(body: bytes) -> None:
    """Garbage would wait for the collector: hundreds of megabytes of pictures and texts."""
    stream = io.BytesIO(body)
    freed = weakref.ref(stream)
    gc.disable()
    try:
        send(stream, CONTENT_LENGTH=str(len(body)))
        del stream
        assert freed() is None
    finally:
        gc.enable()


def test_the_application_keeps_to_the_protocol() -> None:
    checked = validator(django_application)
    environ: dict[str, Any] = {
        "SCRIPT_NAME": "",
        "PATH_INFO": "/v1/health",
        "QUERY_STRING": "",
        "HTTP_HOST": "localhost",
    }
    setup_testing_defaults(environ)
    answer = checked(environ, lambda status, headers, exc_info=None: lambda data: None)
    content = b"".join(answer)
    answer.close()
    assert json.loads(content)["status"] == "healthy"
