"""OpenTelemetry traces, sent by OTLP over HTTP. Imported only if TRACING_ENABLED.

Each request is a server span, and each attempt a client span below it, named by the conventions
for generative AI: https://github.com/open-telemetry/semantic-conventions-genai
Spans hold no content and no user ids, nor stop sequences, which clients write.
"""

import contextlib
import functools
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, StatusCode

from chat.telemetry.context import add_log_fields, current_request
from chat.telemetry.logs import aws_trace, on_response_close
from providers.base import Completion, CompletionRequest, Delta, Provider
from providers.deadline import Deadline
from providers.errors import ProviderError

# The convention has `_OTHER` for all else, of which a client could send any number.
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"})
# The conventions' names of providers, where they differ from ours.
PROVIDER_NAMES = {"bedrock": "aws.bedrock", "gemini": "gcp.gemini"}
# https://docs.aws.amazon.com/xray/latest/devguide/xray-concepts.html#xray-concepts-tracingheader
AWS_PARENT = re.compile(r"(?:^|;) ?Parent=([0-9a-f]{16}) ?(?:;|$)")
AWS_SAMPLED = re.compile(r"(?:^|;) ?Sampled=1 ?(?:;|$)")

_aws_trace_id: ContextVar[int | None] = ContextVar("aws_trace_id", default=None)
_flush_thread: threading.Thread | None = None
_provider_lock = threading.Lock()


class XRayIdGenerator(RandomIdGenerator):
    """Random trace ids, except for a trace that AWS has begun without naming a span."""

    def generate_trace_id(self) -> int:
        return _aws_trace_id.get() or super().generate_trace_id()


def tracer_provider() -> TracerProvider:
    """Return the process's provider, made by its first request.

    Its thread would not survive a fork of the process.
    """
    with _provider_lock:  # concurrent first requests would each make one
        return _make_tracer_provider()


@functools.cache
def _make_tracer_provider() -> TracerProvider:
    """Make a provider. OpenTelemetry reads its environment variables itself."""
    resource = Resource.create({"service.version": settings.VERSION})
    if str(resource.attributes["service.name"]).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": settings.SERVICE_NAME}))
    # `flush` is called at exit: the provider's own shutdown takes up to 30 s without an endpoint.
    provider = TracerProvider(
        resource=resource, id_generator=XRayIdGenerator(), shutdown_on_exit=False
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(settings.TRACES_ENDPOINT)))
    return provider


@functools.cache
def tracer() -> trace.Tracer:
    return tracer_provider().get_tracer("chat", settings.VERSION)


def flush(seconds: float) -> None:
    """Send all ended spans, and wait up to `seconds`.

    A flush that takes longer goes on in its thread; until it ends, further calls return at once.
    """
    global _flush_thread
    if _flush_thread is None or not _flush_thread.is_alive():
        _flush_thread = threading.Thread(target=tracer_provider().force_flush, daemon=True)
        _flush_thread.start()
        _flush_thread.join(seconds)


