"""Django's admin on the local store: the ledger, the keys, and what was used.

Every page is to come in a fraction of a second with a million records. So nothing counts or sorts
them all: see `lists`. What the pages cost the requests that write, and why, is in docs/admin.md.
"""

from chat.admin import interactions, keys

__all__ = ["interactions", "keys"]
