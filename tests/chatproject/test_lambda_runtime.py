"""The runtime loop in its own process, beside a stand-in of Lambda's Runtime API."""

import base64
import gzip
import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chatproject import lambda_handler, lambda_runtime
from tests.lambda_events import function_url, load_balancer, v1, v2
from tests.runtime_api import WAIT_SECONDS, Answer, Function, RuntimeApi
from tests.server_process import ROOT
from tests.stub_vendor import DONE, FINISH, SOON, StubVendor, chunk

Front = Callable[..., dict[str, Any]]

QUESTION = {"userId": "user123", "prompt": "Olá!"}
STREAMED = {**QUESTION, "stream": True}
FRONTS = [v1, function_url]


@pytest.fixture(scope="module")
def api() -> Iterator[RuntimeApi]:
    with RuntimeApi() as running:
        yield running


@pytest.fixture(scope="module")
def vendor_of_all() -> Iterator[StubVendor]:
    with StubVendor() as running:
        yield running


@pytest.fixture(scope="module")
def function(
    api: RuntimeApi, vendor_of_all: StubVendor, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Function]:
    folder = tmp_path_factory.mktemp("function")
    with Function(api, folder, OPENAI_BASE_URL=vendor_of_all.url) as running:
        yield running


@pytest.fixture
def vendor(vendor_of_all: StubVendor, function: Function) -> StubVendor:
    vendor_of_all.clear()
    return vendor_of_all


def events(answer: Answer) -> list[tuple[str, Any]]:
    """Return the server-sent events of a stream: names and data."""
    found = re.findall(r"event: (\w+)\ndata: (.*)\n\n", answer.body.decode())
    return [(name, json.loads(data)) for name, data in found]


def record(api: RuntimeApi, interaction_id: str) -> Any:
    return api.ask(v1(path=f"/v1/interactions/{interaction_id}", method="GET")).json


def only_record(api: RuntimeApi, user: str) -> Any:
    (item,) = api.ask(v1(path=f"/v1/users/{user}/interactions", method="GET")).json["items"]
    return item


@pytest.mark.parametrize("front", FRONTS)
def test_a_piece_is_sent_before_the_vendor_continues(
    api: RuntimeApi, vendor: StubVendor, front: Front
) -> None:
    go_on = threading.Event()
    vendor.stream([chunk("Hel"), chunk("lo."), FINISH, DONE], gap=[0, go_on, 0, 0])
    invocation = api.invoke(front(body=STREAMED))
    prelude, _, first = (invocation.piece() or b"").rpartition(bytes(8))
    assert json.loads(prelude)["statusCode"] == 200
    assert first == b'event: delta\ndata: {"text":"Hel"}\n\n'
    go_on.set()
    rest = Answer(True, {}, first + b"".join(iter(invocation.piece, None)))
    assert [name for name, _ in events(rest)] == ["delta", "delta", "done"]
    done = events(rest)[-1][1]
    assert record(api, done["interaction_id"])["response"] == "Hello."


@pytest.mark.parametrize("front", FRONTS)
def test_a_plain_answer_has_its_status_and_headers(
    api: RuntimeApi, vendor: StubVendor, front: Front
) -> None:
    answer = api.ask(front(body=QUESTION))
    assert (answer.streamed, answer.head["statusCode"], answer.error) == (True, 200, None)
    assert answer.json["response"] == "Hello from the stand-in."
    headers = answer.head["headers"]
    assert headers["Content-Type"] == "application/json"
    assert headers["X-Response-Mode"] == "streaming"
    assert record(api, answer.json["interaction_id"])["status"] == "ok"


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("body", ["{", {}], ids=["malformed", "invalid"])
def test_an_error_before_the_first_byte_has_its_own_status(
    api: RuntimeApi, function: Function, front: Front, body: Any
) -> None:
    answer = api.ask(front(body=body))
    assert (answer.head["statusCode"], answer.error) == (400, None)
    assert answer.head["headers"]["Content-Type"] == "application/problem+json"
    assert answer.json["code"] in ("malformed_json", "validation_error")


@pytest.mark.parametrize("stream", [False, True])
def test_a_vendor_that_fails_before_the_first_byte_is_an_ordinary_error(
    api: RuntimeApi, vendor: StubVendor, stream: bool
) -> None:
    vendor.reply("no", status=402)
    answer = api.ask(v1(body={**QUESTION, "stream": stream}))
    assert (answer.head["statusCode"], answer.json["code"]) == (502, "provider_error")


