#!/usr/bin/env python
"""Django's command-line utility."""

import os
import sys

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "chatproject.settings")
    from django.core.exceptions import ImproperlyConfigured
    from django.core.management import execute_from_command_line

    try:
        if sys.argv[1:2] == ["serve"]:  # its processes would hold 10 MB of optional imports
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
