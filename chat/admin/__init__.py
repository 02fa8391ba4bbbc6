"""Django's admin for the local store: interactions, API keys and usage.

Each page must load in a fraction of a second with a million records, so none counts or sorts them
all: see `changelist`. docs/admin.md has the cost of the indexes and the measurements.
"""

from chat.admin import api_keys, interactions

__all__ = ["api_keys", "interactions"]
