#!/usr/bin/env python
"""Django's command-line utility."""

import os
import sys

if __name__ == "__main__":
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
