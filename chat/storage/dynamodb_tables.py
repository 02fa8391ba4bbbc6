"""The two tables on DynamoDB, the client that they share, and its failures."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

from botocore.exceptions import BotoCoreError, ClientError
from botocore.session import Session
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from pynamodb.attributes import UnicodeAttribute
from pynamodb.connection import TableConnection
from pynamodb.connection._botocore_private import BotocoreBaseClientPrivate
from pynamodb.constants import PAY_PER_REQUEST_BILLING_MODE
from pynamodb.exceptions import DeleteError, PutError, PynamoDBException, UpdateError
from pynamodb.indexes import GlobalSecondaryIndex, KeysOnlyProjection
from pynamodb.models import Model

from chat import telemetry
from chat.errors import StorageUnavailable
from chat.storage.dynamodb_attributes import (
    Bytes,
    Expiry,
    Flag,
    Integer,
    Json,
    Moment,
    Money,
    StatusName,
    String,
    Text,
)
from chat.storage.dynamodb_client import DynamoDBClient

CONDITION_FAILED = "ConditionalCheckFailedException"


@functools.cache
def client() -> DynamoDBClient:
    """The client of all tables, made once. Raises ImproperlyConfigured if there can be none."""
    return new_client()


def new_client(**options: float) -> DynamoDBClient:
    """A client of one's own, with its own `try_seconds`."""
    session = Session()
    try:
        region = settings.AWS_REGION or session.get_config_variable("region")
        credentials = session.get_credentials()
    except BotoCoreError as exc:
        raise ImproperlyConfigured(f"DynamoDB cannot be used: {exc}") from exc
    if not region:
        raise ImproperlyConfigured("DynamoDB needs AWS_REGION.")
    if not credentials:
        raise ImproperlyConfigured("DynamoDB needs AWS credentials.")
    china = ".cn" if region.startswith("cn-") else ""
    endpoint = settings.DYNAMODB_ENDPOINT or f"https://dynamodb.{region}.amazonaws.com{china}"
    return DynamoDBClient(endpoint=endpoint, region=region, credentials=credentials, **options)


class Table(Model):
    """A table that uses the client of all: PynamoDB would make one for each, in 80 ms."""

    @classmethod
    def _get_connection(cls) -> TableConnection:
        table = super()._get_connection()
        table.connection._client = cast(BotocoreBaseClientPrivate, client())
        return table


class UserIndex(GlobalSecondaryIndex["Interaction"]):  # type: ignore[no-untyped-call]
    """Who asked, in time. Keys alone: the rest is read, consistently, from the table."""

    class Meta:
        index_name = "user-index"
        projection = KeysOnlyProjection()

    owner_user = UnicodeAttribute(hash_key=True)
    created_at = Moment(range_key=True)


class ConversationIndex(GlobalSecondaryIndex["Interaction"]):  # type: ignore[no-untyped-call]
    """The turns of a conversation, in time."""

    class Meta:
        index_name = "conversation-index"
        projection = KeysOnlyProjection()

    conversation_id = UnicodeAttribute(hash_key=True)
    created_at = Moment(range_key=True)


class Interaction(Table):
    """The columns of chat/storage/rows.py, and what chat/storage/dynamodb.py adds to them."""

    class Meta:
        table_name = settings.TABLE_NAME
        billing_mode = PAY_PER_REQUEST_BILLING_MODE

    interaction_id = UnicodeAttribute(hash_key=True)
    schema = Integer()
    write_id = String()
    owner = String()
    user_id = String()
    owner_user = String()
    created_at = Moment()
    deadline_at = Moment()
    expires_at = Expiry()
    request_id = String()
    request_hash = String()
    key_id = String()
    conversation_id = String()
    previous_interaction_id = String()
    ancestors = Json(list)
    prompt = Text()
    system = Text()
    parameters = Json(dict)
    metadata = Json(dict)
    status = StatusName()
    provider = String()
    model = String()
    response = Text()
    response_parts = Integer()
    tool_calls = Json(list)
    part = Bytes()
    finish_reason = String()
    cached = Flag()
    latency_ms = Integer()
    attempts = Json(list)
    error_code = String()
    error_detail = String()
    prompt_tokens = Integer()
    completion_tokens = Integer()
    total_tokens = Integer()
    cached_tokens = Integer()
    reasoning_tokens = Integer()
    cost_usd = Money()

    user_index = UserIndex()
    conversation_index = ConversationIndex()


class ListIndex(GlobalSecondaryIndex["State"]):  # type: ignore[no-untyped-call]
    """What is listed, by the name of its list. Keys alone, as with the others."""

    class Meta:
        index_name = "list-index"
        projection = KeysOnlyProjection()

    listed_in = UnicodeAttribute(hash_key=True)
    pk = UnicodeAttribute(range_key=True)


class State(Table):
    """What is no interaction: counters, pickled values, API keys (chat/storage/dynamodb_keys.py)
    and counts of usage (chat/storage/dynamodb_usage.py). Its keys say by their prefix which.
    """

    class Meta:
        table_name = settings.STATE_TABLE_NAME
        billing_mode = PAY_PER_REQUEST_BILLING_MODE

    pk = UnicodeAttribute(hash_key=True)
    listed_in = String()
    counter = Integer()
    value = Bytes()
    expires_at = Expiry()

    list_index = ListIndex()


TABLES: tuple[type[Table], ...] = (Interaction, State)


@contextmanager
def dynamodb_errors() -> Iterator[None]:
    """Nothing of DynamoDB's own leaves this package; the log of the request gets the reason."""
    try:
        yield
    except (PynamoDBException, BotoCoreError, ClientError) as exc:
        telemetry.annotate(reason=reason_of(exc))
        raise StorageUnavailable from exc


def reason_of(exc: Exception) -> str:
    """DynamoDB's code for a failure, or the name of what kept us from reaching it."""
    cause = getattr(exc, "cause", None) or exc
    code = cause.response["Error"].get("Code") if isinstance(cause, ClientError) else None
    return str(code or type(cause).__name__)


def condition_held(write: Callable[[], Any]) -> bool:
    """Make a conditional write, and tell whether its condition held."""
    with dynamodb_errors():
        try:
            write()
        except (PutError, UpdateError, DeleteError, ClientError) as exc:
            if reason_of(exc) != CONDITION_FAILED:
                raise
            return False
    return True
