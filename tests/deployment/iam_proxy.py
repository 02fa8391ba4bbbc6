"""A proxy that enforces an IAM policy in front of DynamoDB Local and a parameter store.

The permissions of a call follow AWS's service authorization reference: a transaction needs those of
its parts, a batch its own on each table, and a query of an index the permission on the index.
"""

import fnmatch
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from tests.deployment.configuration import ACCOUNT, REGION
from tests.dynamodb_proxy import DynamoDBProxy

Permission = tuple[str, str]  # an action and a resource
Statement = Mapping[str, Sequence[str]]


class IamProxy(DynamoDBProxy):
    """Refuses what the policy does not allow; `used` has the permissions that calls needed."""

    def __init__(
        self, policy: Iterable[Statement], *, dynamodb: str, parameters: Mapping[str, str]
    ) -> None:
        super().__init__(dynamodb)
        self.policy = list(policy)
        self.used: set[Permission] = set()
        self.refused: set[Permission] = set()
        self._parameters = parameters

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
        return self.forward(body, headers)

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
