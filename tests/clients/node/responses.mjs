// openai-node's `responses`: create, stream and parse, with tools and a reasoning model.
import OpenAI from "openai";
import { zodResponsesFunction, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";
import { apiKey, baseURL, models, print, prompt, weather } from "./common.mjs";

const { responses } = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const tools = [zodResponsesFunction({ name: "weather", parameters: z.object({ city: z.string() }) })];
const forecast = { format: zodTextFormat(z.object({ city: z.string(), celsius: z.int() }), "forecast") };
const stream = (body) => responses.stream(body).finalResponse();
const thoughts = ({ output }) => output.find(({ type }) => type === "reasoning").summary[0].text;

for (const model of models) {
  for (const [suffix, ask] of [["", (body) => responses.parse(body)], [" streamed", stream]]) {
    const called = await ask({ model, tools, input: prompt });
    const results = called.output
      .filter(({ type }) => type === "function_call")
      .map(({ call_id, parsed_arguments }) => (
        { type: "function_call_output", call_id, output: weather(parsed_arguments) }));
    const continued = { model, tools, input: results, previous_response_id: called.id };
    print(model, `agent${suffix}`, (await ask(continued)).output_text);
    const answer = await ask({ model, input: prompt, text: forecast, reasoning: { effort: "low" } });
    print(model, `parse${suffix}`, answer.output_parsed);
    print(model, `reasoning${suffix}`, thoughts(answer));
    const shown = await responses.retrieve(answer.id);
    if (shown.output_text !== answer.output_text) throw new Error(shown.output_text);
  }
}
