"""The progress of a long command, in a file, so that the same command resumes after any end."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Checkpoint:
    """A JSON file that is replaced atomically: a crash leaves the old state or the new one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> dict[str, Any] | None:
        """Return the last saved state; None if there is none, or it cannot be parsed."""
        try:
            saved = json.loads(self.path.read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        return saved if isinstance(saved, dict) else None

    def save(self, state: Mapping[str, Any]) -> None:
        draft = self.path.with_name(f"{self.path.name}.new")
        with draft.open("w") as file:
            json.dump(state, file)
            file.flush()
            # Before the rename: after a power failure the name must not lead to an empty file.
            os.fsync(file.fileno())
        draft.replace(self.path)

    def clear(self) -> None:
        self.path.unlink(missing_ok=True)
