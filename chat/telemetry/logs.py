"""The request log: one line per request, without prompts, answers or keys."""

import functools
import logging
import re
import time
from collections.abc import Callable
from typing import Any

import uuid_utils
from django.http import HttpRequest, HttpResponse
from django.utils.termcolors import make_style
from pythonjsonlogger.orjson import OrjsonFormatter

from chat.telemetry import metrics
from chat.telemetry.context import RequestContext, current_request_id, request_context

logger = logging.getLogger("chat.request")

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
# https://docs.aws.amazon.com/xray/latest/devguide/xray-concepts.html#xray-concepts-tracingheader
TRACE_ROOT = re.compile(r"(?:^|;) ?Root=(1-[0-9a-f]{8}-[0-9a-f]{24}) ?(?:;|$)")
MAX_TRACE_CHARACTERS = 512
REPEAT_SECONDS = 3600.0

Style = Callable[[str], str]


class RequestLogMiddleware:
    """Give each request an id (the client's, if valid), and log a line for each response."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        given = request.META.get("HTTP_X_REQUEST_ID", "")
        # A client's line breaks and long texts must not get into the log.
        valid = REQUEST_ID.fullmatch(given)
        with request_context(given if valid else str(uuid_utils.uuid7())) as context:
            return self._respond(request, context)

    def _respond(self, request: HttpRequest, context: RequestContext) -> HttpResponse:
        started = time.perf_counter()
        response = self.get_response(request)
        parts = {**context.timings, "total": (time.perf_counter() - started) * 1000}
        response["X-Request-ID"] = context.request_id
        response["Server-Timing"] = ", ".join(
            f"{part};dur={milliseconds:.1f}" for part, milliseconds in parts.items()
        )
        match = request.resolver_match
        trace_id = aws_trace(request.META.get("HTTP_X_AMZN_TRACE_ID", ""))
        line = {
            "request_id": context.request_id,
            "method": request.method,
            # Not the path, which may contain a user id.
            "route": f"/{match.route}" if match else None,
            "status": response.status_code,
            **({"trace_id": trace_id} if trace_id else {}),
        }

        @functools.cache  # a body may be closed twice
        def log() -> None:
            elapsed = round((time.perf_counter() - started) * 1000, 1)
            complete = {**line, "latency_ms": elapsed, **context.log_fields}
            logger.info("request", extra={**complete, **metrics.emf_fields(complete)})

        on_response_close(response, log)
        return response


def on_response_close(response: HttpResponse, callback: Callable[[], object]) -> None:
    """Call `callback` when the body was sent or abandoned; at once if it is not streamed."""
    if response.streaming:
        # Django calls these on close(). It has no public name for them, nor have its types.
        response._resource_closers.append(callback)  # type: ignore[attr-defined]
    else:
        callback()


def aws_trace(header: str) -> str | None:
    """Return the trace id in an X-Amzn-Trace-Id header."""
    root = TRACE_ROOT.search(header[:MAX_TRACE_CHARACTERS])
    return root[1] if root else None


class JsonFormatter(OrjsonFormatter):
    """One JSON object per line."""

    def __init__(self) -> None:
        super().__init__(
            "{levelname}{name}{message}",
            style="{",
            timestamp=True,
            rename_fields={"levelname": "level", "name": "logger"},
        )

    def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
        if current_request_id():
            log_data.setdefault("request_id", current_request_id())
        if "emf" in log_data:  # logging's extras cannot begin with an underscore here
            log_data["_aws"] = log_data.pop("emf")
        return log_data


class OncePerHourFilter(logging.Filter):
    """Pass each message once an hour: an unreachable endpoint is reported once, not per batch."""

    def __init__(self) -> None:
        super().__init__()
        self._muted_until: dict[object, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.created < self._muted_until.get(record.msg, 0.0):
            return False
        self._muted_until[record.msg] = record.created + REPEAT_SECONDS
        return True


class SimpleFormatter(logging.Formatter):
    """A line for people: `12:00:00 INFO POST /v1/chat 200 812.4 ms provider=mock …`."""

    def __init__(self, *, colors: bool = False) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S")
        self.colors = colors

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  (logging's name)
        line = dict(record.__dict__)
        if record.name == logger.name:
            route = self._styled(f"{line['method']} {line['route'] or '-'}", ROUTE_STYLE)
            status = self._styled(str(line["status"]), STATUS_STYLES.get(line["status"] // 100))
            rest = (f"{key}={line[key]}" for key in TERMINAL_FIELDS if line.get(key) is not None)
            line["message"] = " ".join([route, status, f"{line['latency_ms']} ms", *rest])
        line["levelname"] = self._styled(record.levelname, LEVEL_STYLES.get(record.levelname))
        return super().formatMessage(logging.makeLogRecord(line))

    def _styled(self, text: str, style: Style | None) -> str:
        return style(text) if self.colors and style else text


ROUTE_STYLE: Style = make_style(opts=("bold",))
STATUS_STYLES: dict[int, Style] = {
    2: make_style(fg="green"),
    3: make_style(fg="cyan"),
    4: make_style(fg="yellow"),
    5: make_style(fg="red"),
}
LEVEL_STYLES: dict[str, Style] = {
    "WARNING": make_style(fg="yellow"),
    "ERROR": make_style(fg="red"),
    "CRITICAL": make_style(fg="red", opts=("bold",)),
}
TERMINAL_FIELDS = (
    "code",
    "vendor_errors",
    "owner",
    "provider",
    "model",
    "prompt_tokens",
    "completion_tokens",
    "interaction_id",
    "request_id",
)
