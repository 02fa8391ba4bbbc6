"""AWS's services that speak JSON, each request signed here (Signature Version 4).

botocore would take 80 ms to be imported and 50 ms for a client, which is a third of a cold start's
budget, and about 2 ms for a call. It is asked for credentials only where the environment has none.

Sources: AWS JSON 1.0 and 1.1 in the Smithy specification, and "Create a signed AWS API request" in
the guide of IAM.
"""

import functools
import hashlib
import hmac
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from providers import connections
from providers.base import Deadline
from providers.connections import Origin


class Credentials(Protocol):
    """What signs; `token` is there for temporary ones."""

    @property
    def access_key(self) -> str: ...
    @property
    def secret_key(self) -> str: ...
    @property
    def token(self) -> str | None: ...


class Service:
    """A service at an `endpoint`. `credentials` are asked for with each request: some are renewed.

    `version` is that of AWS JSON.
    """

    def __init__(
        self,
        name: str,
        version: str,
        *,
        endpoint: str,
        region: str,
        credentials: Callable[[], Credentials],
    ) -> None:
        self.endpoint = endpoint
        address = urlsplit(endpoint)
        secure = address.scheme == "https"
        port = address.port or (443 if secure else 80)
        self._origin = Origin(secure, address.hostname or "", port)
        self._host = address.netloc
        self._path = address.path or "/"
        self._type = f"application/x-amz-json-{version}"
        self._scope = f"{region}/{name}/aws4_request"
        self._credentials = credentials

    def post(
        self, target: str, content: bytes, *, deadline: Deadline, fresh: bool = False
    ) -> tuple[int, bytes]:
        """Status and body of the answer to a request, made on a new connection if `fresh`.

        Raises OSError; of no connection `connections.Unreachable`, and TimeoutError.
        """
        connection = connections.take(self._origin, deadline, fresh=fresh)
        try:
            connection.send(self._request(target, content), deadline)
            status, _ = connection.head()
            return status, b"".join(connection.body())
        finally:
            connection.keep()

    def _request(self, target: str, content: bytes) -> bytes:
        credentials = self._credentials()
        moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        token = {"x-amz-security-token": credentials.token} if credentials.token else {}
        signed = {"host": self._host, "x-amz-date": moment, **token, "x-amz-target": target}
        names = ";".join(signed)
        fields = "".join(f"{name}:{value}\n" for name, value in signed.items())
        payload = hashlib.sha256(content).hexdigest()
        canonical = f"POST\n{self._path}\n\n{fields}\n{names}\n{payload}"
        scope = f"{moment[:8]}/{self._scope}"
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        text = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{digest}"
        key = _signing_key(credentials.secret_key, scope)
        signature = hmac.digest(key, text.encode(), "sha256").hex()
        head = (
            f"POST {self._path} HTTP/1.1\n{fields}"
            f"content-type:{self._type}\ncontent-length:{len(content)}\n"
            f"authorization:AWS4-HMAC-SHA256 Credential={credentials.access_key}/{scope}, "
            f"SignedHeaders={names}, Signature={signature}\n\n"
        )
        return head.replace("\n", "\r\n").encode("ascii") + content


@functools.lru_cache(maxsize=8)
def _signing_key(secret: str, scope: str) -> bytes:
    """It holds for a day, a region and a service."""
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


class Keys(NamedTuple):
    """Credentials as the environment has them."""

    access_key: str
    secret_key: str
    token: str


def endpoint(service: str, region: str) -> str:
    """The address of a service in a region."""
    china = ".cn" if region.startswith("cn-") else ""
    return f"https://{service}.{region}.amazonaws.com{china}/"


def credentials(keys: Keys) -> Callable[[], Credentials] | None:
    """These keys, or else what botocore finds: those of a profile, a container or a machine.

    None if there are none. Raises botocore's BotoCoreError.
    """
    if keys.access_key and keys.secret_key:
        return lambda: keys
    found: Any = _session().get_credentials()
    return None if found is None else found.get_frozen_credentials


def region_of_profile() -> str:
    """The region in AWS's configuration file; empty if it has none. Raises BotoCoreError."""
    return _session().get_config_variable("region") or ""


def _session() -> Any:
    from botocore.session import Session

    return Session()
