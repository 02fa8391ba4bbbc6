"""Run a management command on the Lambda function, through the aws command line tool.

    python manage_on_lambda.py FUNCTION COMMAND [ARGUMENT ...]

Prints the command's output and exits with its exit code.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

function, *command = sys.argv[1:]
with tempfile.TemporaryDirectory() as folder:
    answer = Path(folder) / "answer.json"
    invocation = ["aws", "lambda", "invoke", "--function-name", function]
    options = ["--cli-binary-format", "raw-in-base64-out"]
    payload = ["--payload", json.dumps({"manage": command}), str(answer)]
    done = subprocess.run([*invocation, *options, *payload], stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        sys.exit(done.returncode)
    result = json.loads(answer.read_text())

if "exit_code" not in result:  # the function itself failed
    sys.exit(f"{result.get('errorType', 'Error')}: {result.get('errorMessage', 'no answer')}")
sys.stdout.write(result["output"])
sys.exit(result["exit_code"])
