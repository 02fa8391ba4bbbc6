"""Create the DynamoDB tables, or report how existing ones differ."""

import time
from argparse import ArgumentParser
from collections.abc import Iterable, Mapping
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError

from chat.management.console import ConsoleCommand
from chat.storage.dynamodb.client import client
from chat.storage.dynamodb.tables import TABLE_ERRORS, TABLES, Table

WAIT_SECONDS = 300.0


class Command(ConsoleCommand):
    help = (
        "Create the two DynamoDB tables (TABLE_NAME and STATE_TABLE_NAME), billed on demand, "
        "with their indexes and expiry, and wait until they are active. An existing table is never "
        "changed, except that an interrupted run's missing expiry is added: it is compared, and "
        "the command lists the differences and exits with 1. Additional indexes are ignored. It "
        "can be run any number of times."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="only compare")

    def handle(self, *args: Any, **options: Any) -> None:
        if settings.STORAGE != "dynamodb":
            raise CommandError("Tables are for DynamoDB: set STORAGE=dynamodb.")
        try:
            good = [self._provide(model, dry_run=options["dry_run"]) for model in TABLES]
        except TABLE_ERRORS as exc:
            raise CommandError(f"DynamoDB cannot be used: {exc}") from exc
        if not all(good):
            raise CommandError("Some tables are missing or differ from their definition.")

    def _provide(self, model: type[Table], *, dry_run: bool) -> bool:
        """Create the table if it is missing; return whether it matches its model, or would."""
        name, found = model.Meta.table_name, model.exists()
        if dry_run and not found:
            self.stdout.write(f"{name}: would be created")
            return True
        if not dry_run:
            _complete(model)
        differing = differences(model)
        self.stdout.write(f"{name}: {'found' if found else 'created'}")
        self.stdout.writelines(f"  {difference}\n" for difference in differing.values())
        return not differing


def _complete(model: type[Table]) -> None:
    """Create the missing parts of the table, and wait until it is active."""
    if not model.exists():
        model.create_table(wait=True)
    _wait(model)
    if list(differences(model)) == ["expiry"]:  # an interrupted run created the table without it
        model.update_ttl(ignore_update_ttl_errors=False)


def _wait(model: type[Table]) -> None:
    """Wait until no process is creating or changing the table."""
    end = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < end:
        table = model.describe_table()
        parts = [table["TableStatus"]]
        parts += [index["IndexStatus"] for index in table.get("GlobalSecondaryIndexes", [])]
        if not {"CREATING", "UPDATING"} & set(parts):
            return
        time.sleep(1)


def differences(model: type[Table]) -> dict[str, str]:
    """Return a sentence for each difference between the table and its model."""
    have = _have(model)
    return {
        aspect: f"{aspect} is {have.get(aspect, 'missing')}, not {wanted}"
        for aspect, wanted in _wanted(model).items()
        if have.get(aspect) != wanted
    }


def _wanted(model: type[Table]) -> dict[str, str]:
    schema = model._get_schema()
    types = _types(schema["attribute_definitions"])
    ttl = model._ttl_attribute()  # type: ignore[no-untyped-call]  # PynamoDB has no type
    return {
        "status": "ACTIVE",
        "billing": str(model.Meta.billing_mode),
        "key": _key(schema["key_schema"], types),
        "expiry": f"ENABLED by {ttl.attr_name}",
        **{
            f"index {index['index_name']}": _index(index["key_schema"], index["projection"], types)
            for index in schema["global_secondary_indexes"]
        },
    }


def _have(model: type[Table]) -> dict[str, str]:
    table = model.describe_table()
    types = _types(table["AttributeDefinitions"])
    answer = client().call("DescribeTimeToLive", {"TableName": model.Meta.table_name})
    ttl = answer["TimeToLiveDescription"]
    # Enabling takes up to an hour, and needs nothing more from us.
    state = ttl["TimeToLiveStatus"].replace("ENABLING", "ENABLED")
    return {
        "status": table["TableStatus"],
        "billing": table.get("BillingModeSummary", {}).get("BillingMode", "PROVISIONED"),
        "key": _key(table["KeySchema"], types),
        "expiry": f"{state} by {ttl['AttributeName']}" if "AttributeName" in ttl else state,
        **{
            f"index {index['IndexName']}": _index(index["KeySchema"], index["Projection"], types)
            for index in table.get("GlobalSecondaryIndexes", [])
        },
    }


def _types(definitions: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    return {each["AttributeName"]: each["AttributeType"] for each in definitions}


def _key(schema: Iterable[Mapping[str, Any]], types: Mapping[str, str]) -> str:
    """Return `interaction_id (S)`, or with a sort key `owner_user (S), created_at (S)`."""
    names = [each["AttributeName"] for each in sorted(schema, key=lambda each: each["KeyType"])]
    return ", ".join(f"{name} ({types[name]})" for name in names)


def _index(
    schema: Iterable[Mapping[str, Any]], projection: Mapping[str, Any], types: Mapping[str, str]
) -> str:
    included = ", ".join(sorted(projection.get("NonKeyAttributes", [])))
    return f"{_key(schema, types)} with {projection['ProjectionType']} {included}".rstrip()
