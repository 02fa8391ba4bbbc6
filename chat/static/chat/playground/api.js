// The page's two API calls, and sentences for their failures.

import { createParser } from "./vendor/eventsource-parser.js";

const BROKE_OFF = "The connection broke off before the answer was complete.";

/** A failed call: `message` is a sentence, `notes` are details that help to find the cause. */
export class Failure extends Error {
  constructor(message, { status, notes = [] } = {}) {
    super(message);
    this.status = status;
    this.notes = notes;
  }
}

export async function models(root, key) {
  const response = await send(`${root}v1/models`, { headers: identified(key) });
  return (await json(response)).data.map((model) => model.id);
}

/**
 * Ask, and yield `{ text }` for each piece of the answer and `{ thought }` for each of the thinking
 * before it, then `{ answer }`. Throws a Failure.
 */
export async function* chat(root, key, question, signal) {
  const response = await send(`${root}v1/chat`, {
    method: "POST",
    headers: { ...identified(key), "Content-Type": "application/json" },
    body: JSON.stringify(question),
    signal,
  });
  if (!response.headers.get("Content-Type")?.startsWith("text/event-stream")) {
    const answer = await json(response);
    yield { text: answer.response };
    yield { answer };
    return;
  }
  for await (const { event, data } of events(response.body, signal)) {
    if (event === "delta") {
      yield { text: parsed(data).text };
    } else if (event === "reasoning") {
      yield { thought: parsed(data).text };
    } else if (event === "done") {
      yield { answer: parsed(data) };
      return;
    } else if (event === "error") {
      throw failure(parsed(data));
    }
  }
  throw new Failure(BROKE_OFF);
}

function identified(key) {
  return key ? { "X-API-Key": key } : {};
}

async function send(url, options) {
  let response;
  try {
    response = await fetch(url, { credentials: "omit", cache: "no-store", ...options });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new Failure("The server could not be reached.");
  }
  if (response.ok) return response;
  // A gateway in front of the server does not answer with problem details.
  const problem = await response.json().catch(() => ({}));
  throw failure({ status: response.status, ...problem }, response.headers);
}

async function* events(body, signal) {
  const arrived = [];
  const parser = createParser({ onEvent: (event) => arrived.push(event) });
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      parser.feed(value);
      yield* arrived.splice(0);
    }
  } catch (error) {
    throw signal.aborted ? error : new Failure(BROKE_OFF);
  } finally {
    reader.cancel().catch(() => {}); // bytes after the end are ignored
  }
}

async function json(response) {
  return parsed(await response.text());
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    throw new Failure("The server's answer cannot be read.");
  }
}

function failure(problem, headers = new Headers()) {
  const wait = headers.get("Retry-After");
  const id = problem.request_id ?? headers.get("X-Request-ID");
  const notes = [
    ...(problem.errors ?? []).map(({ field, detail }) => (field ? `${field}: ${detail}` : detail)),
    wait && `Try again in ${wait} ${wait === "1" ? "second" : "seconds"}.`,
    [problem.code ?? `HTTP ${problem.status}`, id && `request ${id}`].filter(Boolean).join(", "),
  ];
  const { status } = problem;
  const message = problem.detail ?? "The server refused the request or failed.";
  return new Failure(message, { status, notes: notes.filter(Boolean) });
}
