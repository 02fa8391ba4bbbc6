#!/usr/bin/env python
"""Django's command-line utility."""

import os
import sys


def prepare_streams() -> None:
    """Open closed standard streams on /dev/null; write UTF-8 unless standard output is a terminal.

    A terminal shows characters that it lacks as escapes.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115  (for the process)
    encoding = None if sys.stdout.isatty() else "utf-8"
    sys.stdout.reconfigure(encoding=encoding, errors="backslashreplace")


if __name__ == "__main__":
    prepare_streams()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "chatproject.settings")
    serves = sys.argv[1:2] == ["serve"]
    if serves:
        from chatproject.server.memory import keep_less_for_threads

        keep_less_for_threads(os.environ)
    from django.core.exceptions import ImproperlyConfigured
    from django.core.management import execute_from_command_line

    try:
        if serves:
            from chatproject.lean_imports import import_application

            import_application()
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as exc:
        sys.exit(str(exc))
    except KeyboardInterrupt:  # during the imports
        sys.exit(130)
