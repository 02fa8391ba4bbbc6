"""litellm: an agent and its thoughts, plain and streamed, and an object."""

import json
import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it downloads one

import litellm
from pydantic import BaseModel

litellm.suppress_debug_info = True

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}]


class Forecast(BaseModel):
    city: str
    celsius: int


def ask(model, messages, **options):
    """Return the message of the answer."""
    answer = litellm.completion(
        model=f"openai/{model}",
        api_base=os.environ["BASE_URL"],
        api_key=os.environ["API_KEY"],
        messages=messages,
        max_retries=0,
        **options,
    )
    if options.get("stream"):
        answer = litellm.stream_chunk_builder(list(answer), messages=messages)
    return answer.choices[0].message


for model in os.environ["MODELS"].split():
    for suffix, options in {"": {}, " streamed": {"stream": True}}.items():
        messages = [{"role": "user", "content": os.environ["PROMPT"]}]
        thought = ask(model, messages, reasoning_effort="low", **options).reasoning_content
        print(json.dumps([model, f"reasoning{suffix}", thought]))
        messages.append(ask(model, messages, tools=TOOLS, **options))
        for call in messages[-1].tool_calls:
            content = f"18 °C in {json.loads(call.function.arguments)['city']}"
            messages.append({"role": "tool", "tool_call_id": call.id, "content": content})
        answer = ask(model, messages, tools=TOOLS, **options)
        print(json.dumps([model, f"agent{suffix}", answer.content]))
    question = [{"role": "user", "content": "Lisboa?"}]
    answer = ask(model, question, response_format=Forecast)
    print(json.dumps([model, "object", json.loads(answer.content)]))
