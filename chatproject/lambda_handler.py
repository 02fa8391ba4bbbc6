"""The Lambda handler: HTTP events through apig-wsgi, and management commands.

It answers HTTP APIs and function URLs (payload 2.0), REST APIs (1.0) and load balancers, with whole
answers. Where the front streams, lambda_runtime.py calls the application instead. An event
`{"manage": ["create_tables"]}` runs a management command; with `"scheduled": true`, a failure is an
error of the function. Only a caller that may invoke the function can send one: the HTTP fronts wrap
every request into an event of their own. A schedule's event, which keeps the process warm, is
answered at once.
"""

import gc

gc.disable()  # collecting garbage among imported modules took a sixth of the cold start

import base64
import contextlib
import io
import json
import logging
import os
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any
from urllib.parse import quote, unquote

from chatproject.lean_imports import lean_imports

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "chatproject.settings")

with lean_imports():
    from apig_wsgi import make_lambda_handler
    from django.conf import settings

    from chat.api.server_context import can_stream
    from chat.errors import InternalError, MalformedJson, Problem
    from chatproject.env_sources import lambda_trace_id
    from chatproject.wsgi import application, flush_traces

    import_module("chatproject.urls")

Event = dict[str, Any]

logger = logging.getLogger(__name__)

# Commands that an event may run: they wait for no input, and need no file.
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

# The `source` of events that keep a function warm.
SCHEDULES = ("aws.events", "aws.scheduler", "serverless-plugin-warmup")

# Lambda accepts an answer of 6,291,556 bytes, and ends the process for a larger one. A character
# takes up to twelve bytes in JSON: an emoji is two escapes.
MAX_ANSWER_BYTES = 6_000_000
MAX_BYTES_PER_CHARACTER = 12

# Seconds that an answer may wait for its traces to be sent.
FLUSH_SECONDS = 0.5
# No trace is recorded: https://www.w3.org/TR/trace-context/#traceparent-header
UNSAMPLED = f"00-{1:032x}-{1:016x}-00"

# Characters that stay as they are in a percent-encoded path.
PATH_CHARACTERS = "/%:@!$&'()*+,;=~-._"

TEXT_TYPES = (
    "text/",
    "application/json",
    "application/problem+json",
    "application/vnd.oai.openapi",
)


class CommandFailed(Exception):
    """A scheduled command failed. Lambda runs it again, and counts an error for the alarm."""


def handler(event: Event, context: Any) -> dict[str, Any]:
    """Return the HTTP answer to an event, or the result of a command.

    Errors become a 500. An exception would make Lambda's fronts answer in their own shape. Raises
    CommandFailed for a scheduled command: its answer would be dropped.
    """
    if isinstance(event, dict) and "requestContext" not in event:
        if "manage" in event:
            result = run_command(event["manage"])
            if result["exit_code"] and event.get("scheduled"):
                raise CommandFailed(f"The command ended with exit code {result['exit_code']}.")
            return result
        if event.get("source") in SCHEDULES or event.get("warmup"):
            logger.info("kept warm", extra={"request_id": _id(context)})
            return {"statusCode": 200, "body": "", "isBase64Encoded": False}
    try:
        answer: dict[str, Any] = _answer(normalize_event(event), context)
    except Exception as exc:
        return error_answer(exc, context)
    finally:
        flush_traces(FLUSH_SECONDS)  # the process is frozen until the next event
    if _too_large(answer["body"]):
        return _problem(InternalError("The answer is larger than Lambda's limit."), context)
    return answer


def run_command(arguments: Any) -> dict[str, Any]:
    """Run a management command, and return `{"exit_code", "output"}`.

    `arguments` are the command's name and its arguments. The exit code is 2 if the command may not
    run here. A failure is logged.
    """
    from django.core.management import CommandError, call_command

    output = io.StringIO()
    exit_code, unexpected = 0, None
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            _check_command(arguments)
            call_command(*arguments, stdout=output, stderr=output, no_color=True)
        except CommandError as exc:
            output.write(f"{exc}\n")
            exit_code = exc.returncode
        except SystemExit as exc:
            exit_code = exc.code if isinstance(exc.code, int) else 1
        except Exception as exc:
            output.write(f"{type(exc).__name__}\n")
            exit_code, unexpected = 1, exc
    if exit_code:
        _log_failure(arguments, exit_code, output.getvalue(), unexpected)
    return {"exit_code": exit_code, "output": output.getvalue()}


def _check_command(arguments: Any) -> None:
    """Raise CommandError for what is no command that may run here."""
    from django.core.management import CommandError

    if not isinstance(arguments, list) or not all(isinstance(word, str) for word in arguments):
        sentence = "`manage` must be a list of strings: the command, then its arguments."
        raise CommandError(sentence, returncode=2)
    if not arguments or arguments[0] not in COMMANDS:
        raise CommandError(f"Commands here: {', '.join(sorted(COMMANDS))}.", returncode=2)


def _log_failure(arguments: Any, exit_code: int, output: str, unexpected: Exception | None) -> None:
    """Log a command's name and its last line, where the reason is, with keys masked."""
    from providers.vendor_message import vendor_message

    name = arguments[0] if isinstance(arguments, list) and arguments else None
    reason = vendor_message(output.strip().rpartition("\n")[2])
    fields = {"command": name, "exit_code": exit_code, "output": reason}
    logger.error("a command failed", extra=fields, exc_info=unexpected)


