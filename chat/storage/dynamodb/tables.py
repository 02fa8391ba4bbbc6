"""The two tables on DynamoDB, as PynamoDB makes and describes them."""

from typing import cast

from django.conf import settings
from pynamodb.attributes import UnicodeAttribute
from pynamodb.connection import TableConnection
from pynamodb.connection._botocore_private import BotocoreBaseClientPrivate
from pynamodb.constants import PAY_PER_REQUEST_BILLING_MODE
from pynamodb.indexes import GlobalSecondaryIndex, KeysOnlyProjection
from pynamodb.models import Model

from chat.storage.dynamodb.attributes import MomentAttribute
from chat.storage.dynamodb.client import client
from chat.storage.dynamodb.items import CacheItem, InteractionItem


class Table(Model):
    """A table that uses the client of all."""

    @classmethod
    def _get_connection(cls) -> TableConnection:
        table = super()._get_connection()
        table.connection._client = cast(BotocoreBaseClientPrivate, client())
        return table


class UserIndex(GlobalSecondaryIndex["InteractionTable"]):  # type: ignore[no-untyped-call]  # PynamoDB's
    """Who asked, in time. Keys alone: the rest is read, consistently, from the table."""

    class Meta:
        index_name = "user-index"
        projection = KeysOnlyProjection()

    owner_user = UnicodeAttribute(hash_key=True)
    created_at = MomentAttribute(range_key=True)


class ConversationIndex(GlobalSecondaryIndex["InteractionTable"]):  # type: ignore[no-untyped-call]  # PynamoDB's
    """The turns of a conversation, in time."""

    class Meta:
        index_name = "conversation-index"
        projection = KeysOnlyProjection()

    conversation_id = UnicodeAttribute(hash_key=True)
    created_at = MomentAttribute(range_key=True)


class InteractionTable(Table, InteractionItem):
    """One interaction an item, and the parts of an answer that is too long for it."""

    class Meta:
        table_name = settings.TABLE_NAME
        billing_mode = PAY_PER_REQUEST_BILLING_MODE

    user_index = UserIndex()
    conversation_index = ConversationIndex()


class ListIndex(GlobalSecondaryIndex["StateTable"]):  # type: ignore[no-untyped-call]  # PynamoDB's
    """What is listed, by the name of its list. Keys alone, as with the others."""

    class Meta:
        index_name = "list-index"
        projection = KeysOnlyProjection()

    listed_in = UnicodeAttribute(hash_key=True)
    pk = UnicodeAttribute(range_key=True)


class StateTable(Table, CacheItem):
    """All the rest."""

    class Meta:
        table_name = settings.STATE_TABLE_NAME
        billing_mode = PAY_PER_REQUEST_BILLING_MODE

    list_index = ListIndex()


TABLES: tuple[type[Table], ...] = (InteractionTable, StateTable)
