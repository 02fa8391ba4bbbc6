"""The module that Django imports for `ENGINE = "chatproject.sqlite"`."""

import contextlib
from pathlib import Path
from typing import Any

from django.db.backends.sqlite3 import base


class DatabaseWrapper(base.DatabaseWrapper):
    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """Connect, and make the file first if there is none: SQLite would let all users read it.

        SQLite gives the -wal and -shm files the same mode. An existing file is not opened here:
        closing it would release the locks of this process's other connections.
        """
        with contextlib.suppress(OSError):  # it exists, or SQLite will report the error
            Path(conn_params["database"]).touch(mode=0o600, exist_ok=False)
        return super().get_new_connection(conn_params)
