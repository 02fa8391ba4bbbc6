"""What the items of the two tables hold: PynamoDB's attributes, without its models.

Its models bring botocore along, in 80 ms of a cold start; they say how the tables are made
(chat/storage/dynamodb_tables.py), and no request needs them.
"""

from types import SimpleNamespace
from typing import Any

from pynamodb.attributes import AttributeContainer, UnicodeAttribute

from chat.storage.dynamodb_access import client
from chat.storage.dynamodb_attributes import (
    Bytes,
    Expiry,
    Flag,
    Integer,
    Json,
    Moment,
    Money,
    StatusName,
    String,
    Text,
)

# An item as DynamoDB writes it: of each attribute its type and its text.
Item = dict[str, dict[str, Any]]


class Attributes(AttributeContainer):
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


class InteractionItem(Attributes):
    """The columns of chat/storage/rows.py, and what chat/storage/dynamodb.py adds to them."""

    interaction_id = UnicodeAttribute(hash_key=True)
    schema = Integer()
    write_id = String()
    owner = String()
    user_id = String()
    owner_user = String()
    created_at = Moment()
    deadline_at = Moment()
    expires_at = Expiry()
    request_id = String()
    request_hash = String()
    key_id = String()
    conversation_id = String()
    previous_interaction_id = String()
    ancestors = Json(list)
    prompt = Text()
    system = Text()
    parameters = Json(dict)
    metadata = Json(dict)
    status = StatusName()
    provider = String()
    model = String()
    response = Text()
    response_parts = Integer()
    tool_calls = Json(list)
    part = Bytes()
    finish_reason = String()
    cached = Flag()
    latency_ms = Integer()
    attempts = Json(list)
    error_code = String()
    error_detail = String()
    prompt_tokens = Integer()
    completion_tokens = Integer()
    total_tokens = Integer()
    cached_tokens = Integer()
    reasoning_tokens = Integer()
    cost_usd = Money()


class StateItem(Attributes):
    """What is no interaction: counters, pickled values, API keys (chat/storage/dynamodb_keys.py)
    and counts of usage (chat/storage/dynamodb_usage.py). Its keys say by their prefix which.
    """

    pk = UnicodeAttribute(hash_key=True)
    listed_in = String()
    counter = Integer()
    value = Bytes()
    expires_at = Expiry()


def find(table: str, key: Item) -> Item | None:
    """The item of this key as it was last written."""
    answer = client().call("GetItem", {"TableName": table, "Key": key, "ConsistentRead": True})
    found: Item | None = answer.get("Item")
    return found
