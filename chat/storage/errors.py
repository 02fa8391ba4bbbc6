"""The errors that a storage backend raises; `chat.errors` maps them to HTTP problems.

StorageError
 ├── StorageUnavailable  the storage cannot be reached, or refuses for now
 ├── RecordTooLarge      the storage cannot keep a record of this size
 ├── BudgetSpent         nothing is left of a budget for another request
 └── InvalidCursor       the cursor does not belong to this list

An empty message leaves the wording to `chat.errors`.
"""


class StorageError(Exception):
    """Base of all errors of a storage."""


class StorageUnavailable(StorageError):
    """The storage cannot be reached, or refuses for now. `__cause__` is the database's error."""


class RecordTooLarge(StorageError):
    """The storage cannot keep a record of this size."""


class BudgetSpent(StorageError):
    """A budget is spent, or reserved by requests in flight."""


class InvalidCursor(StorageError):
    """The cursor does not belong to this list."""
