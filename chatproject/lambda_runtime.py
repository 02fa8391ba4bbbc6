"""Lambda's runtime loop for fronts that stream: no managed Python runtime sends parts of answers.

    python -m chatproject.lambda_runtime

It takes the next event from the Runtime API, calls the WSGI application, and sends the answer's
pieces as they come. Events that no streaming front has sent are answered as a whole, by
lambda_handler.py. Once AWS's runtime client streams, it can replace this file.

No module of the application is imported before lambda_handler.py, which makes the imports after it
cheaper, and whose errors are reported.

https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html
https://docs.aws.amazon.com/lambda/latest/dg/runtimes-custom.html#runtimes-custom-response-streaming
"""

import base64
import http.client
import json
import logging
import os
import signal
import threading
import time
import traceback
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from apig_wsgi import get_environ_v1, get_environ_v2
from django.conf import settings
from django.core import checks

from chatproject.env_sources import lambda_runtime_api, set_lambda_trace_id

if TYPE_CHECKING:
    from providers.deadline import Deadline

Event = dict[str, Any]

logger = logging.getLogger("chatproject.lambda_runtime")

# The version of the Runtime API.
RUNTIME = "/2018-06-01/runtime"
ERROR_TYPE = "Lambda-Runtime-Function-Error-Type"
ERROR_BODY = "Lambda-Runtime-Function-Error-Body"
# An answer of this type begins with a prelude, which eight NULs separate from the body.
PRELUDE_TYPE = "application/vnd.awslambda.http-integration-response"
DELIMITER = bytes(8)


class RuntimeApiError(Exception):
    """The Runtime API refused a request, or the connection to it broke."""


class Terminated(Exception):
    """SIGTERM has cancelled the request before the end of its answer."""


@dataclass(frozen=True, slots=True)
class Invocation:
    """A raw event, and the fields of Lambda's context object that the application reads."""

    aws_request_id: str
    content: bytes
    deadline_ms: int
    trace_id: str

    # The name is Lambda's: apig-wsgi and the application read the context of either runtime.
    def get_remaining_time_in_millis(self) -> int:
        return max(0, self.deadline_ms - int(time.time() * 1000))


class RuntimeApi:
    """The Runtime API, over one connection that is kept. Raises RuntimeApiError."""

    def __init__(self, address: str) -> None:
        self._connection = http.client.HTTPConnection(address)

    def next(self) -> Invocation:
        """Wait for the next event. The process may be frozen meanwhile."""
        try:
            response, content = self._request("GET", "invocation/next")
        except RuntimeApiError:  # the connection may have ended meanwhile
            response, content = self._request("GET", "invocation/next")
        headers = response.headers
        return Invocation(
            aws_request_id=headers["Lambda-Runtime-Aws-Request-Id"],
            content=content,
            deadline_ms=int(headers["Lambda-Runtime-Deadline-Ms"]),
            trace_id=headers.get("Lambda-Runtime-Trace-Id", ""),
        )

    def respond(self, request_id: str, content: bytes) -> None:
        """Send a whole answer."""
        headers = {"Content-Type": "application/json"}
        self._request("POST", f"invocation/{request_id}/response", content, headers)

    def fail(self, step: str, exc: BaseException) -> None:
        """Report the error of a step: `init`, or `invocation/` and the request's id."""
        headers = {"Content-Type": "application/json", ERROR_TYPE: type(exc).__name__}
        self._request("POST", f"{step}/error", _error_body(exc), headers)

    def stream(self, request_id: str, pieces: Iterable[bytes]) -> None:
        """Send an answer, each piece when it comes. An error of the pieces goes into trailers."""
        self._start_stream(f"{RUNTIME}/invocation/{request_id}/response")
        trailers = b""
        try:
            for piece in pieces:
                if piece:  # an empty chunk would end the answer
                    self._send(b"%x\r\n%b\r\n" % (len(piece), piece))
        except RuntimeApiError:
            raise
        except Exception as exc:
            # The status has been sent, so only trailers can tell Lambda of the error.
            logger.exception("an answer broke off", extra={"request_id": request_id})
            error = base64.b64encode(_error_body(exc)).decode()
            trailers = f"{ERROR_TYPE}: {type(exc).__name__}\r\n{ERROR_BODY}: {error}\r\n".encode()
        self._send(b"0\r\n%b\r\n" % trailers)
        self._receive()

    def _start_stream(self, path: str) -> None:
        with self._broken_connection():
            self._connection.putrequest("POST", path, skip_accept_encoding=True)
            for name, value in (
                ("Content-Type", PRELUDE_TYPE),
                ("Lambda-Runtime-Function-Response-Mode", "streaming"),
                ("Transfer-Encoding", "chunked"),
                ("Trailer", ERROR_TYPE),
                ("Trailer", ERROR_BODY),
            ):
                self._connection.putheader(name, value)
            self._connection.endheaders()

    def _send(self, data: bytes) -> None:
        with self._broken_connection():
            self._connection.send(data)

    def _request(self, method: str, path: str, *content: Any) -> tuple[Any, bytes]:
        with self._broken_connection():
            self._connection.request(method, f"{RUNTIME}/{path}", *content)
        return self._receive()

    def _receive(self) -> tuple[http.client.HTTPResponse, bytes]:
        with self._broken_connection():
            response = self._connection.getresponse()
            content = response.read()
        if response.status not in (HTTPStatus.OK, HTTPStatus.ACCEPTED):
            raise RuntimeApiError(f"the Runtime API answered {response.status}: {content[:500]!r}")
        return response, content

    @contextmanager
    def _broken_connection(self) -> Iterator[None]:
        """Close a connection that has broken; the next request opens another."""
        try:
            yield
        except (OSError, http.client.HTTPException) as exc:
            self._connection.close()
            raise RuntimeApiError(f"the connection to the Runtime API broke: {exc!r}") from exc


