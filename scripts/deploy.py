"""Deploy this commit to an environment.

    python scripts/deploy.py ENVIRONMENT [--yes]

1. At the first deployment, create what needs no image.
2. Build and push the image of the commit, unless the repository has it: tags are immutable.
3. Give the image's digest to Terraform, which publishes a version of the function.
4. Check the health of that version, while the last one serves.
5. Point the alias `live` at the version, and check the public API (scripts/health_check.py): that
   it answers, records, and streams where its front does.
6. If that fails, point the alias back: the last version serves again within seconds.

Terraform ignores changes of the alias. `--yes` applies without asking, for CI.
"""

import argparse
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import health_check
from aws_cli import aws, failure, invoke

ROOT = Path(__file__).parent.parent
PLATFORMS = {"arm64": "linux/arm64", "x86_64": "linux/amd64"}
HEALTH = {
    "version": "2.0",
    "rawPath": "/v1/health",
    "requestContext": {"stage": "$default", "http": {"method": "GET"}},
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="deploy.py")
    parser.add_argument("environment")
    parser.add_argument("--yes", action="store_true", help="apply without asking")
    options = parser.parse_args()
    tag = tag_of_commit(ROOT)
    terraform = Terraform(options.environment, ask=not options.yes)
    outputs = terraform.outputs()
    if "repository_url" not in outputs:
        outputs = terraform.apply("")
    os.environ["AWS_REGION"] = os.environ["AWS_DEFAULT_REGION"] = outputs["region"]
    digest = provide_image(outputs["repository_url"], tag, outputs["architecture"])
    outputs = terraform.apply(digest)
    release(outputs, tag)


# --- The image ------------------------------------------------------------------------------------


def tag_of_commit(folder: Path) -> str:
    """Return the commit, with the time if files differ from it."""
    commit = _run("git", "-C", str(folder), "rev-parse", "--short=12", "HEAD")
    if not _run("git", "-C", str(folder), "status", "--porcelain"):
        return commit
    return f"{commit}-changed-{datetime.now(UTC):%Y%m%d%H%M%S}"


def provide_image(repository: str, tag: str, architecture: str) -> str:
    """Return the digest of the tag's image; build and push the image if the repository lacks it."""
    if digest := digest_of(repository, tag):
        print(f"{tag} is in the repository: {digest}")
        return digest
    registry = repository.partition("/")[0]
    password = _run("aws", "ecr", "get-login-password")
    _run("docker", "login", "--username", "AWS", "--password-stdin", registry, given=password)
    image = f"{repository}:{tag}"
    # Lambda refuses images with attestations.
    plain = ["--platform", PLATFORMS[architecture], "--provenance=false", "--sbom=false"]
    arguments = ["--build-arg", "TARGET=lambda", "--build-arg", f"BUILD={tag}"]
    _show("docker", "build", *plain, *arguments, "--tag", image, str(ROOT))
    _show("docker", "push", image)
    digest = digest_of(repository, tag)
    if not digest:
        sys.exit(f"{image} was pushed, but the repository does not have it.")
    return digest


def digest_of(repository: str, tag: str) -> str | None:
    name = repository.partition("/")[2]
    image = ["--repository-name", name, "--image-ids", f"imageTag={tag}"]
    found = aws("ecr", "batch-get-image", *image, "--query", "images[].imageId.imageDigest")
    return found[0] if found else None


# --- The infrastructure ---------------------------------------------------------------------------


class Terraform:
    def __init__(self, environment: str, *, ask: bool) -> None:
        self._ask = ask
        self._variables = f"environments/{environment}.tfvars"
        if not (ROOT / "terraform" / self._variables).exists():
            sys.exit(f"There is no terraform/{self._variables}.")
        backend = f"-backend-config=environments/{environment}.s3.tfbackend"
        self._call("init", "-input=false", "-reconfigure", backend)

    def outputs(self) -> dict[str, Any]:
        """Return the outputs; none before the first deployment."""
        printed = json.loads(_run("terraform", self._folder(), "output", "-json"))
        return {name: output["value"] for name, output in printed.items()}

    def apply(self, digest: str) -> dict[str, Any]:
        options = [] if self._ask else ["-input=false", "-auto-approve"]
        image = f"-var=image_digest={digest}"
        self._call("apply", *options, f"-var-file={self._variables}", image)
        return self.outputs()

    def _call(self, *words: str) -> None:
        _show("terraform", self._folder(), *words)

    def _folder(self) -> str:
        return f"-chdir={ROOT / 'terraform'}"


# --- The traffic ----------------------------------------------------------------------------------


def release(outputs: dict[str, Any], build: str) -> None:
    """Let the version serve if it works, or else keep the one that serves."""
    function, version, url = (
        outputs[name] for name in ("function_name", "function_version", "url")
    )
    name = ["--function-name", function, "--name", "live"]
    live = aws("lambda", "get-alias", *name)["FunctionVersion"]
    fallback = "There is no earlier one." if version == live else f"Version {live} serves."
    if problem := problem_of(function, version, build):
        sys.exit(f"Version {version} does not work: {problem}. {fallback}")
    _point(function, version)
    try:
        health_check.check(url, build, outputs["response_mode"])
    except health_check.FailedError as exc:
        if version != live:
            _point(function, live)
        sys.exit(f"Version {version} does not work: {exc}. {fallback}")
    print(f"Version {version} serves at {url}")


def problem_of(function: str, version: str, build: str) -> str:
    """Return why a version that does not serve yet fails, or an empty string."""
    place = ["--function-name", function, "--qualifier", version]
    aws("lambda", "wait", "published-version-active", *place)
    answer = invoke(f"{function}:{version}", HEALTH)
    if answer.get("statusCode") != 200:
        return failure(answer) if "errorMessage" in answer else f"/v1/health: {answer}"
    reported = json.loads(answer["body"])["version"]
    return "" if reported.endswith(f"+{build}") else f"it is {reported}, not build {build}"


def _point(function: str, version: str) -> None:
    alias = ["--function-name", function, "--name", "live", "--function-version", version]
    aws("lambda", "update-alias", *alias)
    print(f"live is version {version}")


# --- Programs -------------------------------------------------------------------------------------


def _run(*words: str, given: str | None = None) -> str:
    """Return what a program prints."""
    done = subprocess.run(words, input=given, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{words[0]} failed.")
    return done.stdout.strip()


def _show(*words: str) -> None:
    """Run a program in the terminal."""
    sys.stdout.flush()
    if subprocess.run(words, check=False).returncode:
        sys.exit(f"{words[0]} failed.")


if __name__ == "__main__":
    main()
