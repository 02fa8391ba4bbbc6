"""Events as AWS sends them, a builder for each front."""

import base64
import json
from typing import Any

HEADERS = {"host": "abc.example.org", "content-type": "application/json"}


class Context:
    """The context that Lambda passes beside the event."""

    def __init__(self, *, seconds: float = 30.0) -> None:
        self.aws_request_id = "8f507cfc-example"
        self._milliseconds = int(seconds * 1000)

    def get_remaining_time_in_millis(self) -> int:
        return self._milliseconds


def _body(body: Any, encoded: bool) -> dict[str, Any]:
    text = body if isinstance(body, str) else json.dumps(body)
    if encoded:
        return {"body": base64.b64encode(text.encode()).decode(), "isBase64Encoded": True}
    return {"body": text, "isBase64Encoded": False}


def v2(
    *,
    path: str = "/v1/chat",
    method: str = "POST",
    query: str = "",
    body: Any = "",
    headers: dict[str, str] | None = None,
    stage: str = "$default",
    encoded: bool = False,
    domain: str = "abc.execute-api.us-east-1.amazonaws.com",
) -> dict[str, Any]:
    """Return an HTTP API's event, payload 2.0."""
    return {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": query,
        "headers": HEADERS | (headers or {}),
        "cookies": ["a=1", "b=2"],
        "requestContext": {
            "accountId": "123456789012",
            "apiId": "abc",
            "domainName": domain,
            "http": {
                "method": method,
                "path": path,
                "protocol": "HTTP/1.1",
                "sourceIp": "192.0.2.1",
                "userAgent": "test",
            },
            "requestId": "id=",
            "stage": stage,
        },
        **_body(body, encoded),
    }


def function_url(**fields: Any) -> dict[str, Any]:
    """Return a function URL's event: payload 2.0 without a stage."""
    return v2(domain="abc.lambda-url.us-east-1.on.aws", **fields)


def v1(
    *,
    path: str = "/v1/chat",
    method: str = "POST",
    body: Any = "",
    headers: dict[str, str] | None = None,
    stage: str = "prod",
    base_path: str = "",
    encoded: bool = False,
) -> dict[str, Any]:
    """Return a REST API's event, payload 1.0; with `base_path`, that of a custom domain."""
    fields = HEADERS | (headers or {})
    resource = "/" if path == "/" else "/{proxy+}"
    parameters = None if path == "/" else {"proxy": path.removeprefix("/")}
    return {
        "resource": resource,
        "path": base_path + path,
        "pathParameters": parameters,
        "httpMethod": method,
        "headers": fields,
        "multiValueHeaders": {name: [value] for name, value in fields.items()},
        "queryStringParameters": None,
        "multiValueQueryStringParameters": None,
        "requestContext": {
            "path": f"{base_path or f'/{stage}'}{path}",
            "stage": stage,
            "domainName": "abc.execute-api.us-east-1.amazonaws.com",
            "identity": {"sourceIp": "192.0.2.1"},
            "requestId": "id",
        },
        **_body(body, encoded),
    }


def load_balancer(
    *,
    path: str = "/v1/chat",
    method: str = "POST",
    body: Any = "",
    headers: dict[str, str] | None = None,
    encoded: bool = False,
) -> dict[str, Any]:
    """Return an application load balancer's event."""
    return {
        "requestContext": {"elb": {"targetGroupArn": "arn:aws:elasticloadbalancing:example"}},
        "httpMethod": method,
        "path": path,
        "queryStringParameters": {},
        "headers": HEADERS | {"x-forwarded-for": "192.0.2.1"} | (headers or {}),
        **_body(body, encoded),
    }
