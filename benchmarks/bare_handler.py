"""Answer a chat without any framework or SDK: the floor to compare our handler with.

It makes four requests over kept connections: a counter, a conditional claim, the vendor's answer
and a conditional settle. Those to DynamoDB are signed here (AWS Signature Version 4).
"""

import datetime
import hashlib
import hmac
import http.client
import json
import os
import time
import uuid
from typing import Any
from urllib.parse import urlsplit

DYNAMODB = urlsplit(os.environ["AWS_ENDPOINT_URL_DYNAMODB"])
VENDOR = urlsplit(os.environ["OPENAI_BASE_URL"])
REGION = os.environ["AWS_REGION"]
TABLE = os.environ["TABLE_NAME"]
STATE = f"{TABLE}-state"

dynamodb = http.client.HTTPConnection(DYNAMODB.netloc)
vendor = http.client.HTTPConnection(VENDOR.netloc)


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    question = json.loads(event["body"])
    user, prompt = question["userId"], question["prompt"]
    now = time.time()
    _count(f"bare:{user}:{int(now // 60)}", now)
    interaction_id = str(uuid.uuid4())
    created_at = datetime.datetime.now(datetime.UTC).isoformat()
    item = {
        "interaction_id": {"S": interaction_id},
        "owner_user": {"S": f"default#{user}"},
        "conversation_id": {"S": interaction_id},
        "created_at": {"S": created_at},
        "prompt": {"S": prompt},
        "status": {"S": "pending"},
    }
    free = "attribute_not_exists(interaction_id)"
    _dynamodb("PutItem", {"TableName": TABLE, "Item": item, "ConditionExpression": free})
    answer = _ask(prompt)
    _settle(interaction_id, answer)
    body = {"interaction_id": interaction_id, "userId": user, "prompt": prompt, "response": answer}
    return {"statusCode": 200, "body": json.dumps(body)}


def _count(key: str, now: float) -> None:
    _dynamodb(
        "UpdateItem",
        {
            "TableName": STATE,
            "Key": {"pk": {"S": key}},
            "UpdateExpression": "ADD n :one SET expires_at = if_not_exists(expires_at, :end)",
            "ExpressionAttributeValues": {":one": {"N": "1"}, ":end": {"N": str(int(now) + 65)}},
            "ReturnValues": "UPDATED_NEW",
        },
    )


def _settle(interaction_id: str, answer: str) -> None:
    _dynamodb(
        "UpdateItem",
        {
            "TableName": TABLE,
            "Key": {"interaction_id": {"S": interaction_id}},
            "UpdateExpression": "SET #s = :ok, #r = :answer",
            "ConditionExpression": "#s = :pending",
            "ExpressionAttributeNames": {"#s": "status", "#r": "response"},
            "ExpressionAttributeValues": {
                ":ok": {"S": "ok"},
                ":pending": {"S": "pending"},
                ":answer": {"S": answer},
            },
        },
    )


def _ask(prompt: str) -> str:
    body = {"model": "m", "messages": [{"role": "user", "content": prompt}]}
    headers = {"content-type": "application/json", "authorization": "Bearer key"}
    vendor.request("POST", f"{VENDOR.path}/chat/completions", json.dumps(body), headers)
    answer = json.loads(vendor.getresponse().read())
    return str(answer["choices"][0]["message"]["content"])


def _dynamodb(operation: str, body: dict[str, Any]) -> dict[str, Any]:
    content = json.dumps(body).encode()
    dynamodb.request("POST", "/", content, _signed(f"DynamoDB_20120810.{operation}", content))
    response = dynamodb.getresponse()
    answer: dict[str, Any] = json.loads(response.read())
    if response.status != 200:
        raise RuntimeError(answer)
    return answer


def _signed(target: str, content: bytes) -> dict[str, str]:
    moment = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    scope = f"{moment[:8]}/{REGION}/dynamodb/aws4_request"
    names = "host;x-amz-date;x-amz-target"
    canonical = (
        f"POST\n/\n\nhost:{DYNAMODB.netloc}\nx-amz-date:{moment}\nx-amz-target:{target}\n\n"
        f"{names}\n{hashlib.sha256(content).hexdigest()}"
    )
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    key = f"AWS4{os.environ['AWS_SECRET_ACCESS_KEY']}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    text = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{digest}"
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    credential = f"{os.environ['AWS_ACCESS_KEY_ID']}/{scope}"
    return {
        "content-type": "application/x-amz-json-1.0",
        "x-amz-date": moment,
        "x-amz-target": target,
        "authorization": (
            f"AWS4-HMAC-SHA256 Credential={credential}, "
            f"SignedHeaders={names}, Signature={signature}"
        ),
    }
