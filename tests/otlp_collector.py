"""A collector of OpenTelemetry spans: OTLP as protobuf over HTTP, on a real socket."""

import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from tests.background_server import BackgroundServer

WAIT_SECONDS = 30


@dataclass(frozen=True, kw_only=True)
class Span:
    name: str
    kind: str  # SERVER, CLIENT
    trace_id: str
    span_id: str
    parent_id: str
    seconds: float
    started: int
    attributes: dict[str, Any]
    status: str  # UNSET, OK, ERROR
    message: str
    service: dict[str, Any]


class Collector(BackgroundServer):
    """Collects spans while its context lasts. While `paused` is set, it does not respond."""

    def __init__(self) -> None:
        self.paused = threading.Event()
        self.store_spans = True
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self._arrived = threading.Condition()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __exit__(self, *exc: object) -> None:
        self.paused.clear()
        super().__exit__(*exc)

    @property
    def spans(self) -> list[Span]:
        """All spans received, by start time."""
        found = [span for body in self.bodies for span in _spans(body)]
        return sorted(found, key=lambda span: span.started)

    def trace(self, trace_id: str, count: int) -> list[Span]:
        """Wait for a trace to have `count` spans, and return them."""

        def found() -> list[Span]:
            return [span for span in self.spans if span.trace_id == trace_id]

        with self._arrived:
            assert self._arrived.wait_for(lambda: len(found()) >= count, WAIT_SECONDS), self.spans
        assert len(found()) == count
        return found()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                assert self.path == "/v1/traces"
                body = self.rfile.read(int(self.headers["Content-Length"]))
                while collector.paused.is_set():
                    time.sleep(0.01)
                with collector._arrived:
                    if collector.store_spans:
                        collector.bodies.append(body)
                        collector.headers.append({k.lower(): v for k, v in self.headers.items()})
                    collector._arrived.notify_all()
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *arguments: Any) -> None:
                pass

        return Handler


def _spans(body: bytes) -> list[Span]:
    request = ExportTraceServiceRequest.FromString(body)
    return [
        Span(
            name=span.name,
            kind=span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
            trace_id=span.trace_id.hex(),
            span_id=span.span_id.hex(),
            parent_id=span.parent_span_id.hex(),
            started=span.start_time_unix_nano,
            seconds=(span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
            attributes=_attributes(span.attributes),
            status=span.status.StatusCode.Name(span.status.code).removeprefix("STATUS_CODE_"),
            message=span.status.message,
            service=_attributes(group.resource.attributes),
        )
        for group in request.resource_spans
        for scope in group.scope_spans
        for span in scope.spans
    ]


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return getattr(value, str(kind))
