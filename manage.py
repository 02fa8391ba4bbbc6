#!/usr/bin/env python
"""Django's command-line utility."""

import os
import sys

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "chatproject.settings")
    serves = sys.argv[1:2] == ["serve"]
    if serves and sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        # glibc reads it only at the start of a program. It makes up to eight arenas for each core,
        # and a cache for each thread, which keep memory that the threads once needed.
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.arena_max=2:glibc.malloc.tcache_count=0"
        os.execv(sys.executable, sys.orig_argv)  # noqa: S606  (no shell is needed)
    from django.core.exceptions import ImproperlyConfigured
    from django.core.management import execute_from_command_line

    try:
        if serves:  # its processes would hold 10 MB of optional imports
            from importlib import import_module

            from chatproject.lean_imports import lean_imports

            with lean_imports():
                import django

                django.setup()
                import_module("chatproject.urls")
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as exc:
        sys.exit(str(exc))
    except KeyboardInterrupt:  # during the imports
        sys.exit(130)
