"""aws, docker, git and terraform as far as scripts/deploy.py uses them, on a cloud in a JSON file.

Each name on PATH runs this file. It notes what it is asked for, and plays the few effects that one
command has on a later one: an image that is pushed, a version that is published, the alias.
"""

import itertools
import json
import os
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(os.environ["FAKE_CLOUD"])
CLOUD = FOLDER / "cloud.json"


def main() -> None:
    name, words = Path(sys.argv[0]).name, sys.argv[1:]
    with (FOLDER / "calls.txt").open("a") as calls:
        calls.write(f"{' '.join([name, *words])}\n")
    cloud = json.loads(CLOUD.read_text())
    printed = {"aws": aws, "docker": docker, "git": git, "terraform": terraform}[name](cloud, words)
    CLOUD.write_text(json.dumps(cloud))
    sys.stdout.write(printed if isinstance(printed, str) else json.dumps(printed))
    sys.exit(cloud["exit"].get(name, 0))


def git(cloud: Any, words: list[str]) -> str:
    return cloud["commit"] if "rev-parse" in words else ""


def docker(cloud: Any, words: list[str]) -> str:
    if words[0] == "login":
        assert sys.stdin.read() == "a-password"
    elif words[0] == "push":
        cloud["images"][words[-1].rpartition(":")[2]] = cloud["next_digest"]
    return ""


def terraform(cloud: Any, words: list[str]) -> Any:
    if words[1] == "apply":
        digest = words[-1].removeprefix("-var=image_digest=")
        if digest and digest != cloud["digest"]:
            cloud["digest"], cloud["version"] = digest, cloud["version"] + 1
            cloud["live"] = cloud["live"] or str(cloud["version"])
        cloud["applied"] = True
        return ""
    if words[1] != "output" or not cloud["applied"]:
        return {}
    outputs = {
        "repository_url": "123456789012.dkr.ecr.eu-west-1.amazonaws.com/serverless-chat-api-dev",
        "region": "eu-west-1",
        "architecture": "arm64",
        "function_name": "serverless-chat-api-dev",
        "function_version": str(cloud["version"]),
        "url": cloud["url"],
        "response_mode": cloud["response_mode"],
    }
    return {name: {"value": value} for name, value in outputs.items()}


def aws(cloud: Any, words: list[str]) -> Any:
    assert "ecr" in words or "lambda" in words or "ssm" in words
    options = dict(itertools.pairwise(words))
    match words[1]:
        case "get-login-password":
            return "a-password\n"
        case "batch-get-image":
            tag = options["--image-ids"].removeprefix("imageTag=")
            return [cloud["images"][tag]] if tag in cloud["images"] else []
        case "get-alias":
            return {"FunctionVersion": cloud["live"]}
        case "update-alias":
            cloud["live"] = options["--function-version"]
        case "invoke":
            answer = next(word for word in words if word.endswith("answer.json"))
            Path(answer).write_text(json.dumps(cloud["invocation"]))
        case "put-parameter":
            cloud["parameter"] = json.load(sys.stdin)
    return ""


main()
