"""Serve the API with gunicorn, the local database up to date."""

import gc
import socket
import sys
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError, connection, connections
from gunicorn import systemd
from gunicorn.app.base import BaseApplication

from chatproject.server.worker import (
    CLIENT_SECONDS,
    Arbiter,
    GunicornLogger,
    Worker,
    assign_slot,
    release_slot,
)

# How long a process may wait at its end for its traces to be sent.
TRACES_SECONDS = 2.0

BANNER = """
Serverless Chat API {version}
  API       {url}
  Docs      {url}/docs
  Provider  {provider}
  Records   {records}
"""
SQLITE_RECORDS = """{path}
  Admin     {url}/admin/ (make an administrator: {python} manage.py createsuperuser)"""
# So many new objects are looked through for garbage at a time. Python's own 700 are those of half a
# request, whose objects go without that: it was a twentieth of the CPU.
GARBAGE = 50_000
DYNAMODB_RECORDS = "DynamoDB, table {table} ({python} manage.py create_tables makes it)"


class Server(BaseApplication):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn, configured by our settings: some processes, and a thread for each request."""

    def __init__(self, banner: str) -> None:
        self.banner = banner
        super().__init__()

    def load_config(self) -> None:
        options = {
            "bind": _address(),
            "workers": settings.WEB_CONCURRENCY,
            "threads": settings.WEB_THREADS,
            "worker_class": Worker,
            "pre_fork": assign_slot,
            "child_exit": release_slot,
            "preload_app": True,
            "keepalive": int(CLIENT_SECONDS),
            # A stop waits for what runs, and that ends by its own deadline.
            "graceful_timeout": int(settings.REQUEST_TIMEOUT_SECONDS) + 5,
            "logger_class": GunicornLogger,
            "control_socket_disable": True,
            "worker_exit": lambda arbiter, worker: _send_traces(),
            "on_starting": _see_that_the_address_is_free,
            "when_ready": lambda arbiter: sys.stdout.write(self.banner) and sys.stdout.flush(),
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def run(self) -> None:
        Arbiter(self).run()

    def load(self) -> Any:
        """The application, with what its first request would make; the processes share it."""
        from django.core.cache import caches

        from chat.model_catalog import router
        from chat.storage import backend
        from chatproject.wsgi import application

        router()
        backend()
        caches.all()  # imports them; each thread makes its own
        gc.collect()
        gc.freeze()  # what is imported stays, and need not be looked through again and again
        gc.set_threshold(GARBAGE)
        return application


class Command(BaseCommand):
    help = "Bring the local database, where it is used, up to date and serve the API with gunicorn."

    def handle(self, *args: Any, **options: Any) -> None:
        if settings.STORAGE == "sqlite":
            _bring_up_to_date()
            connections.close_all()  # no connection may be shared by the processes that are forked
        url = f"http://{_address()}"
        banner = BANNER.format(
            version=settings.VERSION, url=url, provider=_provider(), records=_records(url)
        )
        Server(banner).run()


def _see_that_the_address_is_free(arbiter: Any) -> None:
    """gunicorn tries for five seconds, and does not say which settings it is about."""
    if arbiter.master_pid or systemd.listen_fds(unset_environment=False):
        return  # it inherits the sockets: from the server before it (SIGUSR2), or from systemd
    family = socket.AF_INET6 if ":" in settings.API_HOST else socket.AF_INET
    try:
        with socket.socket(family) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as gunicorn does
            sock.bind((settings.API_HOST, settings.API_PORT))
    except OSError as exc:
        at = f"API_HOST and API_PORT: {_address()}"
        raise CommandError(f"{at} cannot be served at: {exc.strerror}.") from exc


def _bring_up_to_date() -> None:
    try:
        call_command("migrate", interactive=False, verbosity=0)
        with connection.cursor() as cursor:  # migrations that were done before write nothing
            cursor.execute("PRAGMA user_version = 0")  # as it is
    except DatabaseError as exc:
        at = f"DATABASE_PATH: {settings.DATABASE_PATH}"
        raise CommandError(f"{at} cannot be used: {exc}.") from exc


def _send_traces() -> None:
    if settings.TRACING_ENABLED:
        from chat.telemetry.traces import flush

        flush(TRACES_SECONDS)


def _python() -> str:
    """The interpreter as one would type it beside manage.py."""
    executable = Path(sys.executable)
    if executable.is_relative_to(settings.BASE_DIR):
        return str(executable.relative_to(settings.BASE_DIR))
    return executable.name


def _address() -> str:
    host = f"[{settings.API_HOST}]" if ":" in settings.API_HOST else settings.API_HOST
    return f"{host}:{settings.API_PORT}"


def _provider() -> str:
    if settings.LLM_PROVIDER == "mock":
        return "mock (for a real model set OPENROUTER_API_KEY or GEMINI_API_KEY, also in .env)"
    return f"{settings.LLM_PROVIDER}, {settings.PROVIDERS[settings.LLM_PROVIDER]['model']}"


def _records(url: str) -> str:
    if settings.STORAGE == "dynamodb":
        return DYNAMODB_RECORDS.format(table=settings.TABLE_NAME, python=_python())
    return SQLITE_RECORDS.format(path=settings.DATABASE_PATH, url=url, python=_python())
