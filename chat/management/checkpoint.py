"""The progress of a long command, in a file, so that the same command resumes after any end."""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import msgspec
from django.core.management.base import CommandError

State = TypeVar("State")


class Checkpoint:
    """A JSON file that is replaced atomically: a crash leaves the old state or the new one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self, kind: type[State]) -> State | None:
        """Return the last saved state; None if there is none. Raises CommandError, OSError."""
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=kind)
        except FileNotFoundError:
            return None
        except ValueError as exc:
            raise CommandError(
                f"{self.path} is not a checkpoint of this version; delete it to start over."
            ) from exc

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


@contextmanager
def locked(path: Path) -> Iterator[BinaryIO]:
    """Open the file for this user and this process alone. If it stays empty, remove it."""
    with open(path, "ab+", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        try:
            # The system releases it when the process ends, in whatever way.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                raise FileNotFoundError
        # The other run may have removed or renamed the file since this one opened it.
        except (BlockingIOError, FileNotFoundError):
            raise CommandError(f"Another run of this command is writing {path}.") from None
        try:
            yield file
        finally:
            if not file.tell():
                path.unlink(missing_ok=True)
