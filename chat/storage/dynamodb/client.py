"""Call DynamoDB over the shared HTTP transport, with botocore's shapes and exceptions.

Source: DynamoDB's low-level API (AWS JSON 1.0).
"""

import base64
import functools
import random
import time
from collections.abc import Mapping
from contextlib import ContextDecorator
from typing import Any

import httpx
import orjson
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    ReadTimeoutError,
)
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from chat.http_transport import http_transport
from chat.storage.errors import StorageUnavailable
from chat.storage.time_limit import storage_seconds
from chat.telemetry.context import add_log_fields
from providers import sigv4
from providers.deadline import Deadline
from providers.sigv4 import JsonService, Signer

CONDITION_FAILED = "ConditionalCheckFailedException"
# The first try of a call, as DynamoDB mostly answers in milliseconds. Each further one may take
# twice as long as the one before, for a table that is slow.
TRY_SECONDS = 2.0
MIN_TRY_SECONDS = 0.5
# The tries of a call outside of requests.
CALL_SECONDS = 5.0
# Tries of a call whose connection is refused: such a server is down, not slow.
MAX_REFUSED = 3
MAX_PAUSE_SECONDS = 2.0

# Errors after which the same call may succeed, besides every 5xx status.
TRANSIENT = frozenset(
    {
        "InternalServerError",
        "LimitExceededException",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "ThrottlingException",
        "TransactionConflictException",
        "TransactionInProgressException",
    }
)
# The same in the reasons of a cancelled transaction.
THROTTLED = frozenset({"ThrottlingError", "ProvisionedThroughputExceeded"})


class _Retries:
    """The tries of one call within its time: how long each may take, and the pauses between."""

    def __init__(self, try_seconds: float, call_seconds: float) -> None:
        self._try_seconds = try_seconds
        self._end = time.monotonic() + call_seconds
        self._tries = self._refused = 0

    def try_seconds(self) -> float:
        """Return the time of the next try: a longer one each time, but time for two more."""
        longer, remaining = self._try_seconds * 2.0**self._tries, self._remaining()
        return min(max(MIN_TRY_SECONDS, min(longer, remaining / 3)), remaining)

    def pause(self, exc: BotoCoreError | ClientError) -> float | None:
        """Return the seconds until the next try, with full jitter; None if there is none."""
        self._tries += 1
        self._refused += isinstance(exc, EndpointConnectionError | ConnectionClosedError)
        if self._refused == MAX_REFUSED or not _is_transient(exc):
            return None
        longest = min(0.05 * 2**self._tries, MAX_PAUSE_SECONDS)
        pause = random.uniform(0, longest)  # noqa: S311  (no secret)
        return pause if pause < self._remaining() else None

    def _remaining(self) -> float:
        return max(0.0, self._end - time.monotonic())


