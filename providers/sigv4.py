"""Requests to AWS, signed with Signature Version 4, and the credentials that sign them.

botocore's client would add 80 ms of import and 50 ms of set-up to a cold start, and 2 ms to a call.
botocore is asked for credentials only where the environment has none.

Sources: "Create a signed AWS API request" in the IAM User Guide; the Smithy specification for AWS
JSON 1.0 and 1.1.
"""

import functools
import hashlib
import hmac
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx

from providers.deadline import Deadline
from providers.transport import CurlTransport

# Headers that are not signed, because proxies may change them.
_UNSIGNED = frozenset({"expect", "transfer-encoding", "user-agent", "x-amzn-trace-id"})

# DynamoDB answers with up to 16 MB, a third more in base64.
MAX_ANSWER_BYTES = 24 * 1024 * 1024


class Keys(NamedTuple):
    """An access key; a temporary one has a `token`."""

    access_key: str
    secret_key: str
    token: str | None


class Signer:
    """Sign requests to one service, other than S3, in one region.

    `credentials` is called for each request, because some credentials are renewed.
    """

    def __init__(self, service: str, *, region: str, credentials: Callable[[], Keys]) -> None:
        self._scope = f"{region}/{service}/aws4_request"
        self._credentials = credentials

    def sign(
        self,
        method: str,
        url: httpx.URL,
        headers: Mapping[str, str],
        content: bytes,
        *,
        now: datetime | None = None,
    ) -> dict[str, str]:
        """Return the headers, in lower case, with `host` and those that sign the request."""
        credentials = self._credentials()
        moment = (now or datetime.now(UTC)).strftime("%Y%m%dT%H%M%SZ")
        whole = {"host": url.netloc.decode("ascii"), **headers, "x-amz-date": moment}
        if credentials.token:
            whole["x-amz-security-token"] = credentials.token
        signed = [name for name in sorted(whole) if name not in _UNSIGNED]
        names = ";".join(signed)
        fields = "".join(f"{name}:{' '.join(whole[name].split())}\n" for name in signed)
        payload = hashlib.sha256(content).hexdigest()
        canonical = f"{method}\n{_target(url.raw_path)}\n{fields}\n{names}\n{payload}"
        scope = f"{moment[:8]}/{self._scope}"
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        text = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{digest}"
        key = _signing_key(credentials.secret_key, scope)
        signature = hmac.digest(key, text.encode(), "sha256").hex()
        whole["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={credentials.access_key}/{scope}, "
            f"SignedHeaders={names}, Signature={signature}"
        )
        return whole


@functools.lru_cache(maxsize=128)
def _target(raw_path: bytes) -> str:
    """Return the canonical path, which is encoded a second time, and the sorted query."""
    path, _, query = raw_path.decode("ascii").partition("?")
    segments = [segment for segment in path.split("/") if segment]
    path = "/" + "/".join(segments) + ("/" if segments and path.endswith("/") else "")
    pairs = sorted(tuple(pair.partition("=")) for pair in query.split("&")) if query else []
    return quote(path, safe="/~") + "\n" + "&".join(f"{name}={value}" for name, _, value in pairs)


@functools.lru_cache(maxsize=8)
def _signing_key(secret: str, scope: str) -> bytes:
    """Return the key for one day, region and service."""
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


class JsonService:
    """An AWS service that speaks AWS JSON in a `version` (1.0 or 1.1)."""

    def __init__(
        self, signer: Signer, version: str, *, endpoint: str, transport: CurlTransport
    ) -> None:
        self.endpoint = endpoint
        self._url = url = httpx.URL(endpoint)
        # Taken apart once, because each call needs the parts.
        self._origin = f"{url.scheme}://{url.netloc.decode('ascii')}"
        self._path = url.raw_path.decode("ascii")
        self._type = f"application/x-amz-json-{version}"
        self._signer = signer
        self._transport = transport

    def post(
        self, target: str, content: bytes, *, deadline: Deadline, fresh: bool = False
    ) -> tuple[int, bytes]:
        """Call an operation, over a new connection if `fresh`, and return the status and the body.

        Raises httpx.RequestError.
        """
        headers = {"content-type": self._type, "x-amz-target": target}
        signed = self._signer.sign("POST", self._url, headers, content)
        return self._transport.post(
            self._origin,
            self._path,
            {**signed, "accept-encoding": "identity"},
            content,
            deadline=deadline,
            fresh=fresh,
            max_body_bytes=MAX_ANSWER_BYTES,
        )


# The domains of AWS's partitions, by the beginnings of their regions.
_DOMAINS = {
    "cn-": "amazonaws.com.cn",
    "eusc-": "amazonaws.eu",
    "us-iso-": "c2s.ic.gov",
    "us-isob-": "sc2s.sgov.gov",
    "us-isof-": "csp.hci.ic.gov",
    "eu-isoe-": "cloud.adc-e.uk",
}


def endpoint(service: str, region: str) -> str:
    """Return the address of a service in a region."""
    found = (domain for start, domain in _DOMAINS.items() if region.startswith(start))
    return f"https://{service}.{region}.{next(found, 'amazonaws.com')}/"


def credentials(keys: Keys) -> Callable[[], Keys] | None:
    """Return these keys, or else those that botocore finds: of a profile, a container, a machine.

    None if there are none. Raises botocore's BotoCoreError.
    """
    if keys.access_key and keys.secret_key:
        return lambda: keys
    found: Any = _session().get_credentials()
    return found and (lambda: Keys(*found.get_frozen_credentials()[:3]))


def region_of_profile() -> str:
    """Return the region in AWS's configuration file, or "". Raises BotoCoreError."""
    return _session().get_config_variable("region") or ""


def _session() -> Any:
    from botocore.session import Session

    return Session()
