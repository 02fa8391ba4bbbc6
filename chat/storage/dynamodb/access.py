"""How the modules of the store on DynamoDB reach it."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from chat.errors import StorageUnavailable
from chat.storage.dynamodb.client import TRY_SECONDS, DynamoDBClient
from chat.telemetry.context import add_log_fields
from chatproject import aws

CONDITION_FAILED = "ConditionalCheckFailedException"


@functools.cache
def client() -> DynamoDBClient:
    """The client of all tables, made once. Raises ImproperlyConfigured if there can be none."""
    # Two tries have to fit into the time of a request.
    return new_client(try_seconds=min(TRY_SECONDS, settings.REQUEST_TIMEOUT_SECONDS / 2))


def new_client(**options: float) -> DynamoDBClient:
    """A client of one's own, with its own `try_seconds`."""
    try:
        region = settings.AWS_REGION or aws.region_of_profile()
        credentials = aws.credentials(settings.AWS_KEYS)
    except BotoCoreError as exc:
        raise ImproperlyConfigured(f"DynamoDB cannot be used: {exc}") from exc
    if not region:
        raise ImproperlyConfigured("DynamoDB needs AWS_REGION.")
    if not credentials:
        raise ImproperlyConfigured("DynamoDB needs AWS credentials.")
    endpoint = settings.DYNAMODB_ENDPOINT or aws.endpoint("dynamodb", region)
    service = aws.Service(
        "dynamodb", "1.0", endpoint=endpoint, region=region, credentials=credentials
    )
    return DynamoDBClient(service, **options)


@contextmanager
def translate_errors() -> Iterator[None]:
    """Nothing of DynamoDB's own leaves this package; the log of the request gets the reason."""
    try:
        yield
    except (BotoCoreError, ClientError) as exc:
        add_log_fields(reason=reason_of(exc))
        raise StorageUnavailable from exc


def reason_of(exc: Exception) -> str:
    """DynamoDB's code for a failure, or the name of what kept us from reaching it."""
    code = exc.response["Error"].get("Code") if isinstance(exc, ClientError) else None
    return str(code or type(exc).__name__)


def condition_held(write: Callable[[], Any]) -> bool:
    """Make a conditional write, and tell whether its condition held."""
    with translate_errors():
        try:
            write()
        except ClientError as exc:
            if reason_of(exc) != CONDITION_FAILED:
                raise
            return False
    return True
