"""A proxy that enforces an IAM policy in front of DynamoDB Local and a parameter store.

The permissions of a call follow AWS's service authorization reference: a transaction needs those of
its parts, a batch its own on each table, and a query of an index the permission on the index.
"""

import fnmatch
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import unquote

from tests.deployment.configuration import ACCOUNT, REGION

Permission = tuple[str, str]  # an action and a resource
Statement = Mapping[str, Sequence[str]]


class IamProxy:
    """Serves at `url` while its context lasts; `used` has the permissions that calls needed."""

    def __init__(
        self, policy: Iterable[Statement], *, dynamodb: str, parameters: Mapping[str, str]
    ) -> None:
        self.policy = list(policy)
        self.used: set[Permission] = set()
        self.refused: set[Permission] = set()
        self._dynamodb = dynamodb
        self._parameters = parameters
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                status, answer = proxy.answer(self.headers["x-amz-target"], body, self.headers)
                self.send_response(status)
                self.send_header("content-type", "application/x-amz-json-1.0")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, target: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        service, _, operation = target.partition(".")
        permissions = set(required_permissions(service, operation, json.loads(body)))
        assert permissions, target
        self.used |= permissions
        if refused := {each for each in permissions if not self._allowed(each)}:
            self.refused |= refused
            kind = "com.amazon.coral.service#AccessDeniedException"
            return 400, json.dumps({"__type": kind, "message": f"not allowed: {refused}"}).encode()
        if service == "AmazonSSM":
            return 200, self._read_parameters(json.loads(body)["Names"])
        return self._forward(body, headers)

    def _allowed(self, permission: Permission) -> bool:
        action, resource = permission
        return any(
            any(fnmatch.fnmatchcase(action, pattern) for pattern in statement["actions"])
            and any(fnmatch.fnmatchcase(resource, pattern) for pattern in statement["resources"])
            for statement in self.policy
        )

    def _read_parameters(self, names: list[str]) -> bytes:
        found = [
            {"Name": name, "ARN": parameter(name), "Value": self._parameters[name]}
            for name in names
            if name in self._parameters
        ]
        return json.dumps({"Parameters": found, "InvalidParameters": []}).encode()

    def _forward(self, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        names = ("authorization", "content-type", "x-amz-date", "x-amz-target")
        forwarded = {name: headers[name] for name in names}
        try:
            with urllib.request.urlopen(
                urllib.request.Request(self._dynamodb, body, forwarded), timeout=30
            ) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as exc:
            return exc.code, exc.read()


def required_permissions(
    service: str, operation: str, request: dict[str, Any]
) -> Iterable[Permission]:
    """Return the permissions that a call needs."""
    if service == "AmazonSSM":
        return [(f"ssm:{operation}", parameter(name)) for name in request["Names"]]
    if operation == "TransactWriteItems":
        return [
            (f"dynamodb:{verb}" + ("" if verb == "ConditionCheck" else "Item"), table(action))
            for item in request["TransactItems"]
            for verb, action in item.items()
        ]
    if operation.startswith("Batch"):
        names = request["RequestItems"]
        return [(f"dynamodb:{operation}", table({"TableName": name})) for name in names]
    return [(f"dynamodb:{operation}", table(request))]


def bedrock_permission(path: str) -> Permission:
    """Return the permission that a call of a model of Bedrock by its id needs."""
    _, _, model, operation = path.split("/")
    action = {
        "converse": "bedrock:InvokeModel",
        "converse-stream": "bedrock:InvokeModelWithResponseStream",
    }[operation]
    return action, f"arn:aws:bedrock:{REGION}::foundation-model/{unquote(model)}"


def table(request: Mapping[str, Any]) -> str:
    index = f"/index/{request['IndexName']}" if "IndexName" in request else ""
    return f"arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/{request['TableName']}{index}"


def parameter(name: str) -> str:
    return f"arn:aws:ssm:{REGION}:{ACCOUNT}:parameter{name}"