def call_application(
    environ: dict[str, Any], start_response: Callable[..., Any]
) -> Iterable[bytes]:
    """Call the application with values of the request's context, which a client cannot forge.

    The header X-Response-Mode tells the health check of a deployment how it was answered.
    """
    mode = "streaming" if can_stream(environ) else "buffered"

    def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        return start_response(status, [*headers, ("X-Response-Mode", mode)], exc_info)

    context = environ.get("apig_wsgi.request_context") or {}
    _set_script_name(environ, context)
    if address := _client_ip(context, environ):
        environ["REMOTE_ADDR"] = address
    if not environ.get("HTTP_HOST"):
        environ["HTTP_HOST"] = context.get("domainName") or "localhost"
    environ.setdefault("HTTP_X_AMZN_TRACE_ID", lambda_trace_id())
    body = application(environ, start)
    # apig-wsgi would send the body of an answer to HEAD, which servers leave out.
    return _dropped(body) if environ["REQUEST_METHOD"] == "HEAD" else body


def _dropped(body: Any) -> Iterable[bytes]:
    body.close()
    return ()


def _set_script_name(environ: dict[str, Any], context: dict[str, Any]) -> None:
    """Move the prefix of our paths, e.g. `/prod`, to SCRIPT_NAME, where links need it.

    A 2.0 event has the stage in its path. A 1.0 event has the stage in its context's path, and the
    base path of a custom domain in both.
    """
    event, path = environ["apig_wsgi.full_event"], environ["PATH_INFO"]
    if event.get("version") == "2.0":
        stage = f"/{context.get('stage') or '$default'}"
        if stage != "/$default" and (path == stage or path.startswith(f"{stage}/")):
            environ["SCRIPT_NAME"], environ["PATH_INFO"] = stage, path[len(stage) :] or "/"
        return
    environ["PATH_INFO"] = own = _path_of_resource(event, path)
    public = _wsgi_path(context.get("path") or "").rstrip("/")
    if public.endswith(own.rstrip("/")):
        environ["SCRIPT_NAME"] = public.removesuffix(own.rstrip("/"))


def _path_of_resource(event: Event, path: str) -> str:
    """Return the path of a 1.0 event without a base path, from its resource `/` or `/{proxy+}`."""
    if event.get("resource") == "/":
        return "/"
    own = f"/{_wsgi_path((event.get('pathParameters') or {}).get('proxy') or '')}"
    return own if own != "/" and path.endswith(own) else path


def _client_ip(context: dict[str, Any], environ: dict[str, Any]) -> str | None:
    """Return the client's address as the front saw it.

    A load balancer has no field for it. It appends the address to X-Forwarded-For, whose earlier
    entries come from the client.
    """
    seen = context.get("http") or context.get("identity") or {}
    forwarded = environ.get("HTTP_X_FORWARDED_FOR", "").rpartition(",")[2].strip()
    return seen.get("sourceIp") or forwarded or None


def normalize_event(event: Event) -> Event:
    """Add the fields that apig-wsgi and Django need and fronts may omit.

    The path is percent-encoded, as Django cannot read a path beyond Latin-1. Raises MalformedJson
    for a body that cannot be decoded.
    """
    if event.get("isBase64Encoded"):
        _check_base64(event.get("body") or "")
    field = "rawPath" if event.get("version") == "2.0" else "path"
    path = quote(event[field] or "/", safe=PATH_CHARACTERS)
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


def _wsgi_path(path: str) -> str:
    """Return a path as WSGI has it: decoded, its bytes read as Latin-1."""
    return unquote(quote(path, safe=PATH_CHARACTERS), encoding="iso-8859-1")


def _check_base64(body: str) -> None:
    try:
        base64.b64decode(body, validate=True)
    except ValueError as exc:
        raise MalformedJson("The event's body is not valid base64.") from exc


def _too_large(body: str) -> bool:
    if len(body) * MAX_BYTES_PER_CHARACTER < MAX_ANSWER_BYTES:
        return False
    return len(json.dumps(body)) > MAX_ANSWER_BYTES


def error_answer(exc: Exception, context: Any) -> dict[str, Any]:
    """Log why an event could not be answered, and return an error."""
    extra = {"request_id": _id(context)}
    if isinstance(exc, MalformedJson):
        logger.warning("an event's body is not valid base64", extra=extra)
        return _problem(exc, context)
    logger.error("an event could not be answered", extra=extra, exc_info=exc)
    return _problem(InternalError("The request could not be handled."), context)


def _problem(problem: Problem, context: Any) -> dict[str, Any]:
    """Return the answer to an event that did not reach Django, or whose answer cannot be sent."""
    return {
        "statusCode": problem.status,
        "headers": {"content-type": "application/problem+json", "x-request-id": _id(context)},
        "body": json.dumps(problem.body(_id(context))),
        "isBase64Encoded": False,
    }


def _id(context: Any) -> str:
    return str(getattr(context, "aws_request_id", ""))


_answer = make_lambda_handler(
    call_application, binary_support=True, non_binary_content_type_prefixes=TEXT_TYPES
)


def init() -> None:
    """Check the configuration, and load the modules that the first request needs."""
    from django.core.checks import Error, run_checks

    from chat.model_catalog import router
    from chat.storage import backend

    errors = [message for message in run_checks(tags=["chat"]) if message.level >= Error("").level]
    if errors:
        raise SystemExit("\n".join(f"{error.msg} {error.hint}" for error in errors))
    router()
    backend()
    if settings.MASK_PII:
        import chat.masking  # noqa: F401  (its libraries are slow to import)
    health = {
        "version": "2.0",
        "rawPath": "/v1/health",
        "rawQueryString": "",
        "headers": {"traceparent": UNSAMPLED},
        "requestContext": {
            "stage": "$default",
            "http": {"method": "GET", "sourceIp": "127.0.0.1", "protocol": "HTTP/1.1"},
        },
    }
    # A first request through all middleware, before a client waits for one.
    _answer(health, None)
    gc.enable()
    # The collector then passes over the imported modules.
    gc.freeze()


init()
