"""terraform/ agrees with the code."""

import re
from typing import Any

import pytest

from chat.api.base import LAMBDA_SECONDS
from chat.storage.dynamodb.tables import TABLES, InteractionTable, StateTable
from chatproject import env_sources
from chatproject.lambda_handler import COMMANDS
from tests.deployment.configuration import (
    ENVIRONMENTS,
    FOLDER,
    Evaluated,
    blocks,
    default,
    local_values,
    parsed,
)
from tests.test_docs import variables_read

MODELS = {
    "aws_dynamodb_table.interactions": InteractionTable,
    "aws_dynamodb_table.state": StateTable,
}


def tables() -> dict[str, Any]:
    found = blocks("resource").items()
    return {name: body for name, body in found if name.startswith("aws_dynamodb_table.")}


def test_terraform_creates_exactly_the_tables_of_the_models():
    assert set(MODELS.values()) == set(TABLES)
    assert tables().keys() == MODELS.keys()


@pytest.mark.parametrize("address", MODELS)
def test_a_table_is_as_its_model(address: str):
    table, model = tables()[address], MODELS[address]
    schema = model._get_schema()
    assert table["billing_mode"] == model.Meta.billing_mode
    assert {each["name"]: each["type"] for each in table["attribute"]} == {
        each["AttributeName"]: each["AttributeType"] for each in schema["attribute_definitions"]
    }
    assert keys_of(table) == keys(schema["key_schema"])
    assert table["ttl"] == [{"attribute_name": model._ttl_attribute().attr_name, "enabled": True}]
    assert {
        index["name"]: (keys_of(index), index["projection_type"])
        for index in table.get("global_secondary_index", [])
    } == {
        index["index_name"]: (keys(index["key_schema"]), index["projection"]["ProjectionType"])
        for index in schema["global_secondary_indexes"]
    }


def keys(schema: list[dict[str, str]]) -> dict[str, str]:
    return {each["KeyType"]: each["AttributeName"] for each in schema}


def keys_of(block: dict[str, str]) -> dict[str, str]:
    found = {"HASH": block["hash_key"], "RANGE": block.get("range_key")}
    return {kind: name for kind, name in found.items() if name}


def test_the_function_gets_only_variables_that_settings_read():
    variables = Evaluated("dev", list(env_sources.SECRETS)).variables()
    plain = {name for name in variables if not name.endswith("_SSM")}
    assert plain == {"TABLE_NAME", "STATE_TABLE_NAME", "REQUIRE_API_KEY"}
    assert plain <= variables_read()
    assert {name.removesuffix("_SSM") for name in variables.keys() - plain} == set(
        env_sources.SECRETS
    )
    front = local_values()["front_variables"].keys()
    bedrock = set(re.findall(r"(\w+) = ", local_values()["bedrock_variables"]))
    assert {*front, *bedrock} == {
        "LAMBDA_RESPONSE_MODE",
        "REQUEST_TIMEOUT_SECONDS",
        "STREAM_TIMEOUT_SECONDS",
        "BEDROCK_MODEL",
        "ALLOWED_MODELS",
    }
    assert {*front, *bedrock} <= variables_read()


def test_terraform_knows_the_secrets_that_settings_know():
    assert local_values()["secret_names"] == list(env_sources.SECRETS)


def test_terraform_knows_the_commands_that_the_handler_runs():
    assert local_values()["commands"] == sorted(COMMANDS)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_the_file_of_an_environment_fits_the_variables(environment: str):
    values = parsed(f"environments/{environment}.tfvars")
    assert values.keys() <= blocks("variable").keys()
    assert values["environment"] == environment
    assert values.get("settings", {}).keys() <= variables_read() - set(env_sources.SECRETS)
    backend = parsed(f"environments/{environment}.s3.tfbackend")
    assert backend["key"] == f"serverless-chat-api-{environment}.tfstate"
    assert set(values["secrets"]) <= set(env_sources.SECRETS)


def test_prod_can_be_restored_and_not_be_deleted():
    prod = parsed("environments/prod.tfvars")
    assert prod["deletion_protection"] is True
    assert prod["point_in_time_recovery_days"] == 35


def test_optional_variables_have_defaults():
    assert (default("memory_mb"), default("front")) == (512, "rest")
    assert default("architecture") == "arm64"
    assert default("maintenance_command")[0] in COMMANDS


def test_the_deadlines_of_each_front_leave_time_to_settle():
    expression = local_values()["deadline_seconds"]
    assert expression.endswith(f" - {LAMBDA_SECONDS:g}}}"), expression
    fronts = local_values()["fronts"]
    assert {name: front["seconds"] for name, front in fronts.items()} == {
        "rest": 900,
        "url": 900,
        "http": 30,
    }
    # A REST API's idle timeout.
    assert fronts["rest"]["silent_seconds"] < 300


def test_an_access_log_says_how_an_answer_was_passed_on():
    log = blocks("resource")["aws_api_gateway_stage.rest"]["access_log_settings"][0]["format"]
    assert '"$context.integration.responseTransferMode"' in log
    assert "merge(local.access_log, " in log


def test_no_front_answers_preflights_itself():
    api = blocks("resource")["aws_apigatewayv2_api.http"]
    url = blocks("resource")["aws_lambda_function_url.url"]
    assert "cors_configuration" not in api
    assert "cors" not in url


def test_every_variable_and_output_is_described_and_every_variable_checked():
    for name, block in blocks("variable").items():
        assert block["description"], name
        assert "validation" in block or block["type"] == "bool", name
    for name, block in blocks("output").items():
        assert block["description"], name


def test_the_scheduled_event_runs_a_command():
    schedule = blocks("resource")["aws_scheduler_schedule.maintenance"]
    assert schedule["target"][0]["input"] == (
        "${jsonencode({manage = var.maintenance_command, scheduled = true})}"
    )


def test_each_alarm_is_explained_to_operators():
    names = [*local_values()["alarms"], "dynamodb-throttles"]
    text = (FOLDER.parent / "docs" / "operations.md").read_text()
    for name in names:
        assert f"`{name}`" in text, name


def test_no_value_of_a_secret_can_get_into_the_state():
    kinds = {address.partition(".")[0] for address in [*blocks("resource"), *blocks("data")]}
    assert not kinds & {"aws_ssm_parameter", "aws_secretsmanager_secret_version", "random_password"}
