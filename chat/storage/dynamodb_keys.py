"""The keys on DynamoDB: items `key#<id>` of the table of state, listed in its index."""

from dataclasses import asdict, fields
from datetime import datetime
from typing import Any

from django.conf import settings
from pynamodb.attributes import UnicodeAttribute
from pynamodb.expressions.condition import Condition

from chat.storage.dynamodb_attributes import Integer, Json, Moment, Money, String
from chat.storage.dynamodb_batches import get_items, query
from chat.storage.dynamodb_tables import Table, condition_held, dynamodb_errors
from chat.storage.keys import ApiKey

LIST = "keys"


class KeyItem(Table):
    """A `chat.storage.keys.ApiKey`. `expires_at` is the table's own: what has it is deleted."""

    class Meta:
        table_name = settings.STATE_TABLE_NAME

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
        return condition_held(lambda: _item(key).save(KeyItem.pk.does_not_exist()))

    @dynamodb_errors()
    def get(self, key_id: str) -> ApiKey | None:
        try:
            return _key(KeyItem.get(_pk(key_id), consistent_read=True))
        except KeyItem.DoesNotExist:
            return None

    def replace(self, before: ApiKey, after: ApiKey) -> bool:
        revoked: Condition = KeyItem.revoked_at == before.revoked_at
        if before.revoked_at is None:
            revoked = KeyItem.revoked_at.does_not_exist()
        unchanged = (KeyItem.digest == before.digest) & revoked
        return condition_held(lambda: _item(after).save(unchanged))

    def touch(self, key_id: str, used_at: datetime) -> None:
        item, used = KeyItem(_pk(key_id)), KeyItem.last_used_at.set(used_at)
        condition_held(lambda: item.update([used], KeyItem.pk.exists()))

    @dynamodb_errors()
    def all(self) -> list[ApiKey]:
        """Of keys that were made a moment ago the index may not know yet."""
        request = {
            "TableName": KeyItem.Meta.table_name,
            "IndexName": "list-index",
            "KeyConditionExpression": "listed_in = :list",
            "ExpressionAttributeValues": {":list": {"S": LIST}},
            "ProjectionExpression": "pk",
        }
        listed = [item for items in query(request) for item in items]
        found = [_key(KeyItem.from_raw_data(i)) for i in get_items(KeyItem.Meta.table_name, listed)]
        return sorted(found, key=lambda key: (key.created_at, key.key_id))


def _pk(key_id: str) -> str:
    return f"key#{key_id}"


def _item(key: ApiKey) -> KeyItem:
    columns = {**asdict(key), "allowed_models": list(key.allowed_models)}
    return KeyItem(_pk(key.key_id), listed_in=LIST, **columns)


def _key(item: KeyItem) -> ApiKey:
    columns: dict[str, Any] = {name: getattr(item, name) for name in COLUMNS}
    return ApiKey(**{**columns, "allowed_models": tuple(item.allowed_models or ())})
