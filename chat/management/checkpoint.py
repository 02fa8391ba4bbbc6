"""Where long work stands, in a file, so that after any end the same command goes on from there."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Checkpoint:
    """What is saved is there whole, or as it was before, whatever happens meanwhile."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> dict[str, Any] | None:
        """What was saved last; None where there is nothing, or nothing that could be read."""
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
            os.fsync(file.fileno())
        draft.replace(self.path)

    def clear(self) -> None:
        self.path.unlink(missing_ok=True)