def test_a_vendor_that_dies_in_a_stream_is_an_error_event(
    api: RuntimeApi, vendor: StubVendor
) -> None:
    vendor.stream([chunk("Hel")], cut=True)
    answer = api.ask(v1(body={**STREAMED, "userId": "dying"}))
    names = [name for name, _ in events(answer)]
    assert (names, answer.error) == (["delta", "error"], None)
    kept = only_record(api, "dying")
    assert (kept["status"], kept["response"]) == ("error", "Hel")


def test_a_request_may_be_binary(api: RuntimeApi, vendor: StubVendor) -> None:
    event = v1(headers={"content-encoding": "gzip"})
    content = gzip.compress(json.dumps(QUESTION).encode())
    event |= {"body": base64.b64encode(content).decode(), "isBase64Encoded": True}
    assert api.ask(event).json["prompt"] == "Olá!"


def test_an_answer_may_be_binary(api: RuntimeApi, function: Function) -> None:
    path = "/static/drf_spectacular_sidecar/swagger-ui-dist/favicon-32x32.png"
    answer = api.ask(v1(path=path, method="GET"))
    assert answer.head["statusCode"] == 200
    assert answer.body.startswith(b"\x89PNG")
    assert len(answer.body) == int(answer.head["headers"]["Content-Length"])


@pytest.mark.parametrize(
    "event",
    [
        v2() | {"rawPath": 5},
        v1() | {"httpMethod": None},
        function_url() | {"body": 5},
        v1() | {"body": "%%%", "isBase64Encoded": True},
    ],
    ids=["v2, path", "v1, method", "url, body", "v1, base64"],
)
def test_a_poisoned_event_is_answered_and_the_next_one_works(
    api: RuntimeApi, function: Function, event: Any
) -> None:
    assert api.ask(event).head["statusCode"] in (400, 500)
    assert api.ask(v1(path="/v1/health", method="GET")).head["statusCode"] == 200


def test_an_event_that_is_not_json_is_an_error_of_the_invocation(
    api: RuntimeApi, function: Function
) -> None:
    answer = api.ask(b"{")
    assert answer.error is not None
    assert answer.error["errorType"] == "JSONDecodeError"
    assert api.ask(v1(path="/v1/health", method="GET")).head["statusCode"] == 200


def test_invocations_share_a_connection_and_each_has_its_trace(
    api: RuntimeApi, function: Function
) -> None:
    api.ask(v1(path="/v1/health", method="GET"))
    connections = api.connections
    for _ in range(3):
        api.ask(v1(path="/v1/health", method="GET"))
    assert api.connections == connections
    assert "1-5759e988-bd862e3fe1be46a994272793" in function.log.read_text()


def test_the_loop_imports_the_application_with_the_handler_only() -> None:
    """What it imports before does not profit from the handler's faster imports."""
    program = "import sys, chatproject.lambda_runtime; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert not loaded & {"httpx", "rest_framework", "providers", "chatproject.lambda_handler"}


# --- Whole answers --------------------------------------------------------------------------------


def test_a_command_is_answered_as_a_whole(api: RuntimeApi, function: Function) -> None:
    answer = api.ask({"manage": ["check"]})
    assert (answer.streamed, answer.head["exit_code"]) == (False, 0)


def test_a_scheduled_command_that_fails_is_an_error(api: RuntimeApi, function: Function) -> None:
    answer = api.ask({"manage": ["shell"], "scheduled": True})
    assert answer.error is not None
    assert answer.error["errorType"] == "CommandFailed"


def direct(event: dict[str, Any]) -> dict[str, Any]:
    """Return an event as a person or a script sends it, without the id of a front's request."""
    context = {**event["requestContext"]}
    context.pop("requestId")
    return event | {"requestContext": context}


