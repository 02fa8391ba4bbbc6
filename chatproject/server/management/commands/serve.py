"""Serve the API with gunicorn."""

import gc
import resource
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError, connection, connections
from gunicorn import systemd
from gunicorn.app.base import BaseApplication

from chatproject.server import tuning
from chatproject.server.capacity import Capacity
from chatproject.server.disconnect import with_disconnects
from chatproject.server.logger import GunicornLogger
from chatproject.server.relay import with_relay
from chatproject.server.worker import CLIENT_SECONDS, Arbiter, Worker, drain, with_kernel_timeout

# Seconds that a worker may take to send its traces when it ends.
FLUSH_SECONDS = 2.0
# New objects between two garbage collections. Python's default of 700, half of a request's, took
# a twentieth of the CPU.
GC_THRESHOLD = 50_000
# Seconds after which a busy thread gives others a turn. With Python's default of 0.005 the relay
# waits 5 ms for each step of each of its streams while a long page or an export is made.
SWITCH_SECONDS = 0.0005

# More than 5,000 requests (WEB_THREADS) in a process need, with six files each.
MAX_OPEN_FILES = 65_536
# Files of a waiting chat: the client's socket, the vendor's, a wake-up pipe (2), and libcurl's own.
FILES_PER_REQUEST = 6
# Other files of a process: SQLite's, the log, and idle connections to vendors. With a low limit
# they have a quarter of it.
OTHER_FILES = 64

BANNER = """
Serverless Chat API {version}
  API       {url}
  Docs      {url}/docs
  Provider  {provider}
  Records   {records}
"""
SQLITE_RECORDS = """{path}
  Admin     {url}/admin/ (make an administrator: {python} manage.py createsuperuser)"""
DYNAMODB_RECORDS = "DynamoDB, table {table} ({python} manage.py create_tables makes it)"


class Server(BaseApplication):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn, configured by Django's settings."""

    def __init__(self, banner: str, max_files: int) -> None:
        self.banner = banner
        files = max_files - min(OTHER_FILES, max_files // 4)
        # A quarter of the files is for clients that keep a connection without a request.
        self.requests = min(settings.WEB_THREADS, files * 3 // 4 // FILES_PER_REQUEST)
        self.connections = files - self.requests * (FILES_PER_REQUEST - 1)
        self.capacity = Capacity(self.requests)
        super().__init__()

    def load_config(self) -> None:
        longest = max(settings.REQUEST_TIMEOUT_SECONDS, settings.STREAM_TIMEOUT_SECONDS)
        options = {
            "bind": _address(),
            "workers": settings.WEB_CONCURRENCY,
            "threads": self.requests,
            "worker_connections": self.connections,
            "backlog": self.connections,
            "worker_class": Worker,
            "post_request": self._end_request,
            **tuning.HOOKS,
            # Workers are forked from a loaded process, and share the memory of its modules.
            "preload_app": True,
            "keepalive": int(CLIENT_SECONDS),
            # Running requests end by their own deadline.
            "graceful_timeout": int(longest) + 5,
            "logger_class": GunicornLogger,
            # gunicorn would listen for commands on a Unix socket, which nothing here needs.
            "control_socket_disable": True,
            "worker_exit": lambda arbiter, worker: _flush_traces(),
            "on_starting": _check_address,
            "when_ready": lambda arbiter: sys.stdout.write(self.banner) and sys.stdout.flush(),
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def run(self) -> None:
        Arbiter(self).run()

    def _end_request(self, worker: Worker, request: Any, environ: Any, response: Any) -> None:
        """Free the place of a request, once it no longer needs its thread."""
        try:
            drain(request, response)
        finally:
            self.capacity.release(environ)

    def load(self) -> Any:
        """Load the application and its caches, for the workers to share their memory."""
        from django.core.cache import caches

        from chat.model_catalog import router
        from chat.storage import backend
        from chatproject.wsgi import application

        router()
        backend()
        caches.all()  # imports their modules; each thread makes its own caches
        gc.collect()
        gc.freeze()  # the collector need not look through imported modules
        gc.set_threshold(GC_THRESHOLD)
        sys.setswitchinterval(SWITCH_SECONDS)
        return self.capacity.limit(with_kernel_timeout(with_relay(with_disconnects(application))))


class Command(BaseCommand):
    help = "Migrate the local database, if it is used, and serve the API with gunicorn."

    def handle(self, *args: Any, **options: Any) -> None:
        if settings.STORAGE == "sqlite":
            _migrate()
            connections.close_all()  # forked processes must not share a connection
        url = f"http://{_address()}"
        banner = BANNER.format(
            version=settings.VERSION, url=url, provider=_provider(), records=_records(url)
        )
        Server(banner, raise_file_limit()).run()


def raise_file_limit() -> int:
    """Allow more open files. Return how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):  # macOS has a limit below its hard one
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_OPEN_FILES if soft == resource.RLIM_INFINITY else min(soft, MAX_OPEN_FILES)


def _check_address(arbiter: Any) -> None:
    """Raise CommandError if the address is taken.

    gunicorn retries for five seconds, and its error does not name the settings.
    """
    if arbiter.master_pid or systemd.listen_fds(unset_environment=False):
        return  # the sockets are inherited, from an earlier server (SIGUSR2) or from systemd
    family = socket.AF_INET6 if ":" in settings.API_HOST else socket.AF_INET
    try:
        with socket.socket(family) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as gunicorn does
            sock.bind((settings.API_HOST, settings.API_PORT))
    except OSError as exc:
        at = f"API_HOST and API_PORT: {_address()}"
        raise CommandError(f"{at} cannot be used: {exc.strerror}.") from exc


def _migrate() -> None:
    try:
        call_command("migrate", interactive=False, verbosity=0)
        with connection.cursor() as cursor:
            # Check that the file can be written to: without new migrations nothing was written.
            cursor.execute("PRAGMA user_version = 0")
    except DatabaseError as exc:
        at = f"DATABASE_PATH: {settings.DATABASE_PATH}"
        raise CommandError(f"{at} cannot be used: {exc}.") from exc


def _flush_traces() -> None:
    from chatproject.wsgi import flush_traces  # after `load`: it loads the application

    flush_traces(FLUSH_SECONDS)


def _python() -> str:
    """Return the interpreter as it is typed in the project's folder."""
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
