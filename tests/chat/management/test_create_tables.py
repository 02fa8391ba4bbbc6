"""`manage.py create_tables`, against DynamoDB Local."""

import io
import os
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
from django.core.management import CommandError, call_command
from pytest_django import Settings

from chat.storage.dynamodb.tables import TABLES, InteractionTable, StateTable
from tests.dynamodb_local import botocore_client


@pytest.fixture
def names(dynamodb: str, settings: Settings) -> Iterator[tuple[str, str]]:
    """Names of tables that do not exist yet."""
    settings.STORAGE = "dynamodb"
    names = (f"tests-{uuid4().hex}", f"tests-{uuid4().hex}")
    with pytest.MonkeyPatch.context() as patch:
        for table, name in zip(TABLES, names, strict=True):
            patch.setattr(table.Meta, "table_name", name)
        yield names
        for table in TABLES:
            if table.exists():
                table.delete_table()


def create_tables(*words: str) -> list[str]:
    out = io.StringIO()
    try:
        call_command("create_tables", *words, stdout=out)
    except CommandError as error:
        return [*out.getvalue().splitlines(), str(error)]
    return out.getvalue().splitlines()


def test_missing_tables_are_created_and_then_found(names: tuple[str, str]) -> None:
    assert create_tables() == [f"{name}: created" for name in names]
    assert create_tables() == [f"{name}: found" for name in names]


def test_a_dry_run_makes_nothing(names: tuple[str, str]) -> None:
    looked = [f"{name}: would be created" for name in names]
    assert create_tables("--dry-run") == create_tables("--dry-run") == looked
    create_tables()
    assert create_tables("--dry-run") == [f"{name}: found" for name in names]


def test_the_tables_are_as_the_design_has_them(names: tuple[str, str]) -> None:
    create_tables()
    interactions, state = (
        botocore_client().describe_table(TableName=name)["Table"] for name in names
    )
    assert interactions["KeySchema"] == [{"AttributeName": "interaction_id", "KeyType": "HASH"}]
    assert {
        index["IndexName"]: (
            [key["AttributeName"] for key in index["KeySchema"]],
            index["Projection"],
        )
        for index in interactions["GlobalSecondaryIndexes"]
    } == {
        "user-index": (["owner_user", "created_at"], {"ProjectionType": "KEYS_ONLY"}),
        "conversation-index": (["conversation_id", "created_at"], {"ProjectionType": "KEYS_ONLY"}),
    }
    assert state["KeySchema"] == [{"AttributeName": "pk", "KeyType": "HASH"}]
    for table in (interactions, state):
        assert {each["AttributeType"] for each in table["AttributeDefinitions"]} == {"S"}
        assert table["BillingModeSummary"]["BillingMode"] == "PAY_PER_REQUEST"
        expiry = botocore_client().describe_time_to_live(TableName=table["TableName"])
        assert expiry["TimeToLiveDescription"] == {
            "TimeToLiveStatus": "ENABLED",
            "AttributeName": "expires_at",
        }


def make(
    name: str, key: str, *, indexes: tuple[tuple[str, str, str], ...] = (), **options: Any
) -> None:
    """Create a table with an index for each (name, key, projection)."""
    attributes = {key, "created_at"} if indexes else {key}
    attributes |= {index_key for _, index_key, _ in indexes}
    if indexes:
        options["GlobalSecondaryIndexes"] = [
            {
                "IndexName": index,
                "KeySchema": [
                    {"AttributeName": index_key, "KeyType": "HASH"},
                    {"AttributeName": "created_at", "KeyType": "RANGE"},
                ],
                "Projection": {"ProjectionType": projection},
            }
            for index, index_key, projection in indexes
        ]
    botocore_client().create_table(
        TableName=name,
        KeySchema=[{"AttributeName": key, "KeyType": "HASH"}],
        AttributeDefinitions=[
            {"AttributeName": each, "AttributeType": "S"} for each in sorted(attributes)
        ],
        **{"BillingMode": "PAY_PER_REQUEST", **options},
    )


def test_differences_of_a_table_are_reported(names: tuple[str, str]) -> None:
    interactions, state = names
    make(
        interactions,
        "interaction_id",
        indexes=(("user-index", "user_id", "ALL"), ("my-own-index", "model", "ALL")),
    )
    make(
        state,
        "id",
        BillingMode="PROVISIONED",
        ProvisionedThroughput={"ReadCapacityUnits": 1, "WriteCapacityUnits": 1},
    )
    conversations = "conversation_id (S), created_at (S) with KEYS_ONLY"
    users = "owner_user (S), created_at (S) with KEYS_ONLY"
    assert create_tables() == [
        f"{interactions}: found",
        "  expiry is DISABLED, not ENABLED by expires_at",
        f"  index conversation-index is missing, not {conversations}",
        f"  index user-index is user_id (S), created_at (S) with ALL, not {users}",
        f"{state}: found",
        "  billing is PROVISIONED, not PAY_PER_REQUEST",
        "  key is id (S), not pk (S)",
        "  expiry is DISABLED, not ENABLED by expires_at",
        "  index list-index is missing, not listed_in (S), pk (S) with KEYS_ONLY",
        "Some tables are missing or differ from their definition.",
    ]


def test_existing_tables_are_not_changed(names: tuple[str, str]) -> None:
    make(names[0], "interaction_id")
    before = botocore_client().describe_table(TableName=names[0])["Table"]
    create_tables()
    assert botocore_client().describe_table(TableName=names[0])["Table"] == before


def test_an_unreachable_dynamodb_is_reported(
    dynamodb_at: Callable[[str], None], settings: Settings
) -> None:
    settings.STORAGE = "dynamodb"
    dynamodb_at("http://127.0.0.1:9")
    (sentence,) = create_tables()
    assert sentence.startswith("DynamoDB cannot be used: ")
    assert "http://127.0.0.1:9" in sentence


def test_a_missing_region_is_reported(
    dynamodb_at: Callable[[str], None], settings: Settings
) -> None:
    settings.STORAGE = "dynamodb"
    dynamodb_at("http://127.0.0.1:9")
    settings.AWS_REGION = ""
    del os.environ["AWS_DEFAULT_REGION"]  # `dynamodb_at` has set it
    assert create_tables() == ["DynamoDB needs AWS_REGION."]


def test_tables_need_dynamodb_storage() -> None:
    assert create_tables() == ["Tables are for DynamoDB: set STORAGE=dynamodb."]


def test_the_names_come_from_the_settings(settings: Settings) -> None:
    assert InteractionTable.Meta.table_name == settings.TABLE_NAME
    assert StateTable.Meta.table_name == settings.STATE_TABLE_NAME == f"{settings.TABLE_NAME}-state"


def test_a_run_that_was_interrupted_before_the_expiry_is_finished(names: tuple[str, str]) -> None:
    create_tables()
    for name in names:
        botocore_client().update_time_to_live(
            TableName=name,
            TimeToLiveSpecification={"Enabled": False, "AttributeName": "expires_at"},
        )
    assert create_tables() == [f"{name}: found" for name in names]
