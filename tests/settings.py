"""The product's settings, without the developer's .env and variables."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path
from uuid import uuid4

OURS = (
    *("ALLOWED_", "API_", "AWS_", "BEDROCK_", "BUILD", "CACHE_", "CIRCUIT_", "CORS_", "CSRF_"),
    *("DATABASE_", "DYNAMODB_", "HISTORY_", "LAMBDA_", "PORT", "STREAM_", "TRUST_"),
    *("ENABLE_", "GEMINI_", "LLM_", "LOG_", "MASK_", "MAX_", "METRICS", "MOCK_", "OPENAI_"),
    *("OPENROUTER_", "OTEL_", "PROMPT_", "RATE_", "REQUEST_", "REQUIRE_", "RETENTION_"),
    *("SECRET_", "STATE_", "STORAGE", "STORE_", "TABLE_", "WEB_"),
)
for name in list(os.environ):
    if name.startswith(OURS):
        del os.environ[name]
os.environ["ENV_FILE"] = os.devnull
os.environ["SECRET_KEY"] = "tests"
os.environ["LLM_PROVIDER"] = "mock"
# DynamoDB Local is shared by the processes that test: each has tables of its own.
os.environ["TABLE_NAME"] = f"tests-{uuid4().hex}"
# What one's own files say of AWS is not for tests.
os.environ["AWS_CONFIG_FILE"] = os.environ["AWS_SHARED_CREDENTIALS_FILE"] = os.devnull
os.environ["AWS_EC2_METADATA_DISABLED"] = "true"

from chatproject.settings import *  # noqa: E402, F403
from chatproject.settings import DATABASES  # noqa: E402

# A file, as in the product: threads see each other's writes, and wait for each other's locks.
folder = tempfile.mkdtemp()
atexit.register(shutil.rmtree, folder, ignore_errors=True)
DATABASES["default"]["TEST"] = {"NAME": str(Path(folder) / "test.db")}
