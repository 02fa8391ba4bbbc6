"""Keys that are kept in AWS: SSM parameters and Secrets Manager, all of a kind in one request.

The requests are signed here: an SDK client for each service would cost more than half of a cold
start's budget for one call. Protocols: AWS JSON 1.1, `AmazonSSM.GetParameters` and
`secretsmanager.BatchGetSecretValue`.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import tenacity
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import BotoCoreError
from botocore.httpsession import URLLib3Session
from botocore.session import Session
from django.core.exceptions import ImproperlyConfigured

CONNECT_SECONDS, READ_SECONDS = 2, 5


Names = Mapping[str, str]


def read(
    parameters: Names, secrets: Names, *, region: str, endpoints: Mapping[str, str]
) -> dict[str, str]:
    """Values by variable, given what each variable is called in SSM or in Secrets Manager.

    `endpoints` overrides a service's address where it is not empty. Raises ImproperlyConfigured
    with a sentence that names the variable or the service, and never a value.
    """
    found: dict[str, str] = {}
    if parameters:
        body = {"Names": sorted(set(parameters.values())), "WithDecryption": True}
        answer = _call("ssm", "AmazonSSM.GetParameters", body, region, endpoints["ssm"])
        found |= _by_variable(parameters, answer["Parameters"], "Value")
    if secrets:
        body = {"SecretIdList": sorted(set(secrets.values()))}
        target = "secretsmanager.BatchGetSecretValue"
        answer = _call("secretsmanager", target, body, region, endpoints["secretsmanager"])
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
            raise ImproperlyConfigured(f"{variable} is not to be found at {name}.")
    return {variable: values[name] for variable, name in names.items()}


class _Transient(ImproperlyConfigured):
    """Trying again may help: many cold starts at once are throttled."""


@tenacity.retry(
    retry=tenacity.retry_if_exception_type(_Transient),
    stop=tenacity.stop_after_attempt(4),
    wait=tenacity.wait_random_exponential(0.1, 1),
    reraise=True,
)
def _call(service: str, target: str, body: Mapping[str, Any], region: str, endpoint: str) -> Any:
    try:
        credentials = Session().get_credentials()
    except BotoCoreError as exc:
        raise ImproperlyConfigured(f"{service} cannot be used: {exc}") from exc
    if not region or not credentials:
        raise ImproperlyConfigured(f"{service} needs AWS_REGION and credentials.")
    request = AWSRequest(
        "POST",
        endpoint or f"https://{service}.{region}.amazonaws.com/",
        headers={"content-type": "application/x-amz-json-1.1", "x-amz-target": target},
        data=json.dumps(body).encode(),
    )
    SigV4Auth(credentials, service, region).add_auth(request)
    http = URLLib3Session(timeout=(CONNECT_SECONDS, READ_SECONDS))
    try:
        response = http.send(request.prepare())
        content = json.loads(response.content)
    except (BotoCoreError, ValueError) as exc:
        raise _Transient(f"{service} cannot be reached.") from exc
    if response.status_code == 200:
        return content
    kind = str(content.get("__type", "")).rpartition("#")[2]
    throttled = response.status_code >= 500 or "Thrott" in kind or "TooMany" in kind
    problem = _Transient if throttled else ImproperlyConfigured
    raise problem(f"{service} answered {response.status_code} {kind}.")
