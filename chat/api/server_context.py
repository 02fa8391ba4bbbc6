"""What the HTTP layer knows of its server, read from the WSGI environment."""

import math
from collections.abc import Mapping
from typing import Any

# apig-wsgi puts Lambda's context object here; other servers have no such key.
LAMBDA_CONTEXT = "apig_wsgi.context"


def remaining_seconds(environ: Mapping[str, Any]) -> float:
    """Return the seconds until Lambda stops this invocation; infinity without such a limit."""
    context = environ.get(LAMBDA_CONTEXT)
    return context.get_remaining_time_in_millis() / 1000 if context else math.inf


def can_stream(environ: Mapping[str, Any]) -> bool:
    """Return whether parts of a response leave at once: apig-wsgi sends the body as a whole."""
    return LAMBDA_CONTEXT not in environ
