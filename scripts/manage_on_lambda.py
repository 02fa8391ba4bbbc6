"""Run a management command on the Lambda function with the aws command line tool.

    python scripts/manage_on_lambda.py FUNCTION COMMAND [ARGUMENT ...]

Prints the command's output and exits with its exit code.
"""

import sys

from aws_cli import failure, invoke

function, *command = sys.argv[1:]
result = invoke(function, {"manage": command})
if "exit_code" not in result:
    sys.exit(failure(result))
sys.stdout.write(result["output"])
sys.exit(result["exit_code"])