class DynamoDBClient:
    """The client of the stores, and of PynamoDB.

    A call takes up to `call_seconds` outside of requests, and its first try up to `try_seconds`.
    """

    _request_signer = None  # PynamoDB reads it, to replace a client without credentials

    def __init__(
        self,
        service: JsonService,
        *,
        try_seconds: float = TRY_SECONDS,
        call_seconds: float = CALL_SECONDS,
    ) -> None:
        self._service = service
        self._try_seconds = try_seconds
        self._call_seconds = call_seconds

    def call(self, operation: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Call an operation with botocore's arguments, and return an answer of botocore's shape.

        Transient failures are retried, within the request's deadline. Raises ClientError for an
        error of DynamoDB's, and BotoCoreError if DynamoDB cannot be reached.
        """
        content = orjson.dumps(arguments, default=_base64)
        retries = _Retries(self._try_seconds, storage_seconds(self._call_seconds))
        fresh = False
        while True:
            try:
                return self._call(operation, content, retries.try_seconds(), fresh=fresh)
            except (BotoCoreError, ClientError) as exc:
                pause = retries.pause(exc)
                if pause is None:
                    raise
                fresh = isinstance(exc, BotoCoreError)  # this connection may be dead
            time.sleep(pause)

    _make_api_call = call  # PynamoDB's name for it

    def call_once(self, operation: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Call an operation without retries, for a write that must not be repeated.

        It takes no longer than the first try of a call.
        """
        content = orjson.dumps(arguments, default=_base64)
        retries = _Retries(self._try_seconds, storage_seconds(self._call_seconds))
        return self._call(operation, content, retries.try_seconds(), fresh=False)

    def _call(
        self, operation: str, content: bytes, seconds: float, *, fresh: bool
    ) -> dict[str, Any]:
        status, body = self._exchange(operation, content, seconds, fresh)
        try:
            answer = orjson.loads(body)
        except orjson.JSONDecodeError:
            answer = None
        if not isinstance(answer, dict):
            # A page of a proxy, or half an answer: as transient as a 5xx.
            answer, status = {}, max(status, 500)
        for item in _items(answer):
            _decode(item)
        if status == 200:
            return dict(answer)
        # `__type` is like `com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException`.
        code = str(answer.pop("__type", status)).rpartition("#")[2]
        message = answer.pop("message", answer.pop("Message", ""))
        raise ClientError(
            {
                "Error": {"Code": code, "Message": message},
                "ResponseMetadata": {"HTTPStatusCode": status},
                **answer,
            },
            operation,
        )

    def _exchange(
        self, operation: str, content: bytes, seconds: float, fresh: bool
    ) -> tuple[int, bytes]:
        target, deadline = f"DynamoDB_20120810.{operation}", Deadline(seconds)
        endpoint = self._service.endpoint
        if seconds <= 0:  # a write could succeed after its caller has given up
            raise ConnectTimeoutError(endpoint_url=endpoint)
        try:
            return self._service.post(target, content, deadline=deadline, fresh=fresh)
        except httpx.ConnectTimeout as exc:
            raise ConnectTimeoutError(endpoint_url=endpoint) from exc
        except (httpx.ConnectError, httpx.ProxyError) as exc:
            raise EndpointConnectionError(endpoint_url=endpoint) from exc
        except httpx.TimeoutException as exc:
            raise ReadTimeoutError(endpoint_url=endpoint) from exc
        except httpx.RequestError as exc:
            raise ConnectionClosedError(endpoint_url=endpoint) from exc


@functools.cache
def client() -> DynamoDBClient:
    """Return the shared client. Raises ImproperlyConfigured without a region or credentials."""
    # One for all threads: the transport gives each call a connection of its own.
    return new_client()


def new_client(**options: float) -> DynamoDBClient:
    """Return a new client. Raises ImproperlyConfigured."""
    try:
        region = settings.AWS_REGION or sigv4.region_of_profile()
        credentials = sigv4.credentials(settings.AWS_KEYS)
    except BotoCoreError as exc:
        raise ImproperlyConfigured(f"DynamoDB cannot be used: {exc}") from exc
    if not region:
        raise ImproperlyConfigured("DynamoDB needs AWS_REGION.")
    if not credentials:
        raise ImproperlyConfigured("DynamoDB needs AWS credentials.")
    endpoint = settings.DYNAMODB_ENDPOINT or sigv4.endpoint("dynamodb", region)
    signer = Signer("dynamodb", region=region, credentials=credentials)
    service = JsonService(signer, "1.0", endpoint=endpoint, transport=http_transport())
    return DynamoDBClient(service, **options)


class translate_errors(ContextDecorator):
    """Translate DynamoDB's errors into StorageUnavailable, and log the reason with the request."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, exc: BaseException | None, traceback: object) -> None:
        if isinstance(exc, BotoCoreError | ClientError):
            add_log_fields(reason=reason_of(exc))
            raise StorageUnavailable from exc


def reason_of(exc: Exception) -> str:
    """Return DynamoDB's error code, or the name of the connection error."""
    code = exc.response["Error"].get("Code") if isinstance(exc, ClientError) else None
    return str(code or type(exc).__name__)


def refusals(exc: ClientError) -> list[str]:
    """Return why a transaction was cancelled: the code of each of its actions."""
    response: dict[str, Any] = exc.response
    return [reason.get("Code", "None") for reason in response.get("CancellationReasons", ())]


def write_if(operation: str, request: dict[str, Any]) -> dict[str, Any] | None:
    """Return the answer to a conditional write; None if its condition failed."""
    with translate_errors():
        try:
            return client().call(operation, request)
        except ClientError as exc:
            if reason_of(exc) != CONDITION_FAILED:
                raise
    return None


def _is_transient(exc: BotoCoreError | ClientError) -> bool:
    """Return whether the same call may succeed later."""
    if not isinstance(exc, ClientError):
        return isinstance(exc, ConnectTimeoutError | EndpointConnectionError | HTTPClientError)
    status = exc.response["ResponseMetadata"]["HTTPStatusCode"]
    code = exc.response["Error"]["Code"]
    return status >= 500 or code in TRANSIENT or not THROTTLED.isdisjoint(refusals(exc))


def _base64(value: Any) -> str:
    """Encode bytes for orjson: DynamoDB's JSON has them in base64."""
    if isinstance(value, bytes | bytearray):
        return base64.b64encode(value).decode()
    raise TypeError(type(value).__name__)


def _items(answer: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the items of an answer, or of a cancelled transaction's reasons."""
    found = [answer[name] for name in ("Item", "Attributes") if name in answer]
    found += answer.get("Items", [])
    for of_table in answer.get("Responses", {}).values():
        found += of_table
    reasons = answer.get("CancellationReasons", [])
    return found + [reason["Item"] for reason in reasons if "Item" in reason]


def _decode(item: dict[str, Any]) -> None:
    """Decode an item's binary attributes in place. Only top-level ones: the app nests none."""
    for value in item.values():
        if "B" in value:
            value["B"] = base64.b64decode(value["B"])
