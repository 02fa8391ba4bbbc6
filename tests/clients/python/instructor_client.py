"""instructor: an object by a forced tool call and by a JSON schema, whole and in pieces."""

import json
import os

import instructor
from openai import OpenAI
from pydantic import BaseModel


class Forecast(BaseModel):
    city: str
    celsius: int


client = OpenAI(base_url=os.environ["BASE_URL"], api_key=os.environ["API_KEY"], max_retries=0)
messages = [{"role": "user", "content": "Lisboa?"}]
for model in os.environ["MODELS"].split():
    for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA):
        completions = instructor.from_openai(client, mode=mode).chat.completions
        question = {"model": model, "messages": messages, "response_model": Forecast}
        answer = completions.create(**question, max_retries=0)
        print(json.dumps([model, mode.name, answer.model_dump()]))
        *_, answer = completions.create_partial(**question, max_retries=0)
        print(json.dumps([model, f"{mode.name} streamed", answer.model_dump()]))
