"""Put a secret where the function reads it: into SSM, as a SecureString.

    python scripts/put_secret.py ENVIRONMENT NAME

The value is asked for without being shown, or is the first line of what is piped in. Nothing
entered for SECRET_KEY, API_KEY or API_KEYS makes a random one.
"""

import getpass
import json
import secrets
import sys

from aws_cli import aws

MADE = ("SECRET_KEY", "API_KEY", "API_KEYS")

environment, name = sys.argv[1:]
parameter = f"/serverless-chat-api-{environment}/{name}"
if sys.stdin.isatty():
    hint = " (nothing: a random one)" if name in MADE else ""
    value = getpass.getpass(f"{name}{hint}: ").strip()
else:
    value = sys.stdin.readline().strip()
if not value:
    if name not in MADE:
        sys.exit(f"{name} must not be empty.")
    value = secrets.token_urlsafe(40)
    if name != "SECRET_KEY":
        print(f"The key is {value}")
request = {"Name": parameter, "Value": value, "Type": "SecureString", "Overwrite": True}
# Through standard input, as the list of processes shows what is in a command line.
aws("ssm", "put-parameter", "--cli-input-json", "file:///dev/stdin", given=json.dumps(request))
print(f"{parameter} is set. Functions that run already read it when they start anew.")
