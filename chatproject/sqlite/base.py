"""The module that Django imports for `ENGINE = "chatproject.sqlite"`."""

import contextlib
import os
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
        connection = super().get_new_connection(conn_params)
        self._file = self._file_at_path()
        return connection

    def close_if_unusable_or_obsolete(self) -> None:
        """Leave a file that was removed or replaced: what is written into it would be lost.

        Django calls this at the start of each request.
        """
        if self.connection and not self.in_atomic_block and self._file != self._file_at_path():
            self.close()
        super().close_if_unusable_or_obsolete()

    def _file_at_path(self) -> tuple[int, int] | None:
        try:
            status = os.stat(self.settings_dict["NAME"])  # noqa: PTH116  (each request asks; a Path takes thrice as long)
        except OSError:  # it was removed, or is in memory
            return None
        return status.st_dev, status.st_ino
