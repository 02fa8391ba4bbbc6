"""The product's settings, out of reach of the developer's own .env and variables."""

import os
import tempfile
from pathlib import Path

OURS = (
    "ALLOWED_",
    "API_",
    "CACHE_",
    "CIRCUIT_",
    "ENABLE_",
    "GEMINI_",
    "LLM_",
    "LOG_",
    "MOCK_",
    "OPENAI_",
    "OPENROUTER_",
    "RATE_",
    "REQUEST_",
    "REQUIRE_",
)
for name in list(os.environ):
    if name.startswith(OURS):
        del os.environ[name]
os.environ["ENV_FILE"] = os.devnull
os.environ["SECRET_KEY"] = "tests"
os.environ["LLM_PROVIDER"] = "mock"

from chatproject.settings import *  # noqa: E402, F403
from chatproject.settings import DATABASES  # noqa: E402

# A file, as in the product: threads see each other's writes, and wait for each other's locks.
DATABASES["default"]["TEST"] = {"NAME": str(Path(tempfile.mkdtemp()) / "test.db")}
