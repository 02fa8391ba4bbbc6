"""The keys on DynamoDB: items `key#<id>` of the table of state, listed in its index."""

from dataclasses import asdict, fields
from datetime import datetime
from typing import Any

from django.conf import settings
from pynamodb.attributes import UnicodeAttribute

from chat.storage.dynamodb_access import client, condition_held, dynamodb_errors
from chat.storage.dynamodb_attributes import Integer, Json, Moment, Money, String
from chat.storage.dynamodb_batches import get_items, query
from chat.storage.dynamodb_items import Attributes, Item, find
from chat.storage.keys import ApiKey

LIST = "keys"


class KeyItem(Attributes):
    """A `chat.storage.keys.ApiKey`. `expires_at` is the table's own: what has it is deleted."""

    pk = UnicodeAttribute(hash_key=True)
    listed_in = String()
    key_id = String()
    owner = String()
    name = String()
    digest = String()
    created_at = Moment()
    expires_at = Moment(attr_name="valid_until")
    revoked_at = Moment()
    last_used_at = Moment()
    previous_digest = String()
    previous_until = Moment()
    rate_limit = Integer()
    monthly_budget_usd = Money()
    allowed_models = Json(list)


COLUMNS = [field.name for field in fields(ApiKey)]


class DynamoKeys:
    """See `KeyStore`. Each write is one call."""

    def add(self, key: ApiKey) -> bool:
        return _put(key, {"ConditionExpression": "attribute_not_exists(pk)"})

    @dynamodb_errors()
    def get(self, key_id: str) -> ApiKey | None:
        item = find(settings.STATE_TABLE_NAME, _pk(key_id))
        return None if item is None else _key(item)

    def replace(self, before: ApiKey, after: ApiKey) -> bool:
        unchanged, values = "digest = :digest AND attribute_not_exists(revoked_at)", {}
        if before.revoked_at:
            unchanged = "digest = :digest AND revoked_at = :revoked_at"
            values = KeyItem.written({"revoked_at": before.revoked_at})
        values |= KeyItem.written({"digest": before.digest})
        return _put(after, _condition(unchanged, values))

    def touch(self, key_id: str, used_at: datetime) -> None:
        request = {
            "TableName": settings.STATE_TABLE_NAME,
            "Key": _pk(key_id),
            "UpdateExpression": "SET last_used_at = :last_used_at",
            **_condition("attribute_exists(pk)", KeyItem.written({"last_used_at": used_at})),
        }
        condition_held(lambda: client().call("UpdateItem", request))

    @dynamodb_errors()
    def all(self) -> list[ApiKey]:
        """Of keys that were made a moment ago the index may not know yet."""
        request = {
            "TableName": settings.STATE_TABLE_NAME,
            "IndexName": "list-index",
            "KeyConditionExpression": "listed_in = :list",
            "ExpressionAttributeValues": {":list": {"S": LIST}},
            "ProjectionExpression": "pk",
        }
        listed = [item for items in query(request) for item in items]
        found = map(_key, get_items(settings.STATE_TABLE_NAME, listed))
        return sorted(found, key=lambda key: (key.created_at, key.key_id))


def _pk(key_id: str) -> Item:
    return {"pk": {"S": f"key#{key_id}"}}


def _put(key: ApiKey, condition: dict[str, Any]) -> bool:
    columns = {**asdict(key), "allowed_models": list(key.allowed_models)}
    item = {**_pk(key.key_id), **KeyItem.written({"listed_in": LIST, **columns})}
    request = {"TableName": settings.STATE_TABLE_NAME, "Item": item, **condition}
    if condition_held(lambda: client().call("PutItem", request)):
        return True
    # Perhaps it was broken by our own first try, whose answer was lost.
    found = DynamoKeys().get(key.key_id)
    return found is not None and (found.digest, found.revoked_at) == (key.digest, key.revoked_at)


def _condition(expression: str, values: Item) -> dict[str, Any]:
    named = {f":{name}": value for name, value in values.items()}
    return {"ConditionExpression": expression, "ExpressionAttributeValues": named}


def _key(item: Item) -> ApiKey:
    row = KeyItem.read(item)
    columns: dict[str, Any] = {name: getattr(row, name) for name in COLUMNS}
    return ApiKey(**{**columns, "allowed_models": tuple(row.allowed_models or ())})