def _error_body(exc: BaseException) -> bytes:
    frames = traceback.format_tb(exc.__traceback__)
    error = {"errorMessage": str(exc), "errorType": type(exc).__name__, "stackTrace": frames}
    return json.dumps(error).encode()


class Termination:
    """SIGTERM: cancel the running request, so that it is settled, and end the process after it."""

    def __init__(self) -> None:
        self.requested = False
        self._waiting = False
        self._deadline: Deadline | None = None

    def handle(self, *signal_and_frame: object) -> None:
        self.requested = True
        if self._waiting:
            raise SystemExit(0)
        if deadline := self._deadline:  # from another thread, as this one may hold its lock
            threading.Thread(target=deadline.cancel).start()

    @property
    def has_cancelled(self) -> bool:
        """Whether the running request was cancelled."""
        return self._deadline is not None and self._deadline.cancelled

    @contextmanager
    def while_waiting(self) -> Iterator[None]:
        """Let SIGTERM end the process at once within the context."""
        self._waiting = True
        try:
            if self.requested:
                raise SystemExit(0)
            yield
        finally:
            self._waiting = False

    @contextmanager
    def cancels(self, deadline: "Deadline") -> Iterator[None]:
        """Let SIGTERM cancel a request's deadline within the context."""
        self._deadline = deadline
        if self.requested:
            deadline.cancel()
        try:
            yield
        finally:
            self._deadline = None


class Head:
    """The status and headers of an answer, which the application gives to `start_response`."""

    status = "500 Internal Server Error"
    headers: Sequence[tuple[str, str]] = ()

    def start_response(
        self, status: str, headers: Sequence[tuple[str, str]], exc_info: object = None
    ) -> None:
        self.status, self.headers = status, headers

    def prelude(self) -> bytes:
        """Return what precedes the body. Repeated headers are joined, except cookies."""
        single: dict[str, str] = {}
        cookies = []
        for name, value in self.headers:
            if name.lower() == "set-cookie":
                cookies.append(value.strip())
            else:
                single[name] = f"{single[name]}, {value}" if name in single else value
        prelude = {"statusCode": int(self.status[:3]), "headers": single, "cookies": cookies}
        return json.dumps(prelude).encode() + DELIMITER


