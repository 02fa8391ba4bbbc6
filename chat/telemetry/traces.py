"""Traces: OpenTelemetry's spans, sent by OTLP over HTTP. Imported only where there is an endpoint.

Each request is a server span, and each call of a provider a client span below it, named as the
conventions for generative AI have it: https://github.com/open-telemetry/semantic-conventions-genai
What was said, and who said it, is in none of them: not stop sequences either, which clients write.
"""

import contextlib
import functools
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, cast
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

from chat.telemetry.context import add_log_fields, current_request_id, log_fields
from chat.telemetry.logs import aws_trace, on_response_close
from providers.base import Completion, CompletionRequest, Deadline, Provider
from providers.errors import ProviderError

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"})
# What the conventions call our providers, where it is not by our name.
PROVIDER_NAMES = {"gemini": "gcp.gemini"}
# https://docs.aws.amazon.com/xray/latest/devguide/xray-concepts.html#xray-concepts-tracingheader
AWS_PARENT = re.compile(r"(?:^|;) ?Parent=([0-9a-f]{16}) ?(?:;|$)")
AWS_SAMPLED = re.compile(r"(?:^|;) ?Sampled=1 ?(?:;|$)")

_aws_trace_id: ContextVar[int | None] = ContextVar("aws_trace_id", default=None)
_flush_thread: threading.Thread | None = None
_provider_lock = threading.Lock()


class XRayIdGenerator(RandomIdGenerator):
    """Random ids, but for a trace that AWS has begun without a span of it."""

    def generate_trace_id(self) -> int:
        return _aws_trace_id.get() or super().generate_trace_id()


def tracer_provider() -> TracerProvider:
    """Made by the first request, as its thread would not outlive a fork of the process."""
    with _provider_lock:  # first requests that come at once would each make one
        return _provider()


@functools.cache
def _provider() -> TracerProvider:
    """As OpenTelemetry's variables want it, which it reads itself."""
    resource = Resource.create({"service.version": settings.VERSION})
    if str(resource.attributes["service.name"]).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": settings.SERVICE_NAME}))
    # At the end `flush` is called instead: its own end may take half a minute without an endpoint.
    made = TracerProvider(resource=resource, id_generator=XRayIdGenerator(), shutdown_on_exit=False)
    made.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(settings.TRACES_ENDPOINT)))
    return made


@functools.cache
def tracer() -> trace.Tracer:
    return tracer_provider().get_tracer("chat", settings.VERSION)


def flush(seconds: float) -> None:
    """Send the spans there are, and wait for that, but no longer than this.

    What takes longer goes on in its thread, and until it is done nobody waits for it again.
    """
    global _flush_thread
    if _flush_thread is None or not _flush_thread.is_alive():
        _flush_thread = threading.Thread(target=tracer_provider().force_flush, daemon=True)
        _flush_thread.start()
        _flush_thread.join(seconds)


