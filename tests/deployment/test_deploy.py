"""The scripts of a deployment, with fakes of the programs they run.

The public address is a real one: a stand-in that answers as it is told.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.server_process import ROOT, base_environment
from tests.stub_vendor import StubVendor

COMMIT = "0123456789ab"
OLD, NEW = "sha256:" + "a" * 64, "sha256:" + "b" * 64
REPOSITORY = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/serverless-chat-api-dev"
HEALTHY = {"status": "healthy", "version": f"0.1.0+{COMMIT}", "timestamp": ""}
ANSWER = {"interaction_id": "id-1", "response": "Yes.", "model": "mock-1", "latency_ms": 3}
RECORD = {"interaction_id": "id-1", "status": "ok", "response": "Yes."}
INVOCATION = {"statusCode": 200, "body": json.dumps(HEALTHY)}
STREAMING = {"x-response-mode": "streaming"}
DELTA = 'event: delta\ndata: {"text": "Yes."}\n\n'
DONE = f"event: done\ndata: {json.dumps(ANSWER)}\n\n"


class Cloud:
    """The state that the fake programs share."""

    def __init__(self, folder: Path, url: str) -> None:
        self._folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir()
        program = f"#!{sys.executable}\n{(Path(__file__).parent / 'fake_tools.py').read_text()}"
        for name in ("aws", "docker", "git", "terraform"):
            (self.bin / name).write_text(program)
            (self.bin / name).chmod(0o755)
        # Version 1 has been deployed and serves.
        self._state = {
            "url": url,
            "commit": COMMIT,
            "applied": True,
            "images": {"fedcba987654": OLD},
            "digest": OLD,
            "next_digest": NEW,
            "version": 1,
            "live": "1",
            "response_mode": "streaming",
            "invocation": INVOCATION,
            "exit": {},
        }
        self.change()

    def change(self, **values: Any) -> None:
        self._state |= values
        (self._folder / "cloud.json").write_text(json.dumps(self._state))

    def __getitem__(self, name: str) -> Any:
        return json.loads((self._folder / "cloud.json").read_text())[name]

    def calls(self, start: str = "") -> list[str]:
        calls = (self._folder / "calls.txt").read_text().splitlines()
        return [call for call in calls if call.startswith(start)]

    def run(self, script: str, *words: str, given: str = "", **variables: str) -> Any:
        return subprocess.run(
            [sys.executable, str(ROOT / "scripts" / script), *words],
            env={
                "PATH": f"{self.bin}:{os.environ['PATH']}",
                "FAKE_CLOUD": str(self._folder),
                "CHECK_SECONDS": "0",
                **variables,
            },
            input=given,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )


@pytest.fixture
def public() -> Iterator[StubVendor]:
    with StubVendor() as public:
        yield public


@pytest.fixture
def cloud(tmp_path: Path, public: StubVendor) -> Cloud:
    return Cloud(tmp_path, public.url)


@pytest.fixture
def deploy(cloud: Cloud) -> Callable[..., Any]:
    def run(**variables: str) -> Any:
        return cloud.run("deploy.py", "dev", "--yes", **variables)

    return run


def works(public: StubVendor) -> None:
    public.reply(HEALTHY, headers=STREAMING)
    public.stream([": waiting\n\n", DELTA, DONE])
    public.reply(RECORD)


# --- From a commit to a version that serves -------------------------------------------------------


def test_a_commit_is_built_pushed_published_checked_and_serves(
    cloud: Cloud, public: StubVendor, deploy: Callable[..., Any]
):
    works(public)
    done = deploy(CHECK_API_KEY="key-1")
    assert done.returncode == 0, done.stderr
    assert (cloud["live"], cloud["digest"], cloud["images"][COMMIT]) == ("2", NEW, NEW)
    image = f"{REPOSITORY}:{COMMIT}"
    plain = "--platform linux/arm64 --provenance=false --sbom=false"
    arguments = f"--build-arg TARGET=lambda --build-arg BUILD={COMMIT}"
    assert cloud.calls("docker") == [
        f"docker login --username AWS --password-stdin {REPOSITORY.partition('/')[0]}",
        f"docker build {plain} {arguments} --tag {image} {ROOT}",
        f"docker push {image}",
    ]
    options = "-input=false -auto-approve -var-file=environments/dev.tfvars"
    terraform = f"terraform -chdir={ROOT / 'terraform'}"
    assert cloud.calls("terraform") == [
        f"{terraform} init -input=false -reconfigure -backend-config=environments/dev.s3.tfbackend",
        f"{terraform} output -json",
        f"{terraform} apply {options} -var=image_digest={NEW}",
        f"{terraform} output -json",
    ]
    asked = [(request.method, request.path) for request in public.requests]
    assert asked == [("GET", "/v1/health"), ("POST", "/v1/chat"), ("GET", "/v1/interactions/id-1")]
    assert {request.headers["x-api-key"] for request in public.requests} == {"key-1"}
    assert public.requests[1].json["stream"] is True


def test_a_buffered_front_is_asked_for_a_plain_answer(
    cloud: Cloud, public: StubVendor, deploy: Callable[..., Any]
):
    cloud.change(response_mode="buffered")
    public.reply(HEALTHY, headers={"x-response-mode": "buffered"})
    public.reply(ANSWER)
    public.reply(RECORD)
    done = deploy()
    assert done.returncode == 0, done.stderr
    assert cloud["live"] == "2"
    assert "stream" not in public.requests[1].json


def test_an_empty_account_gets_the_repository_before_the_image(
    cloud: Cloud, public: StubVendor, deploy: Callable[..., Any]
):
    cloud.change(applied=False, images={}, digest="", version=0, live="")
    works(public)
    done = deploy()
    assert done.returncode == 0, done.stderr
    applied = [call.rpartition("=")[2] for call in cloud.calls("terraform") if " apply " in call]
    assert applied == ["", NEW]
    assert cloud["live"] == "1"


def test_a_commit_that_was_pushed_is_not_built_again(
    cloud: Cloud, public: StubVendor, deploy: Callable[..., Any]
):
    cloud.change(images={COMMIT: NEW})
    works(public)
    assert deploy().returncode == 0
    assert cloud.calls("docker") == []
    assert (cloud["live"], cloud["digest"]) == ("2", NEW)


@pytest.mark.parametrize("program", ["terraform", "docker", "aws", "git"])
def test_a_failing_program_ends_the_deployment_before_traffic_moves(
    cloud: Cloud, deploy: Callable[..., Any], program: str
):
    cloud.change(exit={program: 1})
    assert deploy().returncode != 0
    assert cloud["live"] == "1"


def test_an_environment_without_a_file_is_refused(cloud: Cloud):
    done = cloud.run("deploy.py", "nowhere")
    assert done.returncode == 1
    assert "There is no terraform/environments/nowhere.tfvars." in done.stderr


# --- What does not work does not serve ------------------------------------------------------------


@pytest.mark.parametrize(
    ("invocation", "problem"),
    [
        ({"errorType": "Runtime.ExitError", "errorMessage": "no key"}, "Runtime.ExitError: no key"),
        ({"statusCode": 500, "body": "{}"}, "/v1/health: {'statusCode': 500"),
        (
            {"statusCode": 200, "body": json.dumps({"version": "0.1.0+other"})},
            "it is 0.1.0+other, not build",
        ),
    ],
)
def test_a_version_that_does_not_answer_never_serves(
    cloud: Cloud, public: StubVendor, deploy: Callable[..., Any], invocation: Any, problem: str
):
    cloud.change(invocation=invocation)
    done = deploy()
    assert done.returncode == 1
    assert f"Version 2 does not work: {problem}" in done.stderr
    assert "Version 1 serves." in done.stderr
    assert cloud["live"] == "1"
    assert cloud.calls("aws lambda update-alias") == []
    assert public.requests == []


@pytest.mark.parametrize(
    ("answers", "problem"),
    [
        ([({"version": "0.1.0+fedcba987654"}, 200)], "is of version 0.1.0+fedcba987654"),
        ([("", 500)], "/v1/health answered 500 (not by the application)"),
        ([("<html>", 200)], "/v1/health did not answer"),
        (
            [(HEALTHY, 200), ({"code": "provider_error"}, 502)],
            "/v1/chat answered 502 provider_error",
        ),
        ([(HEALTHY, 200), ({"code": "missing_api_key"}, 401)], "answered 401 missing_api_key"),
        ([(HEALTHY, 200), (ANSWER, 200), ({"code": "not_found"}, 404)], "/v1/interactions/id-1"),
        (
            [(HEALTHY, 200), (ANSWER, 200), ({**RECORD, "status": "pending"}, 200)],
            "the record of the chat is pending.",
        ),
    ],
)
def test_a_failing_api_rolls_back_to_the_last_version(
    cloud: Cloud, public: StubVendor, deploy: Callable[..., Any], answers: list[Any], problem: str
):
    cloud.change(response_mode="buffered")
    for body, status in answers:
        public.reply(body, status=status, headers={"x-response-mode": "buffered"})
    done = deploy()
    assert done.returncode == 1
    assert problem in done.stderr
    assert "Version 1 serves." in done.stderr
    moves = [call.split()[-3] for call in cloud.calls("aws lambda update-alias")]
    assert moves == ["2", "1"]
    assert cloud["live"] == "1"
    # Terraform is not asked to take anything back: the alias is none of its business.
    assert len([call for call in cloud.calls("terraform") if " apply " in call]) == 1


def rolled_back(cloud: Cloud, deploy: Callable[..., Any]) -> str:
    done = deploy()
    assert done.returncode == 1
    assert cloud["live"] == "1"
    return str(done.stderr)


def test_a_function_that_buffers_behind_a_streaming_front_is_rolled_back(
    cloud: Cloud, public: StubVendor, deploy: Callable[..., Any]
):
    public.reply(INVOCATION)  # what a function URL makes of it
    problem = "the front streams, but the function answers in the buffered shape"
    assert problem in rolled_back(cloud, deploy)


@pytest.mark.parametrize(
    ("front", "function"), [("streaming", "buffered"), ("buffered", "streaming")]
)
def test_a_function_in_the_wrong_mode_is_rolled_back(
    cloud: Cloud, public: StubVendor, deploy: Callable[..., Any], front: str, function: str
):
    cloud.change(response_mode=front)
    public.reply(HEALTHY, headers={"x-response-mode": function})
    problem = f"the function answers {function}, but its front is {front}"
    assert problem in rolled_back(cloud, deploy)


def test_a_front_that_holds_a_stream_back_is_rolled_back(
    cloud: Cloud, public: StubVendor, deploy: Callable[..., Any]
):
    public.reply(HEALTHY, headers=STREAMING)
    public.reply(DELTA + DONE, headers={"content-type": "text/event-stream"})
    problem = f"a stream arrived as one piece of {len(DELTA + DONE)} bytes"
    assert problem in rolled_back(cloud, deploy)


@pytest.mark.parametrize(
    ("pieces", "cut", "problem"),
    [
        ([DELTA], True, "/v1/chat did not answer: IncompleteRead"),
        ([DELTA], False, "a stream ended without its answer: None"),
        (
            ['event: error\ndata: {"code": "provider_error"}\n\n'],
            False,
            "a stream ended without its answer: {'code': 'provider_error'}",
        ),
    ],
)
def test_a_broken_stream_is_rolled_back(
    cloud: Cloud,
    public: StubVendor,
    deploy: Callable[..., Any],
    pieces: list[str],
    cut: bool,
    problem: str,
):
    public.reply(HEALTHY, headers=STREAMING)
    public.stream(pieces, cut=cut)
    assert problem in rolled_back(cloud, deploy)


def test_the_first_version_cannot_be_rolled_back(
    cloud: Cloud, public: StubVendor, deploy: Callable[..., Any]
):
    cloud.change(applied=False, images={}, digest="", version=0, live="")
    public.reply("", status=500)
    done = deploy()
    assert done.returncode == 1
    assert "There is no earlier one." in done.stderr
    assert cloud["live"] == "1"


def test_a_passing_failure_is_retried(cloud: Cloud, public: StubVendor):
    public.reply({"version": "0.1.0+before"})
    for answer in (HEALTHY, ANSWER, RECORD):
        public.reply(answer)
    done = cloud.run("health_check.py", public.url, COMMIT, CHECK_SECONDS="20")
    assert done.returncode == 0, done.stderr
    assert f"not yet: /v1/health is of version 0.1.0+before, not of build {COMMIT}\n" in done.stdout


def test_a_refused_key_is_not_retried(cloud: Cloud, public: StubVendor):
    public.reply(HEALTHY)
    public.reply({"code": "invalid_api_key"}, status=401)
    done = cloud.run("health_check.py", public.url, CHECK_SECONDS="20")
    assert "/v1/chat answered 401 invalid_api_key" in done.stderr
    assert len(public.requests) == 2


# --- Tags, secrets, commands ----------------------------------------------------------------------


def test_a_tag_says_when_files_differ_from_the_commit(tmp_path: Path):
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'scripts')!r});"
        "import pathlib, deploy; print(deploy.tag_of_commit(pathlib.Path(sys.argv[1])))"
    )

    def git(*words: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        command = ["git", "-C", str(tmp_path), *identity, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def tag() -> str:
        command = [sys.executable, "-c", program, str(tmp_path)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "--quiet")
    git("commit", "--quiet", "--allow-empty", "--message", "one")
    commit = git("rev-parse", "HEAD")[:12]
    assert tag() == commit
    (tmp_path / "file").touch()
    changed = tag()
    assert changed.startswith(f"{commit}-changed-2")
    # What a tag may be, and what may follow a version after its plus.
    assert changed.replace("-", "").isalnum()
    assert len(changed) < 128


def test_a_secret_is_stored_for_the_function(cloud: Cloud):
    done = cloud.run("put_secret.py", "dev", "GEMINI_API_KEY", given="a-value\n")
    assert done.returncode == 0, done.stderr
    assert cloud["parameter"] == {
        "Name": "/serverless-chat-api-dev/GEMINI_API_KEY",
        "Value": "a-value",
        "Type": "SecureString",
        "Overwrite": True,
    }
    assert not [call for call in cloud.calls() if "a-value" in call]


def test_an_empty_value_makes_a_random_key_and_is_refused_for_a_vendor(cloud: Cloud):
    made = cloud.run("put_secret.py", "dev", "API_KEYS", given="\n")
    assert f"The key is {cloud['parameter']['Value']}\n" in made.stdout
    made = cloud.run("put_secret.py", "dev", "SECRET_KEY", given="\n")
    assert len(cloud["parameter"]["Value"]) > 50
    assert cloud["parameter"]["Value"] not in made.stdout
    refused = cloud.run("put_secret.py", "dev", "GEMINI_API_KEY", given="\n")
    assert (refused.returncode, refused.stderr) == (1, "GEMINI_API_KEY must not be empty.\n")


@pytest.mark.parametrize(
    ("answer", "code", "output"),
    [
        ({"exit_code": 0, "output": "all good\n"}, 0, "all good\n"),
        ({"exit_code": 2, "output": "Commands here: …\n"}, 2, "Commands here: …\n"),
        ({"errorType": "Timeout", "errorMessage": "too long"}, 1, "Timeout: too long\n"),
    ],
)
def test_a_command_runs_on_the_function(cloud: Cloud, answer: Any, code: int, output: str):
    cloud.change(invocation=answer)
    done = cloud.run("manage_on_lambda.py", "serverless-chat-api-dev:live", "check", "--deploy")
    assert (done.returncode, done.stdout + done.stderr) == (code, output)
    (call,) = cloud.calls("aws lambda invoke")
    assert "--function-name serverless-chat-api-dev:live" in call
    assert '--payload {"manage": ["check", "--deploy"]}' in call


@pytest.mark.parametrize(
    ("printed", "code"),
    [
        ("aws-cli/2.31.4 Python/3.13.7 Linux/6.8 exe/x86_64", 0),
        ("aws-cli/1.42.4 Python/3.11.2 Linux/6.8 botocore/1.40.4", 2),
        ("", 2),
    ],
)
def test_version_2_of_the_aws_tool_is_needed(tmp_path: Path, printed: str, code: int):
    (tool := tmp_path / "aws").write_text(f"#!/bin/sh\necho '{printed}'\n")
    tool.chmod(0o755)
    done = subprocess.run(
        ["make", "environment", "ENV=dev"],
        cwd=ROOT,
        # Not the variables of a make that runs the tests.
        env=base_environment() | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    sentence = "Version 2 of the aws command line tool is needed.\n" if code else ""
    assert (done.returncode, done.stdout) == (code, sentence)
