"""Read secrets from SSM parameters and Secrets Manager, with one request to each.

Operations: `AmazonSSM.GetParameters` and `secretsmanager.BatchGetSecretValue`, in AWS JSON 1.1.
"""

import functools
import json
from collections.abc import Iterable, Mapping
from typing import Any

import httpx
import tenacity
from botocore.exceptions import BotoCoreError
from django.core.exceptions import ImproperlyConfigured

from providers import sigv4
from providers.deadline import Deadline
from providers.sigv4 import JsonService, Signer
from providers.transport import CurlTransport

CALL_SECONDS = 5.0

Names = Mapping[str, str]


def read(
    parameters: Names,
    secrets: Names,
    *,
    region: str,
    endpoints: Mapping[str, str],
    keys: sigv4.Keys,
    transport: CurlTransport,
) -> dict[str, str]:
    """Return values by variable, given the variables' names in SSM and in Secrets Manager.

    A non-empty entry of `endpoints` replaces a service's address. Raises ImproperlyConfigured,
    which names the variable or the service, and never a value.
    """
    client = functools.partial(
        _client, region=region, endpoints=endpoints, keys=keys, transport=transport
    )
    found: dict[str, str] = {}
    if parameters:
        # Two variables may name the same parameter.
        body = {"Names": sorted(set(parameters.values())), "WithDecryption": True}
        answer = _call(client("ssm"), "ssm", "AmazonSSM.GetParameters", body)
        found |= _by_variable(parameters, answer["Parameters"], "Value")
    if secrets:
        body = {"SecretIdList": sorted(set(secrets.values()))}
        service, target = "secretsmanager", "secretsmanager.BatchGetSecretValue"
        answer = _call(client(service), service, target, body)
        found |= _by_variable(secrets, answer["SecretValues"], "SecretString")
    return found


def _by_variable(names: Names, items: Iterable[Mapping[str, str]], field: str) -> dict[str, str]:
    values = {}
    for item in items:
        version = item.get("Selector", "")  # `name:3`, or a label
        for name in (item["Name"], item["ARN"], item["Name"] + version, item["ARN"] + version):
            values[name] = (item.get(field) or "").strip()
    for variable, name in names.items():
        if not values.get(name):
            raise ImproperlyConfigured(
                f"{variable}: no value at {name}. Check the name, the region and the permissions."
            )
    return {variable: values[name] for variable, name in names.items()}


def _client(
    service: str,
    *,
    region: str,
    endpoints: Mapping[str, str],
    keys: sigv4.Keys,
    transport: CurlTransport,
) -> JsonService:
    try:
        credentials = sigv4.credentials(keys)
    except BotoCoreError as exc:
        raise ImproperlyConfigured(f"{service} cannot be used: {exc}") from exc
    if not region or not credentials:
        raise ImproperlyConfigured(f"{service} needs AWS_REGION and credentials.")
    signer = Signer(service, region=region, credentials=credentials)
    endpoint = endpoints[service] or sigv4.endpoint(service, region)
    return JsonService(signer, "1.1", endpoint=endpoint, transport=transport)


class _Transient(ImproperlyConfigured):
    """A retry may help: many cold starts at once are throttled."""


@tenacity.retry(
    retry=tenacity.retry_if_exception_type(_Transient),
    stop=tenacity.stop_after_attempt(4),
    wait=tenacity.wait_random_exponential(0.1, 1),
    reraise=True,
)
def _call(service: JsonService, name: str, target: str, body: Mapping[str, Any]) -> Any:
    try:
        content, deadline = json.dumps(body).encode(), Deadline(CALL_SECONDS)
        status, answered = service.post(target, content, deadline=deadline)
        answer = json.loads(answered)
    except (httpx.RequestError, ValueError) as exc:
        raise _Transient(f"{name} cannot be reached.") from exc
    if status == 200:
        return answer
    kind = str(answer.get("__type", "")).rpartition("#")[2]
    throttled = status >= 500 or "Thrott" in kind or "TooMany" in kind
    # Parameter Store allows 40 calls a second for an account, fewer than cold starts may come.
    problem = _Transient if throttled else ImproperlyConfigured
    raise problem(f"{name} answered {status} {kind}.")
