"""The Lambda handler on Terraform's tables, under its policy and with its variables."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from botocore.session import Session

from providers.sigv4 import Keys
from tests.deployment.configuration import REGION, Evaluated, blocks
from tests.deployment.iam_proxy import IamProxy, bedrock_permission
from tests.dynamodb_local import variables
from tests.lambda_events import v2
from tests.server_process import ROOT, base_environment
from tests.stub_bedrock import StubBedrock
from tests.stub_vendor import OPENAI_ANSWER, StubVendor

SECRETS = ["SECRET_KEY", "API_KEYS", "OPENAI_API_KEY"]
VALUES = {"SECRET_KEY": "tests", "API_KEYS": "key-1,key-2", "OPENAI_API_KEY": "sk-vendor"}
KEY = {"x-api-key": "key-1"}
QUESTION = {"userId": "user123", "prompt": "Olá!"}

# Answers events as Lambda has them answered. What no event does, a store is told to do: an answer
# in parts is taken over.
RUN = """
import json, os, sys
from dataclasses import replace
from uuid import uuid4
from chatproject.lambda_handler import handler
answers = [handler(event, None) for event in json.loads(sys.stdin.readline())]
if len(sys.argv) > 1:
    from chat.storage import backend
    from chat.storage.base import ErrorInfo, Status
    record = backend().interactions.get(json.loads(answers[0]["body"])["interaction_id"])
    claim = replace(record, interaction_id=str(uuid4()), status=Status.PENDING, response=None)
    assert backend().interactions.claim(claim) is None
    failure = ErrorInfo(code="internal_error", detail="")
    failed = replace(claim, status=Status.ERROR, response=os.urandom(450_000).hex(), error=failure)
    assert backend().interactions.settle(failed)
    assert backend().interactions.take_over(claim, failed)
