import os
import subprocess
import sys

from tests.server_process import ROOT, base_environment

SERVE = """
import os
import sys

from gunicorn.arbiter import Arbiter

def run(arbiter):
    arbiter.app.wsgi()
    loaded = {name for name, module in sys.modules.items() if module}
    print("loaded", *sorted({"click", "requests", "rest_framework", "yaml"} & loaded))
    print(os.environ.get("GLIBC_TUNABLES"))
    import requests, yaml
    sys.exit()

Arbiter.run = run
sys.argv = ["manage.py", "serve"]
exec(open("manage.py").read())
"""


def test_the_server_loads_no_optional_imports_and_keeps_no_free_blocks_for_each_thread(tmp_path):
    tunables = "glibc.malloc.arena_max=2:glibc.malloc.tcache_count=0"
    done = subprocess.run(
        [sys.executable, "-c", SERVE],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={
            **base_environment(),
            "ENV_FILE": os.devnull,
            "DATABASE_PATH": str(tmp_path / "server.db"),
        },
    )
    assert done.stdout.splitlines() == [
        "loaded rest_framework",
        tunables if sys.platform == "linux" else "None",
    ], done.stderr
