"""What is asked of the indexes of DynamoDB."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings

from chat.storage.columns import EPOCH
from chat.storage.dynamodb.items import Item
from chat.storage.dynamodb.records import COLUMNS

EARLIEST = datetime.min.replace(tzinfo=UTC)
LATEST = datetime.max.replace(tzinfo=UTC)
MOMENT = timedelta(microseconds=1)
CREATED = "created_at BETWEEN :since AND :last"


def span(since: datetime | None, before: datetime | None) -> tuple[datetime, datetime]:
    """The first and the last moment of a time: nothing is older than the epoch."""
    last = max(before, EPOCH + MOMENT) - MOMENT if before else LATEST
    return max(since or EPOCH, EPOCH), last


def created(since: datetime | None, before: datetime | None) -> Item:
    """The values of CREATED."""
    first, last = span(since, before)
    return {
        ":since": {"S": COLUMNS["created_at"].serialize(first)},
        ":last": {"S": COLUMNS["created_at"].serialize(last)},
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    name: str
    key: str


USER_INDEX = Index(name="user-index", key="owner_user")
CONVERSATION_INDEX = Index(name="conversation-index", key="conversation_id")


@dataclass(frozen=True, slots=True)
class IndexQuery:
    """What is asked of an index: the entries under a key, in the order of their time."""

    index: Index
    key: str
    newest_first: bool = False
    since: datetime | None = None
    before: datetime | None = None

    @property
    def span(self) -> tuple[datetime, datetime]:
        """The first and the last moment of what is asked for."""
        limited = self.since or self.before
        return span(self.since, self.before) if limited else (EARLIEST, LATEST)

    def query(self) -> dict[str, Any]:
        condition, values = f"{self.index.key} = :key", {":key": {"S": self.key}}
        if self.since or self.before:
            condition += f" AND {CREATED}"
            values |= created(self.since, self.before)
        return {
            "TableName": settings.TABLE_NAME,
            "IndexName": self.index.name,
            "KeyConditionExpression": condition,
            "ExpressionAttributeValues": values,
            "ScanIndexForward": not self.newest_first,
        }
