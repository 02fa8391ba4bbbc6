"""OpenAI's Agents SDK: two tools and a hand-off, plain and streamed.

Earlier turns go along as items, without `store` too, or by `previous_response_id`.
"""

import asyncio
import json
import os

from agents import (
    Agent,
    ModelSettings,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI
from pydantic import BaseModel

HAND_OFF = "Lisboa? mock:tool=transfer_to_forecaster"
STATELESS = ModelSettings(store=False, response_include=["reasoning.encrypted_content"])


class Forecast(BaseModel):
    city: str
    celsius: int


@function_tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"18 °C in {city}"


async def run(agent, prompt, *, streamed, **options):
    if not streamed:
        return await Runner.run(agent, prompt, **options)
    result = Runner.run_streamed(agent, prompt, **options)
    async for _ in result.stream_events():
        pass
    return result


async def main():
    client = AsyncOpenAI(
        base_url=os.environ["BASE_URL"], api_key=os.environ["API_KEY"], max_retries=0
    )
    for name in os.environ["MODELS"].split():
        model = OpenAIResponsesModel(name, openai_client=client)
        guide = Agent("guide", model=model, tools=[weather], instructions="Be brief.")
        stateless = guide.clone(model_settings=STATELESS)
        forecaster = Agent("forecaster", model=model, output_type=Forecast)
        desk = Agent("desk", model=model, handoffs=[forecaster])
        for suffix, streamed in {"": False, " streamed": True}.items():
            for kind, agent, options in (
                ("agent", guide, {}),
                ("stateless agent", stateless, {}),
                ("continued agent", guide, {"auto_previous_response_id": True}),
            ):
                result = await run(agent, os.environ["PROMPT"], streamed=streamed, **options)
                print(json.dumps([name, kind + suffix, result.final_output]))
            result = await run(desk, HAND_OFF, streamed=streamed)
            assert result.last_agent.name == "forecaster"
            print(json.dumps([name, f"hand-off{suffix}", result.final_output.model_dump()]))


set_tracing_disabled(True)
asyncio.run(main())