class TracingMiddleware:
    """Has each request be a span until the end of its answer. Inside of RequestMiddleware."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        span = _server_span(request)
        add_log_fields(trace_id=trace.format_trace_id(span.get_span_context().trace_id))
        with trace.use_span(span):
            response = self.get_response(request)
        attributes: dict[str, Any] = {
            "http.response.status_code": response.status_code,
            "http.response.header.x-request-id": (current_request_id(),),
        }
        if match := request.resolver_match:
            # Parameters stay what they are called, as paths hold the ids of users.
            attributes["http.route"] = attributes["url.path"] = f"/{match.route}"
            span.update_name(f"{_method(request)} /{match.route}")
        end = functools.partial(_end, span, attributes, log_fields())
        on_response_close(response, end)
        return response


def _server_span(request: HttpRequest) -> Span:
    """A span below the caller's, or below AWS's, or else at the head of a trace."""
    context = propagate.extract(request.headers)
    aws = request.headers.get("X-Amzn-Trace-Id", "")
    root = aws_trace(aws)
    token = None
    if root and not trace.get_current_span(context).get_span_context().is_valid:
        trace_id = int(root[2:].replace("-", ""), 16)
        context = _below_aws(trace_id, aws)
        token = _aws_trace_id.set(trace_id)
    try:
        method, scheme = _method(request), request.scheme or "http"
        attributes = {"http.request.method": method, "url.scheme": scheme}
        return tracer().start_span(method, context, SpanKind.SERVER, attributes)
    finally:
        if token:
            _aws_trace_id.reset(token)


def _below_aws(trace_id: int, header: str) -> Context:
    """Below the span that AWS names, if X-Ray has it: what it does not sample it does not keep.

    The two halves of AWS's id are one of ours:
    https://github.com/open-telemetry/opentelemetry-python-contrib (propagator-aws-xray)
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
    """Finish a request's span with what is on its line of the log."""
    if not span.is_recording():  # not wanted; or over, as a body may be closed twice
        return
    if "interaction_id" in line:
        attributes["chat.interaction_id"] = line["interaction_id"]
    status = attributes["http.response.status_code"]
    refused = 400 <= status < 500
    if status >= 500 or ("code" in line and not refused):  # a stream breaks off under a 200
        attributes["error.type"] = line.get("code") or str(status)
        span.set_status(StatusCode.ERROR)
    span.set_attributes(attributes)
    span.end()


def traced(provider: Provider) -> Provider:
    """The same provider, of which each call is a span."""
    return cast(Provider, TracedProvider(provider))


class TracedProvider:
    """Stands for a provider, and asks it."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        address = urlsplit(settings.PROVIDERS[provider.name].get("base_url", ""))
        self._always = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": PROVIDER_NAMES.get(provider.name, provider.name),
            "server.address": address.hostname,
            "server.port": address.port or {"http": 80, "https": 443}.get(address.scheme),
        }

    def __getattr__(self, name: str) -> Any:
        return getattr(self._provider, name)

    def complete(self, request: CompletionRequest, deadline: Deadline) -> Completion:
        with self._call(request, deadline) as span:
            completion = self._provider.complete(request, deadline)
            span.set_attributes(_response_attributes(completion))
            return completion

    def stream(self, request: CompletionRequest, deadline: Deadline) -> Iterator[str | Completion]:
        started = time.perf_counter()
        waiting = True
        with self._call(request, deadline, stream=True) as span:
            for event in self._provider.stream(request, deadline):
                if waiting:
                    waited = time.perf_counter() - started
                    span.set_attribute("gen_ai.response.time_to_first_chunk", waited)
                    waiting = False
                if isinstance(event, Completion):
                    span.set_attributes(_response_attributes(event))
                yield event

    @contextlib.contextmanager
    def _call(
        self, request: CompletionRequest, deadline: Deadline, *, stream: bool = False
    ) -> Iterator[Span]:
        attributes = {
            **self._always,
            "gen_ai.request.stream": stream or None,
            "gen_ai.request.model": request.model,
            "gen_ai.conversation.id": request.conversation_id,
            "gen_ai.request.temperature": request.temperature,
            "gen_ai.request.top_p": request.top_p,
            "gen_ai.request.max_tokens": request.max_tokens,
        }
        span = tracer().start_span(
            f"chat {request.model}", kind=SpanKind.CLIENT, attributes=_known(attributes)
        )
        try:
            yield span
        except BaseException as exc:
            aborted = deadline.cancelled or isinstance(exc, GeneratorExit)
            error = exc.code if isinstance(exc, ProviderError) else type(exc).__name__
            span.set_attribute("error.type", "aborted" if aborted else error)
            span.set_status(StatusCode.ERROR, getattr(exc, "reason", None))
            raise
        finally:
            span.end()


def _response_attributes(completion: Completion) -> dict[str, Any]:
    usage = completion.usage
    return _known(
        {
            "gen_ai.response.model": completion.model,
            "gen_ai.response.finish_reasons": (completion.finish_reason,),
            "gen_ai.usage.input_tokens": usage.prompt_tokens,
            "gen_ai.usage.output_tokens": usage.completion_tokens,
            "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
            "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens,
        }
    )


def _known(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if value is not None}