print(json.dumps(answers))
"""


@pytest.fixture
def deployed(dynamodb_url: str) -> Iterator[Evaluated]:
    """Return an environment whose tables are on DynamoDB Local, created as terraform/ says."""
    environment = Evaluated(f"t{uuid4().hex[:12]}", SECRETS)
    account = variables(dynamodb_url)
    client = Session().create_client(
        "dynamodb",
        region_name=REGION,
        endpoint_url=dynamodb_url,
        aws_access_key_id=account["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=account["AWS_SECRET_ACCESS_KEY"],
    )
    made = []
    for address, table in blocks("resource").items():
        if address.startswith("aws_dynamodb_table."):
            made.append(environment.table(address))
            client.create_table(TableName=made[-1], **creation(table))
            expiry = {"AttributeName": table["ttl"][0]["attribute_name"], "Enabled": True}
            client.update_time_to_live(TableName=made[-1], TimeToLiveSpecification=expiry)
    yield environment
    for name in made:
        client.delete_table(TableName=name)


def creation(table: dict[str, Any]) -> dict[str, Any]:
    """Convert a table of Terraform's to DynamoDB's parameters."""
    indexes = [
        {
            "IndexName": index["name"],
            "KeySchema": key_schema(index),
            "Projection": {"ProjectionType": index["projection_type"]},
        }
        for index in table.get("global_secondary_index", [])
    ]
    return {
        "BillingMode": table["billing_mode"],
        "KeySchema": key_schema(table),
        "AttributeDefinitions": [
            {"AttributeName": each["name"], "AttributeType": each["type"]}
            for each in table["attribute"]
        ],
        **({"GlobalSecondaryIndexes": indexes} if indexes else {}),
    }


def key_schema(block: dict[str, Any]) -> list[dict[str, str]]:
    named = {"HASH": block["hash_key"], "RANGE": block.get("range_key")}
    return [{"AttributeName": name, "KeyType": kind} for kind, name in named.items() if name]


@pytest.fixture
def guard(deployed: Evaluated, dynamodb_url: str) -> Iterator[IamProxy]:
    parameters = {deployed.parameters[name]: value for name, value in VALUES.items()}
    with IamProxy(deployed.policy(), dynamodb=dynamodb_url, parameters=parameters) as guard:
        yield guard


@pytest.fixture
def vendor() -> Iterator[StubVendor]:
    with StubVendor() as vendor:
        yield vendor


def run(
    deployed: Evaluated,
    guard: IamProxy,
    vendor: StubVendor,
    *events: Any,
    more: str = "",
    **settings: str,
) -> list[tuple[int, Any]]:
    """Let the function answer events, and its store run more statements."""
    environment = {
        **base_environment(),
        **variables(guard.url),
        **deployed.variables(),
        "AWS_ENDPOINT_URL": guard.url,
        "AWS_LAMBDA_FUNCTION_NAME": "serverless-chat-api",
        "AWS_REGION": REGION,
        "ENV_FILE": os.devnull,
        "OPENAI_BASE_URL": f"{vendor.url}/v1",
        "OPENAI_MODEL": "model-1",
        **settings,
    }
    ran = subprocess.run(
        [sys.executable, "-c", RUN, *filter(None, [more])],
        input=json.dumps(events),
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=60,
    )
    answers = json.loads(ran.stdout)
    return [
        (answer["exit_code"], answer["output"])
        if "exit_code" in answer
        else (answer["statusCode"], content(answer["body"]))
        for answer in answers
    ]


def content(body: str) -> Any:
    return json.loads(body) if body.startswith("{") else body


def chat(**headers: str) -> dict[str, Any]:
    return v2(body=QUESTION, headers=KEY | headers)


def test_the_policy_allows_what_the_function_does_and_nothing_else(
    deployed: Evaluated, guard: IamProxy, vendor: StubVendor
):
    (first, answer), (second, _), (third, _), (refused, _) = run(
        deployed,
        guard,
        vendor,
        chat(),
        chat(**{"idempotency-key": "key-1"}),
        chat(**{"idempotency-key": "key-1"}),
        v2(body=QUESTION),
        more="the store",
    )
    assert (first, second, third, refused) == (200, 200, 200, 401)
    cached = run(deployed, guard, vendor, chat(), chat(), ENABLE_CACHE="true")
    assert [body["cached"] for _, body in cached] == [False, True]
    path = f"/v1/interactions/{cached[1][1]['interaction_id']}"
    (found, record), (ready, _), (code, output) = run(
        deployed,
        guard,
        vendor,
        v2(method="GET", path=path, headers=KEY),
        v2(method="GET", path="/v1/ready", headers=KEY),
        {"manage": ["create_tables"]},
    )
    assert (found, record["response"], ready) == (200, answer["response"], 200)
    assert (code, output.count("found")) == (0, 2), output
    people(deployed, guard, vendor, record["conversation_id"])
    assert guard.refused == set()
    granted = {
        (action, resource)
        for statement in guard.policy
        for action in statement["actions"]
        for resource in statement["resources"]
    }
    assert guard.used == granted


def people(deployed: Evaluated, guard: IamProxy, vendor: StubVendor, conversation: str) -> None:
    """Return the events of common tasks: history, usage, erasure and keys."""
    interactions = f"/v1/users/{QUESTION['userId']}/interactions"
    read = [f"/v1/conversations/{conversation}", interactions, "/v1/usage"]
    answers = run(
        deployed,
        guard,
        vendor,
        *(v2(method="GET", path=path, headers=KEY) for path in read),
        v2(method="GET", path="/v1/usage", query="group_by=user", headers=KEY),
        v2(method="DELETE", path=interactions, headers=KEY),
        {"manage": ["create_api_key", "laptop", "--owner", "team"]},
        {"manage": ["list_api_keys"]},
        {"manage": ["purge_interactions", "--older-than", "90d", "--yes"]},
    )
    assert [answer[0] for answer in answers] == [200] * 5 + [0] * 3, answers


def test_common_commands_run_under_the_policy(
    deployed: Evaluated, guard: IamProxy, vendor: StubVendor
):
    erase = ["erase_user", QUESTION["userId"]]
    commands = [["doctor"], ["check_providers"], [*erase, "--dry-run"], erase, [*erase, "--yes"]]
    _, *answers = run(deployed, guard, vendor, chat(), *({"manage": each} for each in commands))
    assert [code for code, _ in answers] == [0, 0, 0, 1, 0], answers
    assert "ok       storage" in answers[0][1]
    assert "stand-in-1" in answers[1][1]
    assert "1 records of user user123 of owner default would be erased." in answers[2][1]
    assert "needs --yes" in answers[3][1]
    assert "1 records of user user123 of owner default erased." in answers[4][1]
    assert guard.refused == set()


def test_the_policy_allows_the_calls_of_a_bedrock_model_and_nothing_else(
    deployed: Evaluated, guard: IamProxy, vendor: StubVendor
):
    model = "amazon.nova-lite-v1:0"
    with StubBedrock(keys=Keys("test", "test", ""), region=REGION) as bedrock:
        bedrock.answer([{"text": "Olá."}])
        (plain, answer), (streamed, events), (code, output) = run(
            deployed,
            guard,
            vendor,
            chat(),
            v2(body=QUESTION | {"stream": True}, headers=KEY),
            {"manage": ["doctor"]},
            AWS_ENDPOINT_URL_BEDROCK_RUNTIME=bedrock.url,
            LLM_PROVIDER="bedrock",
            BEDROCK_MODEL=model,
        )
        used = {bedrock_permission(request.path) for request in bedrock.requests}
    assert (plain, answer["response"], streamed) == (200, "Olá.", 200)
    assert "event: done" in events
    assert (code, "ok       vendor bedrock" in output) == (0, True), output
    assert used == {
        (action, resource)
        for statement in deployed.bedrock_policy(model)
        for action in statement["actions"]
        for resource in statement["resources"]
    }


def test_a_conversation_that_is_sent_whole_is_kept_and_erased(
    deployed: Evaluated, guard: IamProxy, vendor: StubVendor
):
    path, user = "/v1/chat/completions", {"role": "user", "content": "Hi."}
    body = {"model": "default", "user": "whole", "messages": [user]}
    ((_, first),) = run(deployed, guard, vendor, v2(path=path, body=body, headers=KEY))
    body["messages"] = [user, first["choices"][0]["message"], user]
    ((_, second),) = run(deployed, guard, vendor, v2(path=path, body=body, headers=KEY))
    (_, record), (_, erased) = run(
        deployed,
        guard,
        vendor,
        v2(method="GET", path=f"/v1/interactions/{second['interaction_id']}", headers=KEY),
        v2(method="DELETE", path="/v1/users/whole/interactions", headers=KEY),
    )
    assert record["previous_interaction_id"] == first["interaction_id"]
    assert len(record["messages"]) == 3
    assert erased == {"deleted": 2}
    assert guard.refused == set()


def test_a_long_answer_is_recorded(deployed: Evaluated, guard: IamProxy, vendor: StubVendor):
    text = os.urandom(450_000).hex()
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    vendor.reply({**OPENAI_ANSWER, "choices": [choice]})
    ((status, answer),) = run(deployed, guard, vendor, chat())
    assert (status, answer["response"], answer.get("recorded")) == (200, text, None)
    assert guard.refused == set()


@pytest.mark.parametrize(
    ("action", "status"), [("dynamodb:PutItem", 503), ("dynamodb:UpdateItem", 503)]
)
def test_without_its_permission_a_call_is_denied(
    deployed: Evaluated, guard: IamProxy, vendor: StubVendor, action: str, status: int
):
    for statement in guard.policy:
        statement["actions"] = [each for each in statement["actions"] if each != action]
    assert [answer[0] for answer in run(deployed, guard, vendor, chat())] == [status]
    assert {refused for refused, _ in guard.refused} == {action}
