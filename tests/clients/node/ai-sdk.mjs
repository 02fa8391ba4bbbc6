// The Vercel AI SDK with `createOpenAICompatible` and `openai.chat`: tools, objects and reasoning.
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateObject, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";
import { apiKey, baseURL, models, print, prompt, weather } from "./common.mjs";

globalThis.AI_SDK_LOG_WARNINGS = false;

// Under this name only, Gemini's thought signatures are sent back.
const name = "google";
const compatible = createOpenAICompatible({ name, baseURL, apiKey, supportsStructuredOutputs: true });
const openai = createOpenAI({ baseURL, apiKey });
const tools = { weather: tool({ inputSchema: z.object({ city: z.string() }), execute: weather }) };
const schema = z.object({ city: z.string(), celsius: z.int() });
const question = { prompt, maxRetries: 0 };
const agent = { ...question, tools, stopWhen: stepCountIs(3) };

for (const id of models) {
  for (const [kind, model] of [["compatible", compatible(id)], ["openai", openai.chat(id)]]) {
    // The package for OpenAI's own API does not know the thoughts that the reasoner wants back.
    if (kind === "compatible" || id !== "reasoner") {
      print(id, `generateText ${kind}`, (await generateText({ ...agent, model })).text);
      print(id, `streamText ${kind}`, await streamText({ ...agent, model }).text);
    }
    print(id, `generateObject ${kind}`, (await generateObject({ ...question, schema, model })).object);
  }
  const thinking = { ...question, model: compatible(id), providerOptions: { [name]: { reasoningEffort: "low" } } };
  print(id, "reasoning", (await generateText(thinking)).reasoningText);
  print(id, "reasoning streamed", await streamText(thinking).reasoningText);
}
