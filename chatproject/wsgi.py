"""The WSGI application."""

import contextlib
import os
from collections.abc import Callable, Iterable
from io import BytesIO
from typing import IO, Any

from django.conf import settings
from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "chatproject.settings")
MAX_DRAINED_BYTES = 16 * 1024 * 1024

django_application = get_wsgi_application()


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Django, which reads what Content-Length says, and so nothing of a chunked body.

    The server ends a chunked body where it ends (`wsgi.input_terminated`): it is read here, up to
    one byte more than is accepted, and gets its length.
    """
    body_stream = environ["wsgi.input"]
    if environ.get("wsgi.input_terminated") and environ.get("HTTP_TRANSFER_ENCODING"):
        body = body_stream.read(settings.MAX_BODY_BYTES + 1)
        environ["wsgi.input"] = BytesIO(body)
        environ["CONTENT_LENGTH"] = str(len(body))
    answer = django_application(environ, start_response)
    _drain(body_stream)
    return answer


def _drain(stream: IO[bytes]) -> None:
    """Read what is left of a refused body: unread, it would break the next request's connection."""
    left = MAX_DRAINED_BYTES
    with contextlib.suppress(OSError):  # the client has gone
        while left > 0 and (data := stream.read(65_536)):
            left -= len(data)
