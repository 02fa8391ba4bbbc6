"""Deploy to an environment: its infrastructure, an image of this commit, and then the traffic.

    python scripts/deploy.py ENVIRONMENT [--yes]

1. Where nothing has been deployed yet, Terraform makes all that needs no image.
2. The image of the commit is built and pushed, unless the repository has it: tags are immutable.
3. Terraform gets the digest of the image, and publishes a version of the function.
4. That version is asked for its health, while the one before it serves.
5. The alias `live` is pointed at it, and the public API is checked (scripts/health_check.py).
6. If that fails, the alias is pointed back: the version before serves again within seconds.

Terraform leaves the alias alone, so nothing is to be done with it after step 6. `--yes` lets it
apply without asking, for machines.
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
    release(outputs["function_name"], outputs["function_version"], outputs["url"], tag)


# --- The image ------------------------------------------------------------------------------------


def tag_of_commit(folder: Path) -> str:
    """The commit; with the time, if files were changed since: it then says little about them."""
    commit = _run("git", "-C", str(folder), "rev-parse", "--short=12", "HEAD")
    if not _run("git", "-C", str(folder), "status", "--porcelain"):
        return commit
    return f"{commit}-changed-{datetime.now(UTC):%Y%m%d%H%M%S}"


def provide_image(repository: str, tag: str, architecture: str) -> str:
    """The digest of the tag in the repository, which is built and pushed if it is not there."""
    if digest := digest_of(repository, tag):
        print(f"{tag} is in the repository: {digest}")
        return digest
    registry = repository.partition("/")[0]
    password = _run("aws", "ecr", "get-login-password")
    _run("docker", "login", "--username", "AWS", "--password-stdin", registry, given=password)
    image = f"{repository}:{tag}"
    # Lambda takes plain images only: no attestations beside them.
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
        """The outputs; none, if nothing has been deployed."""
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


def release(function: str, version: str, url: str, build: str) -> None:
    """Let the version serve, if it works, and else the one that served before."""
    name = ["--function-name", function, "--name", "live"]
    live = aws("lambda", "get-alias", *name)["FunctionVersion"]
    fallback = "There is none before it." if version == live else f"Version {live} serves."
    if problem := problem_of(function, version, build):
        sys.exit(f"Version {version} does not work: {problem}. {fallback}")
    _point(function, version)
    try:
        health_check.check(url, build)
    except health_check.FailedError as exc:
        if version != live:
            _point(function, live)
        sys.exit(f"Version {version} does not work: {exc}. {fallback}")
    print(f"Version {version} serves at {url}")


def problem_of(function: str, version: str, build: str) -> str:
    """What keeps a version that nobody uses yet from answering; empty: nothing."""
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
    """What the program prints."""
    done = subprocess.run(words, input=given, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{words[0]} failed.")
    return done.stdout.strip()


def _show(*words: str) -> None:
    """Let the program print, and ask."""
    sys.stdout.flush()
    if subprocess.run(words, check=False).returncode:
        sys.exit(f"{words[0]} failed.")


if __name__ == "__main__":
    main()
