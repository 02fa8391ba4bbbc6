"""AWS Lambda's door: HTTP events through apig-wsgi, and direct invocations of management commands.

HTTP APIs and function URLs (payload 2.0), REST APIs (1.0) and load balancers are all served. An
event `{"manage": ["create_tables"]}` runs a management command instead: only who may invoke the
function itself can send it, since each HTTP front wraps what it gets into an event of its own.
"""

import gc

gc.disable()  # what is imported stays: looking for garbage in it costs a sixth of the cold start

import sys

# What DRF, and httpx for its command line, import if they find it, in up to a third of the cold
# start, and do not need here. None stands for what is not to be found.
BLOCKED_IMPORTS = ("requests", "yaml", "click")
sys.modules.update(dict.fromkeys(BLOCKED_IMPORTS))  # type: ignore[arg-type]  # None is allowed

import contextlib
import io
import json
import logging
import os
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any
from urllib.parse import quote

from apig_wsgi import make_lambda_handler
from django.conf import settings

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "chatproject.settings")

from chatproject.env import lambda_trace_id
from chatproject.wsgi import application

import_module("chatproject.urls")
for name in BLOCKED_IMPORTS:
    del sys.modules[name]  # whoever does need it may have it from here on

Event = dict[str, Any]

logger = logging.getLogger(__name__)

# What may be run by a direct invocation.
COMMANDS = frozenset(
    {
        "check",
        "check_providers",
        "create_api_key",
        "create_tables",
        "doctor",
        "erase_user",
        "list_api_keys",
        "purge_interactions",
        "revoke_api_key",
        "rotate_api_key",
        "usage_report",
    }
)

# Lambda takes back 6,291,556 bytes, and ends the process for more. Escaped for JSON, one character
# is up to twelve bytes: an emoji is two escapes.
MAX_ANSWER_BYTES = 6_000_000
MAX_BYTES_PER_CHARACTER = 12

# How long an answer may wait for its traces to be sent.
TRACES_SECONDS = 0.5
# A caller who keeps no trace: https://www.w3.org/TR/trace-context/#traceparent-header
UNSAMPLED = f"00-{1:032x}-{1:016x}-00"

TEXT_TYPES = (
    "text/",
    "application/json",
    "application/problem+json",
    "application/vnd.oai.openapi",
)


def handler(event: Event, context: Any) -> dict[str, Any]:
    """Answer an event: with an HTTP answer, whatever it holds, or with a command's result."""
    if isinstance(event, dict) and "manage" in event and "requestContext" not in event:
        return run_command(event["manage"])
    try:
        answer: dict[str, Any] = _answer(_normalize_event(event), context)
    except Exception:
        logger.exception("an event could not be answered", extra={"request_id": _id(context)})
        return _failure("The request could not be handled.", context)
    finally:
        _send_traces()
    if _too_large(answer["body"]):
        return _failure("The answer is larger than Lambda returns.", context)
    return answer


def _send_traces() -> None:
    """Now, as the process stands still until the next event."""
    if settings.TRACING_ENABLED:
        from chat.telemetry.traces import flush

        flush(TRACES_SECONDS)


def run_command(arguments: Any) -> dict[str, Any]:
    """Run a management command: its name and arguments -> `{"exit_code", "output"}`.

    The exit code is 0, or 1 for a command that failed, or 2 for one that is not to be run here.
    """
    from django.core.management import CommandError, call_command

    if not isinstance(arguments, list) or not all(isinstance(word, str) for word in arguments):
        return {"exit_code": 2, "output": "`manage` is a list: a command's name and arguments.\n"}
    if not arguments or arguments[0] not in COMMANDS:
        return {"exit_code": 2, "output": f"Commands here: {', '.join(sorted(COMMANDS))}.\n"}
    output = io.StringIO()
    exit_code = 0
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            call_command(*arguments, stdout=output, stderr=output, no_color=True)
        except CommandError as exc:
            output.write(f"{exc}\n")
            exit_code = exc.returncode
        except SystemExit as exc:
            exit_code = exc.code if isinstance(exc.code, int) else 1
        except Exception as exc:
            logger.exception("a command failed")
            output.write(f"{type(exc).__name__}\n")
            exit_code = 1
    return {"exit_code": exit_code, "output": output.getvalue()}