@pytest.mark.parametrize(
    "event",
    [
        v2(body=QUESTION),
        v2(body=QUESTION, domain="api.example.org"),
        load_balancer(body=QUESTION),
        direct(function_url(body=STREAMED)),
    ],
    ids=["HTTP API", "custom domain of an HTTP API", "load balancer", "direct"],
)
def test_a_front_that_does_not_stream_gets_a_whole_answer(
    api: RuntimeApi, vendor: StubVendor, event: Any
) -> None:
    answer = api.ask(event)
    assert (answer.streamed, answer.head["statusCode"]) == (False, 200)
    headers = {name.lower(): value for name, value in answer.head["headers"].items()}
    assert headers["x-response-mode"] == "buffered"


def test_doctor_names_a_front_that_does_not_stream(api: RuntimeApi, function: Function) -> None:
    api.ask(v2(path="/v1/health", method="GET"))
    output = api.ask({"manage": ["doctor"]}).head["output"]
    assert "LAMBDA_RESPONSE_MODE is streaming, but an HTTP API sends requests." in output


def test_the_loop_answers_as_a_whole_in_buffered_mode(tmp_path: Path) -> None:
    with RuntimeApi() as api, Function(api, tmp_path, LAMBDA_RESPONSE_MODE="buffered"):
        answer = api.ask(v1(body=QUESTION))
        assert (answer.streamed, answer.head["statusCode"]) == (False, 200)


# --- Other applications ---------------------------------------------------------------------------


@pytest.fixture
def answers_of(
    monkeypatch: pytest.MonkeyPatch, settings: Any
) -> Iterator[Callable[..., list[Answer]]]:
    """A function that runs the loop in this process, with another application."""
    settings.LAMBDA_RESPONSE_MODE = "streaming"
    monkeypatch.setenv("_X_AMZN_TRACE_ID", "")
    earlier = signal.getsignal(signal.SIGTERM)

    def run(application: Any, *events: Any) -> list[Answer]:
        monkeypatch.setattr(lambda_handler, "application", application)
        answers = []
        with RuntimeApi() as api:

            def ask() -> None:
                try:
                    answers.extend([api.ask(event) for event in events])
                finally:
                    api.close()

            thread = threading.Thread(target=ask)
            thread.start()
            with pytest.raises(lambda_runtime.RuntimeApiError, match="410"):
                lambda_runtime.Loop(lambda_runtime.RuntimeApi(api.address)).run()
            thread.join()
        return answers

    yield run
    signal.signal(signal.SIGTERM, earlier)


class Body:
    """The body of an answer; `closed` counts the calls of `close`."""

    def __init__(self, *pieces: bytes | Exception) -> None:
        self.pieces = pieces
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        for piece in self.pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece

    def close(self) -> None:
        self.closed += 1


def application_of(*bodies: Body, headers: Any = ()) -> Any:
    left = list(bodies)

    def application(environ: Any, start_response: Any) -> Body:
        start_response("200 OK", [("Content-Type", "text/plain"), *headers])
        return left.pop(0)

    return application


def test_an_exception_in_the_middle_is_in_the_trailers_and_the_next_event_works(
    answers_of: Callable[..., list[Answer]],
) -> None:
    bodies = Body(b"one", b"", RuntimeError("boom")), Body(b"two")
    broken, next_one = answers_of(application_of(*bodies), v1(), v1())
    assert (broken.head["statusCode"], broken.body) == (200, b"one")
    assert broken.error is not None
    assert (broken.error["errorType"], broken.error["errorMessage"]) == ("RuntimeError", "boom")
    assert (next_one.body, next_one.error) == (b"two", None)
    assert [body.closed for body in bodies] == [1, 1]


def test_an_exception_before_the_first_byte_is_an_ordinary_error(
    answers_of: Callable[..., list[Answer]],
) -> None:
    body = Body(RuntimeError("boom"))
    (answer,) = answers_of(application_of(body), v1())
    assert (answer.head["statusCode"], answer.json["code"]) == (500, "internal_error")
    assert (answer.error, body.closed) == (None, 1)


def test_an_answer_may_be_empty(answers_of: Callable[..., list[Answer]]) -> None:
    (answer,) = answers_of(application_of(Body()), function_url())
    assert (answer.head["statusCode"], answer.body, answer.error) == (200, b"", None)


def test_an_answer_may_be_longer_than_lambda_buffers(
    answers_of: Callable[..., list[Answer]],
) -> None:
    large = bytes(range(256)) * 4096 * 20
    (answer,) = answers_of(application_of(Body(large)), v1())
    assert answer.body == large


