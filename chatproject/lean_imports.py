"""Import libraries without their optional parts: for a cold start, and for memory."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

# DRF imports these if it finds them.
OPTIONAL = ("django.contrib.postgres", "inflection", "requests", "uritemplate", "yaml")
ADMIN_DOCS = "django.contrib.admindocs.views"


class LateAdminDocs(ModuleType):
    """Stand for a module that imports the admin. DRF's schemas need one function of it."""

    @staticmethod
    def simplify_regex(pattern: str) -> str:
        """Import the real function, for the OpenAPI document."""
        from django.contrib.admindocs.views import simplify_regex

        return simplify_regex(pattern)


@contextmanager
def lean_imports() -> Iterator[None]:
    """Hide what our libraries can do without. Later imports find it, except click.

    httpx and genai-prices's httpx2 import click for their command lines, and rich with it. asyncio
    and http.client, if nothing has loaded them before, stay without TLS; libcurl, requests and
    botocore have it.
    """
    sys.modules.setdefault("click", None)  # type: ignore[arg-type]  # None: not found
    with _hidden({"ssl": None}):  # not from the settings, which may need it
        import_module("asgiref.sync")
        import_module("httpx")
    with _hidden({**dict.fromkeys(OPTIONAL), ADMIN_DOCS: LateAdminDocs(ADMIN_DOCS)}):
        yield


@contextmanager
def _hidden(modules: dict[str, ModuleType | None]) -> Iterator[None]:
    """Put other modules in place of these, unless they are loaded; None is not found."""
    replaced = {name: module for name, module in modules.items() if name not in sys.modules}
    sys.modules.update(replaced)  # type: ignore[arg-type]  # None is allowed
    try:
        yield
    finally:
        for name in replaced:
            del sys.modules[name]


def import_application() -> None:
    """Import all that answers requests, without optional parts: they take 10 MB of a process."""
    with lean_imports():
        import django

        django.setup()
        import_module("chatproject.urls")
