"""A stand-in for Bedrock: signatures and requests are checked by botocore, as AWS would.

with StubBedrock() as bedrock:
    bedrock.answer([{"text": "Hello."}])          # plain or streamed, as it is asked for
    bedrock.refuse("ThrottlingException", 429)    # the next answer, and all after it
"""

import base64
import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any
from urllib.parse import unquote

import botocore.loaders
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials
from botocore.model import ServiceModel, Shape
from botocore.validate import ParamValidator

from providers.sigv4 import Keys
from tests.bedrock_frames import EVENT_STREAM, delta, event, start, stop
from tests.stub_vendor import Received, ScriptedResponse, StubVendor, json_response, stream_response

KEYS = Keys("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "token/+=")
REGION = "eu-west-1"
MODEL = "eu.anthropic.claude-sonnet-4-5-20250929-v1:0"
USAGE = {"inputTokens": 9, "outputTokens": 5, "totalTokens": 14}


@cache
def service_model() -> ServiceModel:
    loader = botocore.loaders.create_loader()
    return ServiceModel(loader.load_service_model("bedrock-runtime", "service-2"))


class StubBedrock(StubVendor):
    """`keys` are those that may sign; `bearer` is an API key that may take a signature's place."""

    def __init__(self, *, keys: Keys = KEYS, region: str = REGION, bearer: str = "") -> None:
        super().__init__()
        self._keys = ReadOnlyCredentials(*keys)
        self._region = region
        self._bearer = bearer
        self._answers: list[ScriptedResponse | dict[str, Any]] = []
        self.responder = self._respond_to

    def answer(
        self,
        content: Sequence[dict[str, Any]],
        stop_reason: str = "end_turn",
        usage: Mapping[str, Any] = USAGE,
        **fields: Any,
    ) -> None:
        """Answer the next request, and all after the last one, with these content blocks."""
        self._answers.append(
            {
                "output": {"message": {"role": "assistant", "content": list(content)}},
                "stopReason": stop_reason,
                "usage": dict(usage),
                "metrics": {"latencyMs": 7},
                **fields,
            }
        )

    def refuse(self, code: str, status: int, message: str = "", **fields: Any) -> None:
        said = fields if "Message" in fields else {"message": message, **fields}
        self._answers.append(refusal(code, status, said))

    def stream_frames(self, frames: Sequence[bytes], *, cut: bool = False) -> None:
        self._answers.append(stream_response(frames, [0.0] * len(frames), EVENT_STREAM, cut=cut))

    def _respond_to(self, received: Received) -> ScriptedResponse:
        if error := self._signature_error(received) or request_error(received):
            return error
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, ScriptedResponse):
            return answer
        if received.path.endswith("/converse"):
            return json_response(answer)
        frames = streamed(answer)
        return stream_response(frames, [0.0] * len(frames), EVENT_STREAM)

    def _signature_error(self, received: Received) -> ScriptedResponse | None:
        authorization = received.headers.get("authorization", "")
        if self._bearer and authorization == f"Bearer {self._bearer}":
            return None
        pairs = authorization.split(" ", 1)[-1].split(", ")
        fields = dict(each.split("=", 1) for each in pairs if "=" in each)
        names = fields.get("SignedHeaders", "").split(";")
        request = AWSRequest(
            method=received.method,
            url=f"http://{received.headers['host']}{received.path}",
            headers={name: received.headers.get(name, "") for name in names},
            data=received.body,
        )
        request.context["timestamp"] = received.headers.get("x-amz-date", "")
        signer = SigV4Auth(self._keys, "bedrock", self._region)
        text = signer.string_to_sign(request, signer.canonical_request(request))
        token = received.headers.get("x-amz-security-token", "")
        if signer.signature(text, request) != fields.get("Signature") or token != (
            self._keys.token or ""
        ):
            message = "The request signature we calculated does not match the one you provided."
            return refusal("InvalidSignatureException", 403, {"message": message})
        return None


def refusal(code: str, status: int, body: Mapping[str, Any]) -> ScriptedResponse:
    """Return an error as AWS sends it: its name is in a header."""
    data = json.dumps(body).encode()
    lines = [
        f"HTTP/1.1 {status} Refused",
        "content-type: application/json",
        f"content-length: {len(data)}",
        f"x-amzn-errortype: {code}:http://internal.amazon.com/coral/com.amazon.bedrock/",
    ]
    return ScriptedResponse(head="\r\n".join([*lines, "", ""]).encode(), body=data)


def request_error(received: Received) -> ScriptedResponse | None:
    """Return a ValidationException for what is no request by the model that botocore ships."""
    parts = received.path.split("/")
    operation = {"converse": "Converse", "converse-stream": "ConverseStream"}[parts[-1]]
    shape = service_model().operation_model(operation).input_shape
    parameters = {**decoded(received.json, shape), "modelId": unquote(parts[-2])}
    report = ParamValidator().validate(parameters, shape)
    if not report.has_errors():
        return None
    return refusal("ValidationException", 400, {"message": report.generate_report()})


def decoded(value: Any, shape: Shape) -> Any:
    """Return a JSON value as botocore's clients take it: blobs as bytes."""
    if shape.type_name == "blob":
        return base64.b64decode(value, validate=True)
    if shape.type_name == "list":
        return [decoded(each, shape.member) for each in value]
    if shape.type_name == "structure" and not getattr(shape, "is_document_type", False):
        members = shape.members
        return {
            name: decoded(each, members[name]) if name in members else each
            for name, each in value.items()
        }
    return value


def streamed(answer: Mapping[str, Any]) -> list[bytes]:
    """Return an answer as Bedrock would stream it."""
    frames = [event("messageStart", role="assistant")]
    for number, block in enumerate(answer["output"]["message"]["content"]):
        frames += [*_streamed_block(number, block), stop(number)]
    more = {name: answer[name] for name in ("additionalModelResponseFields",) if name in answer}
    about = {name: answer[name] for name in ("trace", "serviceTier") if name in answer}
    frames.append(event("messageStop", stopReason=answer["stopReason"], **more))
    frames.append(event("metadata", usage=answer["usage"], metrics=answer["metrics"], **about))
    return frames


def _streamed_block(number: int, block: Mapping[str, Any]) -> list[bytes]:
    if "text" in block:
        return [delta(number, text=piece) for piece in _pieces(block["text"])]
    if call := block.get("toolUse"):
        begun = {"toolUseId": call["toolUseId"], "name": call["name"]}
        pieces = _pieces(json.dumps(call["input"])) if call["input"] else [""]
        return [start(number, toolUse=begun)] + [
            delta(number, toolUse={"input": piece}) for piece in pieces
        ]
    reasoning = block["reasoningContent"]
    if redacted := reasoning.get("redactedContent"):
        return [delta(number, reasoningContent={"redactedContent": redacted})]
    thought = reasoning["reasoningText"]
    frames = [delta(number, reasoningContent={"text": piece}) for piece in _pieces(thought["text"])]
    if signature := thought.get("signature"):
        frames.append(delta(number, reasoningContent={"signature": signature}))
    return frames


def _pieces(text: str) -> list[str]:
    return [text[at : at + 3] for at in range(0, len(text), 3)]
