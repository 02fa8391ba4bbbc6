"""The WSGI application, for gunicorn and for the Lambda handler."""

import os
from collections.abc import Callable, Iterable
from io import BytesIO
from typing import Any

from django.conf import settings
from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "chatproject.settings")

django_application = get_wsgi_application()


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Call Django, with the length of a chunked body, of which it would read nothing otherwise.

    A server that decodes chunked bodies sets `wsgi.input_terminated`. The body is read up to one
    byte more than MAX_BODY_BYTES, so that Django refuses a longer one.
    """
    if environ.get("wsgi.input_terminated") and environ.get("HTTP_TRANSFER_ENCODING"):
        body = environ["wsgi.input"].read(settings.MAX_BODY_BYTES + 1)
        environ["wsgi.input"] = BytesIO(body)
        environ["CONTENT_LENGTH"] = str(len(body))
    response: Iterable[bytes] = django_application(environ, start_response)
    return response


def flush_traces(seconds: float) -> None:
    """Send the finished traces now, and wait up to `seconds`."""
    if settings.TRACING_ENABLED:
        from chat.telemetry.traces import flush

        flush(seconds)
