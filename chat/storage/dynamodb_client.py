"""A client of DynamoDB for the few calls of a request: JSON over kept sockets, signed here.

botocore's own client takes about 2 ms of CPU for a call, most of it to decide anew what never
changes here, and 50 ms to be made. This one does what PynamoDB asks of a client and no more; the
credentials are botocore's, the errors are too.

Sources: DynamoDB's low-level API (AWS JSON 1.0), and AWS Signature Version 4.
"""

import base64
import functools
import hashlib
import hmac
import io
import random
import socket
import threading
import time
import weakref
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import orjson
from botocore.credentials import Credentials
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    EndpointConnectionError,
    HTTPClientError,
    ReadTimeoutError,
)

from providers.http import ssl_context

# DynamoDB answers in milliseconds. Two tries end in time for a settle before Lambda's own end.
TRY_SECONDS = 1.2
MAX_PAUSE_SECONDS = 0.1

# What DynamoDB says when the same call may succeed a moment later, beside every status of 500 on.
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


class DynamoDBClient:
    """`endpoint` is an address; `credentials` may refresh themselves; a try has `try_seconds`."""

    _request_signer = None  # PynamoDB looks there for a client that has lost its credentials

    def __init__(
        self,
        *,
        endpoint: str,
        region: str,
        credentials: Credentials,
        try_seconds: float = TRY_SECONDS,
    ) -> None:
        address = urlsplit(endpoint)
        self.endpoint = endpoint
        self._secure = address.scheme == "https"
        self._host = address.netloc
        self._address = (address.hostname or "", address.port or (443 if self._secure else 80))
        self._path = address.path or "/"
        self._region = region
        self._credentials = credentials
        self._try_seconds = try_seconds
        self._thread = threading.local()

    def call(self, operation: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Call an operation of DynamoDB; arguments and answer have the shapes that botocore's have.

        A transient failure is tried again once. Raises ClientError for what DynamoDB refuses, and
        another BotoCoreError where it cannot be reached.
        """
        content = orjson.dumps(arguments, default=_base64)
        try:
            return self._call(operation, content)
        except (EndpointConnectionError, HTTPClientError):
            pass  # most often a kept socket that the other side had closed meanwhile
        except ClientError as exc:
            if not _is_transient(exc):
                raise
            time.sleep(random.uniform(0, MAX_PAUSE_SECONDS))  # noqa: S311  (no secret)
        return self._call(operation, content)

    _make_api_call = call  # PynamoDB's name for it

    def _call(self, operation: str, content: bytes) -> dict[str, Any]:
        headers = self._signed(f"DynamoDB_20120810.{operation}", content)
        status, body = self._exchange(content, headers)
        try:
            answer = orjson.loads(body)
        except orjson.JSONDecodeError:
            answer = None
        if not isinstance(answer, dict):
            answer, status = {}, max(status, 500)
        for item in _items(answer):
            _decode(item)
        if status == 200:
            return dict(answer)
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

    def _exchange(self, content: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        """Send a request on this thread's socket, which is kept only after a whole answer.

        http.client would send two packets for it, and parse the answer's head as an e-mail's.
        """
        end = time.monotonic() + self._try_seconds
        kept: _Kept | None = getattr(self._thread, "kept", None)
        sock = (kept and kept.take()) or self._connected()
        lines = [f"POST {self._path} HTTP/1.1", *(f"{k}: {v}" for k, v in headers.items())]
        head = "\r\n".join([*lines, f"content-length: {len(content)}", "", ""])
        sock.settimeout(self._try_seconds)
        try:
            sock.sendall(head.encode("latin-1") + content)
            status, keep, body = _read(sock, end)
        except TimeoutError as exc:
            sock.close()
            raise ReadTimeoutError(endpoint_url=self.endpoint) from exc
        except (OSError, LookupError, ValueError) as exc:
            sock.close()
            raise ConnectionClosedError(endpoint_url=self.endpoint) from exc
        if keep:
            self._thread.kept = _Kept(sock)
        else:
            sock.close()
        return status, body

    def _connected(self) -> socket.socket:
        try:
            sock = socket.create_connection(self._address, timeout=self._try_seconds)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._secure:
                sock = ssl_context().wrap_socket(sock, server_hostname=self._address[0])
        except OSError as exc:
            raise EndpointConnectionError(endpoint_url=self.endpoint) from exc
        return sock

    def _signed(self, target: str, content: bytes) -> dict[str, str]:
        """The headers of a request, its signature among them."""
        credentials = self._credentials.get_frozen_credentials()
        moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        token = {"x-amz-security-token": credentials.token} if credentials.token else {}
        signed = {"host": self._host, "x-amz-date": moment, **token, "x-amz-target": target}
        names = ";".join(signed)
        fields = "".join(f"{name}:{value}\n" for name, value in signed.items())
        payload = hashlib.sha256(content).hexdigest()
        canonical = f"POST\n{self._path}\n\n{fields}\n{names}\n{payload}"
        scope = f"{moment[:8]}/{self._region}/dynamodb/aws4_request"
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        key = _signing_key(credentials.secret_key, scope)
        text = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{digest}"
        signature = hmac.digest(key, text.encode(), "sha256").hex()
        return signed | {
            "content-type": "application/x-amz-json-1.0",
            "authorization": (
                f"AWS4-HMAC-SHA256 Credential={credentials.access_key}/{scope}, "
                f"SignedHeaders={names}, Signature={signature}"
            ),
        }


@functools.lru_cache(maxsize=4)
def _signing_key(secret: str, scope: str) -> bytes:
    """It holds for a day, a region and a service."""
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


class _Timed(io.RawIOBase):
    """What a socket receives until a moment: its own timeout would start anew with each packet."""

    def __init__(self, sock: socket.socket, end: float) -> None:
        self._sock = sock
        self._end = end

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._sock.settimeout(left)
        return self._sock.recv_into(buffer)


def _read(sock: socket.socket, end: float) -> tuple[int, bool, bytes]:
    """An answer's status, whether its connection is kept, and its body (RFC 9112).

    Raises TimeoutError at the end of its time, and ValueError for what is no answer, or for one
    that breaks off.
    """
    with io.BufferedReader(_Timed(sock, end)) as stream:
        version, status = stream.readline().split()[:2]
        headers = {}
        while line := stream.readline().strip():
            name, _, value = line.lower().partition(b":")
            headers[name] = value.strip()
        if headers.get(b"transfer-encoding") == b"chunked":
            body = _chunks(stream)
        else:
            body = _exactly(stream, int(headers[b"content-length"]))
    keep = version == b"HTTP/1.1" and headers.get(b"connection") != b"close"
    return int(status), keep, body


def _chunks(stream: BinaryIO) -> bytes:
    chunks = []
    while size := int(stream.readline(), 16):
        chunks.append(_exactly(stream, size))
        stream.readline()
    stream.readline()
    return b"".join(chunks)


def _exactly(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise ValueError("the answer broke off")
    return data


class _Kept:
    """A socket between two calls; whoever lets go of it, a thread that ends too, closes it."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._closing = weakref.finalize(self, sock.close)

    def take(self) -> socket.socket | None:
        """The socket, once."""
        return self._sock if self._closing.detach() else None


def _is_transient(exc: ClientError) -> bool:
    status = exc.response["ResponseMetadata"]["HTTPStatusCode"]
    return status >= 500 or exc.response["Error"]["Code"] in TRANSIENT


def _base64(value: Any) -> str:
    """Bytes, which DynamoDB takes and gives in base64."""
    if isinstance(value, bytes | bytearray):
        return base64.b64encode(value).decode()
    raise TypeError(type(value).__name__)


def _items(answer: dict[str, Any]) -> list[dict[str, Any]]:
    """The items in an answer, or in the reasons of a refusal."""
    found = [answer[name] for name in ("Item", "Attributes") if name in answer]
    found += answer.get("Items", [])
    for of_table in answer.get("Responses", {}).values():
        found += of_table
    reasons = answer.get("CancellationReasons", [])
    return found + [reason["Item"] for reason in reasons if "Item" in reason]


def _decode(item: dict[str, Any]) -> None:
    """Make bytes of the binary attributes of an item; ours are none but its own."""
    for value in item.values():
        if "B" in value:
            value["B"] = base64.b64decode(value["B"])