class Loop:
    """Answer one event after the other."""

    def __init__(self, api: RuntimeApi) -> None:
        self._api = api
        self._termination = Termination()
        self._buffering_fronts: set[str] = set()
        signal.signal(signal.SIGTERM, self._termination.handle)
        checks.register(lambda **options: self._front_warnings(), "chat")

    def run(self) -> None:
        while True:
            with self._termination.while_waiting():
                invocation = self._api.next()
            set_lambda_trace_id(invocation.trace_id)
            try:
                self._answer(invocation)
            except RuntimeApiError:
                logger.exception("not answered", extra={"request_id": invocation.aws_request_id})

    def _answer(self, invocation: Invocation) -> None:
        try:
            event = json.loads(invocation.content)
            answer = self._stream if self._is_streamed(event) else self._respond
            answer(event, invocation)
        except RuntimeApiError:
            raise
        except Exception as exc:
            request_id = invocation.aws_request_id
            logger.exception("an invocation failed", extra={"request_id": request_id})
            self._api.fail(f"invocation/{request_id}", exc)

    def _is_streamed(self, event: Any) -> bool:
        """Return whether the front streams, as far as the event tells.

        Fronts give each request an id. Load balancers and HTTP APIs do not stream.
        """
        context = event.get("requestContext") if isinstance(event, dict) else None
        if settings.LAMBDA_RESPONSE_MODE != "streaming" or not isinstance(context, dict):
            return False
        # An HTTP API may have a domain of its own; function URLs always have AWS's.
        domain = str(context.get("domainName"))
        is_http_api = event.get("version") == "2.0" and ".lambda-url." not in domain
        if is_http_api or "elb" in context:
            self._report_front("an HTTP API" if is_http_api else "a load balancer")
            return False
        return "requestId" in context

    def _report_front(self, front: str) -> None:
        if front not in self._buffering_fronts:
            self._buffering_fronts.add(front)
            logger.warning("LAMBDA_RESPONSE_MODE is streaming, but %s does not stream", front)

    def _front_warnings(self) -> list[checks.CheckMessage]:
        """Tell `doctor` which fronts have called this process that do not stream."""
        return [
            checks.Warning(
                f"LAMBDA_RESPONSE_MODE is streaming, but {front} sends requests.",
                hint="Set LAMBDA_RESPONSE_MODE=buffered, or use a front that streams.",
                id="chatproject.W001",
            )
            for front in sorted(self._buffering_fronts)
        ]

    def _respond(self, event: Any, invocation: Invocation) -> None:
        from chatproject.lambda_handler import handler

        answer = json.dumps(handler(event, invocation)).encode()
        self._api.respond(invocation.aws_request_id, answer)

    def _stream(self, event: Event, invocation: Invocation) -> None:
        from chatproject.lambda_handler import FLUSH_SECONDS
        from chatproject.wsgi import flush_traces

        try:
            with closing(self._pieces(event, invocation)) as pieces:
                self._api.stream(invocation.aws_request_id, pieces)
        finally:
            flush_traces(FLUSH_SECONDS)  # the process is frozen until the next event

    def _pieces(self, event: Event, invocation: Invocation) -> Generator[bytes]:
        """Yield the prelude with the first piece of the body, then the others.

        An error before the first piece makes an ordinary answer.
        """
        from chatproject.lambda_handler import error_answer

        head = Head()
        with closing(self._body(event, invocation, head)) as body:
            try:
                first = next(body, b"")
            except Exception as exc:
                answer = error_answer(exc, invocation)
                head.start_response(str(answer["statusCode"]), [*answer["headers"].items()])
                first = answer["body"].encode()
            yield head.prelude() + first
            yield from body

    def _body(self, event: Event, invocation: Invocation, head: Head) -> Generator[bytes]:
        """Call the application, and yield the pieces of its body.

        Closed early, it cancels the request, which is settled as aborted.
        """
        from chat.api.server_context import CANCEL_ON_DISCONNECT, STREAMS_ON_LAMBDA
        from chatproject.lambda_handler import call_application, normalize_event

        event = normalize_event(event)
        environ = (
            get_environ_v2(event, invocation)
            if event.get("version") == "2.0"
            else get_environ_v1(event, invocation, encode_query_params=True)
        )
        environ |= {STREAMS_ON_LAMBDA: True, CANCEL_ON_DISCONNECT: self._termination.cancels}
        body = call_application(environ, head.start_response)
        try:
            yield from body
            if self._termination.has_cancelled:
                raise Terminated("SIGTERM ended the request.")
        finally:
            if close := getattr(body, "close", None):
                close()


def main() -> None:
    os.environ.setdefault("LAMBDA_RESPONSE_MODE", "streaming")
    api = RuntimeApi(lambda_runtime_api())
    try:
        import chatproject.lambda_handler  # noqa: F401  (it sets the application up)
    except BaseException as exc:  # SystemExit, too: a check failed
        api.fail("init", exc)
        raise
    Loop(api).run()


if __name__ == "__main__":
    main()
