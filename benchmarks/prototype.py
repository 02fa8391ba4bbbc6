"""A minimal gateway of FastAPI and httpx, which passes the vendor's answer on and stores nothing.

benchmarks.alternatives runs it in a virtual environment.
"""

import os

import httpx
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse

app = FastAPI()
vendor = httpx.AsyncClient(
    base_url=os.environ["OPENAI_BASE_URL"],
    headers={"Authorization": "Bearer key"},
    limits=httpx.Limits(max_connections=None),
)


@app.post("/v1/chat/completions")
async def chat(request: Request) -> Response:
    body = await request.json()
    asked = vendor.build_request("POST", "/chat/completions", json=body)
    answer = await vendor.send(asked, stream=True)
    media_type = answer.headers["content-type"]
    if body.get("stream"):
        return StreamingResponse(answer.aiter_bytes(), media_type=media_type)
    content = await answer.aread()
    return Response(content, status_code=answer.status_code, media_type=media_type)
