"""Store a secret for the function in SSM, as a SecureString.

    python scripts/put_secret.py ENVIRONMENT NAME

The value is typed without being shown, or is the first line of the input. An empty value for
SECRET_KEY, API_KEY or API_KEYS becomes a random one.
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
    hint = " (empty: a random one)" if name in MADE else ""
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
# On standard input, since a command line is visible in the list of processes.
aws("ssm", "put-parameter", "--cli-input-json", "file:///dev/stdin", given=json.dumps(request))
print(f"{parameter} is set. Functions read it when they start.")
