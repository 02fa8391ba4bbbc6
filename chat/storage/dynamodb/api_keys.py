"""API keys on DynamoDB: items `key#<id>` of the state table, listed in its index."""

from datetime import datetime
from decimal import Decimal
from typing import Any

from django.conf import settings
from pynamodb.attributes import UnicodeAttribute

from chat.storage.base import ApiKey
from chat.storage.columns import api_key_from_columns
from chat.storage.dynamodb.attributes import (
    IntegerAttribute,
    JsonAttribute,
    ParsedAttribute,
    StringAttribute,
    TimestampAttribute,
)
from chat.storage.dynamodb.client import translate_errors, write_if
from chat.storage.dynamodb.items import Item, ItemSchema, state_key
from chat.storage.dynamodb.queries import get_item, get_items, read_pages

LIST = "keys"


class ApiKeyItem(ItemSchema):
    """The columns of `ApiKey`. An attribute `expires_at` would have DynamoDB delete the key."""

    pk = UnicodeAttribute(hash_key=True)
    listed_in = StringAttribute()
    key_id = StringAttribute()
    owner = StringAttribute()
    name = StringAttribute()
    digest = StringAttribute()
    created_at = TimestampAttribute()
    expires_at = TimestampAttribute(attr_name="valid_until")
    revoked_at = TimestampAttribute()
    last_used_at = TimestampAttribute()
    previous_digest = StringAttribute()
    previous_until = TimestampAttribute()
    rate_limit = IntegerAttribute()
    monthly_budget_usd = ParsedAttribute(Decimal)
    user_monthly_budget_usd = ParsedAttribute(Decimal)
    allowed_models = JsonAttribute(list)


class DynamoApiKeyStore:
    """See `ApiKeyStore`. Each write is one conditional call."""

    def add(self, key: ApiKey) -> bool:
        return _put(key, {"ConditionExpression": "attribute_not_exists(pk)"})

    @translate_errors()
    def get(self, key_id: str) -> ApiKey | None:
        item = get_item(settings.STATE_TABLE_NAME, _pk(key_id))
        return None if item is None else api_key_from_columns(ApiKeyItem.from_item(item))

    def replace(self, before: ApiKey, after: ApiKey) -> bool:
        as_read, values = "digest = :digest AND attribute_not_exists(revoked_at)", {}
        if before.revoked_at:
            as_read = "digest = :digest AND revoked_at = :revoked_at"
            values = ApiKeyItem.to_item({"revoked_at": before.revoked_at})
        values |= ApiKeyItem.to_item({"digest": before.digest})
        return _put(after, _condition(as_read, values))

    def touch(self, key_id: str, used_at: datetime) -> None:
        request = {
            "TableName": settings.STATE_TABLE_NAME,
            "Key": _pk(key_id),
            "UpdateExpression": "SET last_used_at = :last_used_at",
            **_condition("attribute_exists(pk)", ApiKeyItem.to_item({"last_used_at": used_at})),
        }
        write_if("UpdateItem", request)

    @translate_errors()
    def all(self) -> list[ApiKey]:
        """Return all keys. The index may miss keys of the last second."""
        request = {
            "TableName": settings.STATE_TABLE_NAME,
            "IndexName": "list-index",
            "KeyConditionExpression": "listed_in = :list",
            "ExpressionAttributeValues": {":list": {"S": LIST}},
            "ProjectionExpression": "pk",
        }
        listed = [item for items in read_pages(request) for item in items]
        found = get_items(settings.STATE_TABLE_NAME, listed)
        keys = [api_key_from_columns(ApiKeyItem.from_item(item)) for item in found]
        return sorted(keys, key=lambda key: (key.created_at, key.key_id))


def _pk(key_id: str) -> Item:
    return state_key(f"key#{key_id}")


def _put(key: ApiKey, condition: dict[str, Any]) -> bool:
    item = {**_pk(key.key_id), **ApiKeyItem.to_item({"listed_in": LIST, **key._asdict()})}
    request = {"TableName": settings.STATE_TABLE_NAME, "Item": item, **condition}
    if write_if("PutItem", request) is not None:
        return True
    # A retry after a lost response fails because our first attempt succeeded.
    found = DynamoApiKeyStore().get(key.key_id)
    return found is not None and (found.digest, found.revoked_at) == (key.digest, key.revoked_at)


def _condition(expression: str, values: Item) -> dict[str, Any]:
    named = {f":{name}": value for name, value in values.items()}
    return {"ConditionExpression": expression, "ExpressionAttributeValues": named}
