// openai-node: runTools, parse and the stream helper.
import OpenAI from "openai";
import { zodFunction, zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import { apiKey, baseURL, models, print, prompt, weather } from "./common.mjs";

const { completions } = new OpenAI({ baseURL, apiKey, maxRetries: 0 }).chat;
const messages = [{ role: "user", content: prompt }];
const tools = [zodFunction({ name: "weather", parameters: z.object({ city: z.string() }), function: weather })];
const forecast = zodResponseFormat(z.object({ city: z.string(), celsius: z.int() }), "forecast");

for (const model of models) {
  // runTools sends back no field of a message beyond OpenAI's; the reasoner wants its thoughts.
  if (model !== "reasoner") {
    const agent = { model, messages, tools };
    print(model, "runTools", await completions.runTools(agent).finalContent());
    print(model, "runTools streamed", await completions.runTools({ ...agent, stream: true }).finalContent());
  }
  const question = { model, messages, response_format: forecast, reasoning_effort: "low" };
  const { message } = (await completions.parse(question)).choices[0];
  print(model, "parse", message.parsed);
  print(model, "reasoning", message.reasoning_content);

  let reasoning = "";
  const stream = completions.stream(question);
  stream.on("chunk", ({ choices }) => { reasoning += choices[0]?.delta.reasoning_content ?? ""; });
  print(model, "parse streamed", (await stream.finalChatCompletion()).choices[0].message.parsed);
  print(model, "reasoning streamed", reasoning);
}
