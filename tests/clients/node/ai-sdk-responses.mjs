// The Vercel AI SDK with `openai(model)`, which calls the Responses API: with `store`, by which it
// refers to earlier items, and without.
import { createOpenAI } from "@ai-sdk/openai";
import { generateObject, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";
import { apiKey, baseURL, models, print, prompt, weather } from "./common.mjs";

globalThis.AI_SDK_LOG_WARNINGS = false;

const openai = createOpenAI({ baseURL, apiKey });
const tools = { weather: tool({ inputSchema: z.object({ city: z.string() }), execute: weather }) };
const schema = z.object({ city: z.string(), celsius: z.int() });
const stateless = { store: false, include: ["reasoning.encrypted_content"] };

for (const id of models) {
  const question = { model: openai(id), prompt, maxRetries: 0 };
  for (const [kind, options] of [["", {}], ["stateless ", stateless]]) {
    const agent = { ...question, tools, stopWhen: stepCountIs(3), providerOptions: { openai: options } };
    print(id, `${kind}generateText`, (await generateText(agent)).text);
    print(id, `${kind}streamText`, await streamText(agent).text);
  }
  print(id, "generateObject", (await generateObject({ ...question, schema })).object);
  const thinking = { ...question, providerOptions: { openai: { reasoningEffort: "low", forceReasoning: true } } };
  print(id, "reasoning", (await generateText(thinking)).reasoningText);
  print(id, "reasoning streamed", await streamText(thinking).reasoningText);
}