def test_cookies_and_repeated_headers_arrive(answers_of: Callable[..., list[Answer]]) -> None:
    headers = [("Set-Cookie", " a=1"), ("Set-Cookie", "b=2"), ("Vary", "A"), ("Vary", "B")]
    (answer,) = answers_of(application_of(Body(b"x"), headers=headers), v1())
    assert answer.head == {
        "statusCode": 200,
        "headers": {"Content-Type": "text/plain", "Vary": "A, B", "X-Response-Mode": "streaming"},
        "cookies": ["a=1", "b=2"],
    }


# --- Leaving --------------------------------------------------------------------------------------


def test_a_broken_connection_ends_the_vendors_call(api: RuntimeApi, vendor: StubVendor) -> None:
    pieces = [chunk(f"{number} ") for number in range(2000)]
    vendor.stream(pieces, gap=0.01)
    user = "leaving"
    invocation = api.invoke(v1(body={**STREAMED, "userId": user}), break_after=3)
    assert invocation.reset.wait(SOON)
    assert vendor.client_disconnected.wait(SOON)
    kept = only_record(api, user)
    assert kept["status"] == "aborted"
    assert kept["response"].startswith("0 1 2 ")


@pytest.fixture
def started(tmp_path: Path) -> Iterator[tuple[RuntimeApi, StubVendor, Function]]:
    with (
        RuntimeApi() as api,
        StubVendor() as vendor,
        Function(api, tmp_path, OPENAI_BASE_URL=vendor.url) as function,
    ):
        assert api.ask(v1(path="/v1/health", method="GET")).head["statusCode"] == 200
        yield api, vendor, function


Started = tuple[RuntimeApi, StubVendor, Function]


def test_sigterm_ends_an_idle_process(started: Started) -> None:
    _, _, function = started
    function.process.send_signal(signal.SIGTERM)
    assert function.process.wait(timeout=WAIT_SECONDS) == 0


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "plain"])
def test_sigterm_settles_the_running_request(
    started: Started, stream: bool, tmp_path: Path
) -> None:
    api, vendor, function = started
    never = threading.Event()
    asked = {**QUESTION, "stream": stream}
    if stream:
        vendor.stream([chunk("Hel"), chunk("lo.")], gap=[0, never])
        invocation = api.invoke(v1(body=asked))
        assert (invocation.piece() or b"").endswith(b'{"text":"Hel"}\n\n')
    else:
        vendor.reply({}, delay=never)
        invocation = api.invoke(v1(body=asked))
        while not vendor.requests:
            time.sleep(0.01)
    function.process.send_signal(signal.SIGTERM)
    answer = invocation.answer()
    if stream:
        assert answer.error is not None
        assert answer.error["errorType"] == "Terminated"
    assert function.process.wait(timeout=WAIT_SECONDS) == 0
    with Function(api, tmp_path, LLM_PROVIDER="mock"):
        kept = only_record(api, "user123")
    assert (kept["status"], kept["response"] or "") == ("aborted", "Hel" if stream else "")


def test_a_failing_start_is_reported(tmp_path: Path) -> None:
    with RuntimeApi() as api, Function(api, tmp_path, STREAM_TIMEOUT_SECONDS="soon") as function:
        assert function.process.wait(timeout=WAIT_SECONDS) == 1
        (error,) = api.init_errors
    assert error["errorType"] == "ImproperlyConfigured"
    assert "STREAM_TIMEOUT_SECONDS" in error["errorMessage"]


def test_several_environments_answer_at_once(tmp_path: Path) -> None:
    with RuntimeApi() as api, StubVendor() as vendor:
        go_on = threading.Event()
        vendor.stream([chunk("Hel"), chunk("lo."), FINISH, DONE], gap=[0, go_on, 0, 0])
        functions = [Function(api, tmp_path, OPENAI_BASE_URL=vendor.url) for _ in range(3)]
        with functions[0], functions[1], functions[2]:
            invocations = [api.invoke(v1(body=STREAMED)) for _ in functions]
            for invocation in invocations:
                assert (invocation.piece() or b"").endswith(b'{"text":"Hel"}\n\n')
            go_on.set()
            for invocation in invocations:
                rest = b"".join(iter(invocation.piece, None))
                assert b"event: done" in rest