class TracingMiddleware:
    """Make each request a span, until its response has been sent. Inside RequestLogMiddleware."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        span = _server_span(request)
        add_log_fields(trace_id=trace.format_trace_id(span.get_span_context().trace_id))
        with trace.use_span(span):
            response = self.get_response(request)
        context = current_request()
        attributes: dict[str, Any] = {
            "http.response.status_code": response.status_code,
            "http.response.header.x-request-id": (context.request_id,),
        }
        if match := request.resolver_match:
            # The route instead of the path, which may hold a user id.
            attributes["http.route"] = attributes["url.path"] = f"/{match.route}"
            span.update_name(f"{_method(request)} /{match.route}")
        end = functools.partial(_end, span, attributes, context.log_fields)
        on_response_close(response, end)
        return response


def _server_span(request: HttpRequest) -> Span:
    """Start a span below the client's, else below AWS's, else at the head of a trace."""
    context = propagate.extract(request.headers)
    aws = request.headers.get("X-Amzn-Trace-Id", "")
    root = aws_trace(aws)
    trace_id = None
    if root and not trace.get_current_span(context).get_span_context().is_valid:
        trace_id = int(root[2:].replace("-", ""), 16)
        context = _below_aws(trace_id, aws)
    _aws_trace_id.set(trace_id)  # read by the id generator, now
    method, scheme = _method(request), request.scheme or "http"
    attributes = {"http.request.method": method, "url.scheme": scheme}
    return tracer().start_span(method, context, SpanKind.SERVER, attributes)


def _below_aws(trace_id: int, header: str) -> Context:
    """Return the context of the span that AWS names, if X-Ray stores it (`Sampled=1`).

    Otherwise our span is the first of the same trace. OpenTelemetry's AwsXRayPropagator ignores a
    `Root` without `Parent` (API Gateway's), and drops traces that X-Ray does not sample.
    """
    parent = AWS_PARENT.search(header)
    if not parent or not AWS_SAMPLED.search(header):
        return Context()
    sampled = trace.TraceFlags(trace.TraceFlags.SAMPLED)
    span = SpanContext(trace_id, int(parent[1], 16), is_remote=True, trace_flags=sampled)
    return trace.set_span_in_context(NonRecordingSpan(span), Context())


def _method(request: HttpRequest) -> str:
    return request.method if request.method in METHODS else "_OTHER"


def _end(span: Span, attributes: dict[str, Any], line: Mapping[str, Any]) -> None:
    """End a request's span with the outcome from its log line."""
    if not span.is_recording():  # not sampled; or ended, because a body may be closed twice
        return
    if "interaction_id" in line:
        attributes["chat.interaction_id"] = line["interaction_id"]
    status = attributes["http.response.status_code"]
    refused = 400 <= status < 500
    if status >= 500 or ("code" in line and not refused):  # a stream fails after its 200
        attributes["error.type"] = line.get("code") or str(status)
        span.set_status(StatusCode.ERROR)
    span.set_attributes(attributes)
    span.end()


class TracedProvider:
    """A provider each of whose completions is a span."""

    def __init__(self, provider: Provider) -> None:
        self.name = provider.name
        self.is_remote = provider.is_remote
        self.unsupported = provider.unsupported
        self.list_price = provider.list_price
        self.list_models = provider.list_models
        self.check = provider.check
        self.model = provider.model
        self._provider = provider
        address = urlsplit(settings.PROVIDERS[provider.name].get("base_url", ""))
        self._attributes = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": PROVIDER_NAMES.get(provider.name, provider.name),
            "server.address": address.hostname,
            "server.port": address.port or {"http": 80, "https": 443}.get(address.scheme),
        }

    def complete(self, request: CompletionRequest, deadline: Deadline) -> Completion:
        with self._span(request, deadline) as span:
            completion = self._provider.complete(request, deadline)
            span.set_attributes(_response_attributes(completion))
            return completion

    def stream(
        self, request: CompletionRequest, deadline: Deadline
    ) -> Iterator[Delta | Completion]:
        waiting = True
        with self._span(request, deadline, stream=True) as span:
            started = time.perf_counter()
            for event in self._provider.stream(request, deadline):
                if waiting:
                    waited = time.perf_counter() - started
                    span.set_attribute("gen_ai.response.time_to_first_chunk", waited)
                    waiting = False
                if isinstance(event, Completion):
                    span.set_attributes(_response_attributes(event))
                yield event

    @contextlib.contextmanager
    def _span(
        self, request: CompletionRequest, deadline: Deadline, *, stream: bool = False
    ) -> Iterator[Span]:
        attributes = {
            **self._attributes,
            "gen_ai.request.stream": stream or None,
            "gen_ai.request.model": request.model,
            "gen_ai.conversation.id": request.conversation_id,
            "gen_ai.request.temperature": request.parameters.get("temperature"),
            "gen_ai.request.top_p": request.parameters.get("top_p"),
            "gen_ai.request.max_tokens": request.parameters.get("max_tokens"),
        }
        span = tracer().start_span(
            f"chat {request.model}", kind=SpanKind.CLIENT, attributes=_without_none(attributes)
        )
        try:
            yield span
        except BaseException as exc:
            # A reader that closes the stream ends the span, too.
            aborted = deadline.cancelled or isinstance(exc, GeneratorExit)
            error = exc.code if isinstance(exc, ProviderError) else type(exc).__name__
            span.set_attribute("error.type", "aborted" if aborted else error)
            span.set_status(StatusCode.ERROR, getattr(exc, "reason", None))
            raise
        finally:
            span.end()


def _response_attributes(completion: Completion) -> dict[str, Any]:
    usage = completion.usage
    return _without_none(
        {
            "gen_ai.response.model": completion.model,
            "gen_ai.response.finish_reasons": (completion.finish_reason,),
            "gen_ai.usage.input_tokens": usage.prompt_tokens,
            "gen_ai.usage.output_tokens": usage.completion_tokens,
            "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
            "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens,
        }
    )


def _without_none(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if value is not None}
