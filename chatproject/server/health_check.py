"""Ask the server on this machine for its health, for Docker. Imports no Django: it runs often."""

import os
import urllib.request

port = os.environ.get("API_PORT") or os.environ.get("PORT") or "8000"
# The server refuses hosts that ALLOWED_HOSTS does not name.
host = os.environ.get("ALLOWED_HOSTS", "").split(",")[0].strip().lstrip("*.") or "localhost"
request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/health", headers={"Host": host})
without_proxy = urllib.request.build_opener(urllib.request.ProxyHandler({}))
without_proxy.open(request)
