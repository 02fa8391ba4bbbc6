"""PynamoDB's models of the two tables, to create and describe them."""

from botocore.exceptions import BotoCoreError, ClientError
from django.conf import settings
from pynamodb.attributes import UnicodeAttribute
from pynamodb.connection import TableConnection
from pynamodb.constants import PAY_PER_REQUEST_BILLING_MODE
from pynamodb.exceptions import PynamoDBException
from pynamodb.indexes import GlobalSecondaryIndex, KeysOnlyProjection
from pynamodb.models import Model

from chat.storage.dynamodb.attributes import TimestampAttribute
from chat.storage.dynamodb.client import client
from chat.storage.dynamodb.items import CacheItem, InteractionItem


class Table(Model):
    """A table on the shared client."""

    @classmethod
    def _get_connection(cls) -> TableConnection:
        table = super()._get_connection()
        table.connection._client = client()  # type: ignore[assignment]  # all that PynamoDB needs
        return table


class UserIndex(GlobalSecondaryIndex["InteractionTable"]):
    """Interactions by user and time. Keys only: records are read consistently from the table."""

    class Meta:
        index_name = "user-index"
        projection = KeysOnlyProjection()

    owner_user = UnicodeAttribute(hash_key=True)
    created_at = TimestampAttribute(range_key=True)


class ConversationIndex(GlobalSecondaryIndex["InteractionTable"]):
    """Interactions by conversation and time. Keys only."""

    class Meta:
        index_name = "conversation-index"
        projection = KeysOnlyProjection()

    conversation_id = UnicodeAttribute(hash_key=True)
    created_at = TimestampAttribute(range_key=True)


class InteractionTable(Table, InteractionItem):
    """Interactions, and parts of answers that are too long for an item."""

    class Meta:
        table_name = settings.TABLE_NAME
        billing_mode = PAY_PER_REQUEST_BILLING_MODE

    user_index = UserIndex()
    conversation_index = ConversationIndex()


class ListIndex(GlobalSecondaryIndex["StateTable"]):
    """State items by the list that they are in: API keys, usage counters. Keys only."""

    class Meta:
        index_name = "list-index"
        projection = KeysOnlyProjection()

    listed_in = UnicodeAttribute(hash_key=True)
    pk = UnicodeAttribute(range_key=True)


class StateTable(Table, CacheItem):
    """API keys, usage counters, rate counters and cached answers."""

    class Meta:
        table_name = settings.STATE_TABLE_NAME
        billing_mode = PAY_PER_REQUEST_BILLING_MODE

    list_index = ListIndex()


# The exceptions that their methods raise.
TABLE_ERRORS = (PynamoDBException, BotoCoreError, ClientError)
TABLES: tuple[type[Table], ...] = (InteractionTable, StateTable)