def _wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """The application, told what the request's context knows better than its headers."""
    context = environ.get("apig_wsgi.request_context") or {}
    _set_script_name(environ, context)
    if address := _client_ip(context, environ):
        environ["REMOTE_ADDR"] = address
    if not environ.get("HTTP_HOST"):
        environ["HTTP_HOST"] = context.get("domainName") or "localhost"
    environ.setdefault("HTTP_X_AMZN_TRACE_ID", lambda_trace_id())
    return application(environ, start_response)


def _set_script_name(environ: dict[str, Any], context: dict[str, Any]) -> None:
    """Where the stage is part of the address (`/prod`), keep it for links, and out of the path.

    A 2.0 event has it in the path; a 1.0 event has it in the path of the context alone.
    """
    path = environ["PATH_INFO"]
    if environ["apig_wsgi.full_event"].get("version") == "2.0":
        stage = f"/{context.get('stage') or '$default'}"
        if stage == "/$default":
            return
        if path == stage or path.startswith(f"{stage}/"):
            environ["SCRIPT_NAME"], environ["PATH_INFO"] = stage, path[len(stage) :] or "/"
    elif (context.get("path") or "").endswith(path):
        environ["SCRIPT_NAME"] = context["path"].removesuffix(path)


def _client_ip(context: dict[str, Any], environ: dict[str, Any]) -> str | None:
    """The caller's address, as seen by the front and not as told by the caller.

    A load balancer has no field for it: it appends the address to X-Forwarded-For, after whatever
    the caller wrote there.
    """
    seen = context.get("http") or context.get("identity") or {}
    forwarded = environ.get("HTTP_X_FORWARDED_FOR", "").rpartition(",")[2].strip()
    return seen.get("sourceIp") or forwarded or None


def _normalize_event(event: Event) -> Event:
    """The event with what apig-wsgi and Django count on, and the fronts may leave out.

    A path that is not Latin-1, which Django cannot read, gets its percent form.
    """
    field = "rawPath" if event.get("version") == "2.0" else "path"
    path = quote(event[field] or "/", safe="/%:@!$&'()*+,;=~-._")
    whole = {name: value for name, value in event.items() if value is not None}
    if field == "path":
        return {**whole, field: path}
    context = event["requestContext"]
    http = {"protocol": "HTTP/1.1", "sourceIp": "", **context["http"]}
    return {
        "headers": {},
        "rawQueryString": "",
        **whole,
        field: path,
        "requestContext": {**context, "http": http},
    }


def _too_large(body: str) -> bool:
    if len(body) * MAX_BYTES_PER_CHARACTER < MAX_ANSWER_BYTES:
        return False
    return len(json.dumps(body)) > MAX_ANSWER_BYTES


def _failure(detail: str, context: Any) -> dict[str, Any]:
    """A 500 as problem details, for what fails outside Django."""
    problem = {
        "type": "urn:problem:internal_error",
        "title": "Internal error",
        "status": 500,
        "detail": detail,
        "code": "internal_error",
        "request_id": _id(context),
        "errors": [],
    }
    return {
        "statusCode": 500,
        "headers": {"content-type": "application/problem+json", "x-request-id": _id(context)},
        "body": json.dumps(problem),
        "isBase64Encoded": False,
    }


def _id(context: Any) -> str:
    return str(getattr(context, "aws_request_id", ""))


_answer = make_lambda_handler(
    _wsgi, binary_support=True, non_binary_content_type_prefixes=TEXT_TYPES
)


def _warm_up() -> None:
    """Check the configuration, and make what the first request would otherwise wait for."""
    from django.conf import settings
    from django.core.checks import Error, run_checks

    from chat.model_catalog import router
    from chat.storage import backend

    errors = [message for message in run_checks(tags=["chat"]) if message.level >= Error("").level]
    if errors:
        raise SystemExit("\n".join(f"{error.msg} {error.hint}" for error in errors))
    router()
    backend()
    if settings.MASK_PII:
        import chat.masking  # noqa: F401  (its libraries take their time)
    request = {
        "version": "2.0",
        "rawPath": "/v1/health",
        "rawQueryString": "",
        "headers": {"traceparent": UNSAMPLED},
        "requestContext": {
            "stage": "$default",
            "http": {"method": "GET", "sourceIp": "127.0.0.1", "protocol": "HTTP/1.1"},
        },
    }
    _answer(request, None)


_warm_up()
gc.enable()
gc.freeze()
