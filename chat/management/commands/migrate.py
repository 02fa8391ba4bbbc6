"""Django's `migrate`, which reports a database file that cannot be used in one sentence."""

from typing import Any

from django.conf import settings
from django.core.management.base import CommandError
from django.core.management.commands import migrate
from django.db import DatabaseError


class Command(migrate.Command):
    def execute(self, *args: Any, **options: Any) -> str | None:
        try:
            return super().execute(*args, **options)
        except DatabaseError as exc:
            at = f"DATABASE_PATH: {settings.DATABASE_PATH}"
            raise CommandError(f"{at} cannot be used: {exc}.") from exc
