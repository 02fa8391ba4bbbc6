"""What the items of the two tables hold: PynamoDB's attributes, without its models.

Its models bring botocore along, in 80 ms of a cold start; they say how the tables are made
(chat/storage/dynamodb/tables.py), and no request needs them.
"""

from types import SimpleNamespace
from typing import Any

from pynamodb.attributes import AttributeContainer, UnicodeAttribute

from chat.storage.dynamodb.access import client
from chat.storage.dynamodb.attributes import (
    BytesAttribute,
    ExpiryAttribute,
    FlagAttribute,
    IntegerAttribute,
    JsonAttribute,
    MomentAttribute,
    MoneyAttribute,
    StatusAttribute,
    StringAttribute,
    TextAttribute,
)

# An item as DynamoDB writes it: of each attribute its type and its text.
Item = dict[str, dict[str, Any]]


class ItemSchema(AttributeContainer):
    """The attributes of an item, by the names of its columns."""

    @classmethod
    def written(cls, columns: dict[str, Any]) -> Item:
        """The item of these columns; None is not there."""
        attributes = cls.get_attributes()
        return {
            attributes[name].attr_name: {
                attributes[name].attr_type: attributes[name].serialize(value)
            }
            for name, value in columns.items()
            if value is not None
        }

    @classmethod
    def read(cls, item: Item) -> SimpleNamespace:
        """All columns of an item; what is not there is None, and what nobody knows is left out."""
        return SimpleNamespace(
            **{
                name: attribute.deserialize(attribute.get_value(item[attribute.attr_name]))
                if attribute.attr_name in item
                else None
                for name, attribute in cls.get_attributes().items()
            }
        )


class InteractionItem(ItemSchema):
    """The columns of `chat.storage.columns`, and those that `interactions` adds to them."""

    interaction_id = UnicodeAttribute(hash_key=True)
    schema = IntegerAttribute()
    write_id = StringAttribute()
    owner = StringAttribute()
    user_id = StringAttribute()
    owner_user = StringAttribute()
    created_at = MomentAttribute()
    deadline_at = MomentAttribute()
    expires_at = ExpiryAttribute()
    request_id = StringAttribute()
    request_hash = StringAttribute()
    key_id = StringAttribute()
    conversation_id = StringAttribute()
    previous_interaction_id = StringAttribute()
    ancestors = JsonAttribute(list)
    prompt = TextAttribute()
    system = TextAttribute()
    parameters = JsonAttribute(dict)
    metadata = JsonAttribute(dict)
    status = StatusAttribute()
    provider = StringAttribute()
    model = StringAttribute()
    response = TextAttribute()
    response_parts = IntegerAttribute()
    tool_calls = JsonAttribute(list)
    part = BytesAttribute()
    finish_reason = StringAttribute()
    cached = FlagAttribute()
    latency_ms = IntegerAttribute()
    attempts = JsonAttribute(list)
    error_code = StringAttribute()
    error_detail = StringAttribute()
    prompt_tokens = IntegerAttribute()
    completion_tokens = IntegerAttribute()
    total_tokens = IntegerAttribute()
    cached_tokens = IntegerAttribute()
    reasoning_tokens = IntegerAttribute()
    cost_usd = MoneyAttribute()


class CacheItem(ItemSchema):
    """What is no interaction: counters, pickled values, API keys (`api_keys`) and counts of usage
    (`usage`). Its keys say by their prefix which.
    """

    pk = UnicodeAttribute(hash_key=True)
    listed_in = StringAttribute()
    counter = IntegerAttribute()
    value = BytesAttribute()
    expires_at = ExpiryAttribute()


def get_item(table: str, key: Item) -> Item | None:
    """The item of this key as it was last written."""
    answer = client().call("GetItem", {"TableName": table, "Key": key, "ConsistentRead": True})
    found: Item | None = answer.get("Item")
    return found
