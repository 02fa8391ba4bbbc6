// The page: ask, watch the answer grow, go on.

import { chat, models } from "./api.js";
import { copy, curl } from "./clipboard.js";
import { Markdown } from "./markdown.js";

const root = document.body.dataset.root;
const [form, prompt, model, key, user, more, settings, trouble, send, stop, turns, welcome, status] =
  [
    ..."ask prompt model key user more settings trouble send stop".split(" "),
    ..."turns welcome status".split(" "),
  ].map((id) => document.getElementById(id));

let running = null; // the AbortController of the answer that is being written
let last = null; // the turn that the next one continues
const shown = new WeakMap(); // article -> Turn

// --- A turn ---------------------------------------------------------------------------------------

class Turn {
  text = "";

  constructor(question, apiKey) {
    this.question = question;
    this.key = apiKey;
    this.article = document.getElementById("turn").content.cloneNode(true).firstElementChild;
    shown.set(this.article, this);
    this.part(".question").textContent = question.prompt;
    this.part(".answer").setAttribute("aria-busy", "true");
    this.markdown = new Markdown(this.part(".answer"));
    this.draw = nowAndThen(() => {
      if (!this.ended) keepingPlace(() => this.markdown.grow(this.text));
    });
    turns.append(this.article);
  }

  part(selector) {
    return this.article.querySelector(selector);
  }

  add(text) {
    this.text += text;
    this.draw();
  }

  done(answer) {
    this.id = answer.interaction_id;
    this.end("Answer complete.", { facts: facts(answer) });
  }

  stopped() {
    this.end("Stopped.", { notes: ["Stopped. It is not part of the conversation."] });
  }

  failed({ message, notes = [] }) {
    this.end(message, { notes: [message, ...notes], error: true });
  }

  end(announcement, { facts = [], notes = [], error = false }) {
    this.ended = true;
    keepingPlace(() => {
      this.markdown.finish(this.text);
      this.part(".answer").removeAttribute("aria-busy");
      this.part(".facts").textContent = facts.join("\u00a0· ");
      note(this.part(".note"), notes, error);
      this.part(".actions").hidden = false;
      this.part("[data-copy=answer]").hidden = !this.text;
      this.part("[data-again]").hidden = !error;
    });
    status.textContent = announcement;
  }
}

function note(element, lines, error = false) {
  const rows = lines.map((line) => {
    const row = document.createElement("span");
    row.textContent = line;
    return row;
  });
  element.replaceChildren(...rows);
  element.classList.toggle("error", error);
  element.hidden = !lines.length;
}

const ENDINGS = { length: "cut off: too long", content_filter: "cut off by a content filter" };

function facts({ model, usage, latency_ms, finish_reason, cached, recorded }) {
  const { prompt_tokens: read, completion_tokens: written, cost_usd: cost } = usage ?? {};
  return [
    model,
    read != null && written != null && `${read} ${read === 1 ? "token" : "tokens"} in, ${written} out`,
    cost != null && `$${cost}`,
    latency_ms != null && duration(latency_ms),
    cached && "from the cache",
    recorded === false && "not recorded",
    ENDINGS[finish_reason],
  ].filter(Boolean);
}

function duration(milliseconds) {
  return milliseconds < 1000 ? `${milliseconds} ms` : `${(milliseconds / 1000).toFixed(1)} s`;
}

// --- Asking ---------------------------------------------------------------------------------------

async function ask(text) {
  const turn = new Turn(question(text), key.value);
  const controller = new AbortController();
  welcome.hidden = true;
  busy(controller);
  scrollTo(0, document.documentElement.scrollHeight);
  status.textContent = "Waiting for the answer.";
  try {
    for await (const { text, answer } of chat(root, turn.key, turn.question, controller.signal)) {
      if (answer) {
        turn.done(answer);
        last = turn;
      } else {
        turn.add(text);
      }
    }
  } catch (error) {
    if (controller.signal.aborted) turn.stopped();
    else turn.failed(error);
    if (error.status === 401) open(true);
  } finally {
    if (running === controller) busy(null);
  }
}

function question(text) {
  // A conversation belongs to one user, and to the owner of one key.
  const goesOn = last && last.question.userId === user.value && last.key === key.value;
  return {
    userId: user.value,
    prompt: text,
    ...(model.value && { model: model.value }),
    ...(goesOn && { previous_interaction_id: last.id }),
    stream: true,
  };
}

function busy(controller) {
  running = controller;
  send.hidden = Boolean(controller);
  stop.hidden = !controller;
}

// --- Drawing --------------------------------------------------------------------------------------

/** A function that draws with the next frame, and spends a fifth of the time on it at most. */
function nowAndThen(draw) {
  let waiting = false;
  let pause = 0;
  return () => {
    if (waiting) return;
    waiting = true;
    setTimeout(() => {
      requestAnimationFrame(() => {
        const started = performance.now();
        waiting = false;
        draw();
        pause = 4 * (performance.now() - started);
      });
    }, pause);
  };
}

/** Change the page. Who is at its end stays there; who has scrolled up stays where they are. */
function keepingPlace(change) {
  const { scrollHeight, clientHeight, scrollTop } = document.documentElement;
  const atEnd = scrollHeight - clientHeight - scrollTop < 40;
  change();
  if (atEnd) scrollTo(0, document.documentElement.scrollHeight);
}

// --- Settings -------------------------------------------------------------------------------------

/** Keep what is in the fields for as long as the tab is there. */
function remember() {
  for (const field of [key, user, model]) {
    field.addEventListener("input", () => sessionStorage.setItem(field.id, field.value));
  }
  for (const field of [key, user]) {
    field.value = sessionStorage.getItem(field.id) ?? field.value;
  }
}

async function listModels() {
  let ids = [];
  note(trouble, []);
  try {
    ids = await models(root, key.value);
  } catch (error) {
    note(trouble, [`Models cannot be listed: ${error.message}`]);
    if (error.status === 401) open(true);
  }
  const chosen = sessionStorage.getItem("model");
  const listed = ids.filter((id) => id !== "default").map((id) => new Option(id, id));
  model.replaceChildren(model.options[0], ...listed);
  model.value = ids.includes(chosen) ? chosen : "";
}

function open(visible) {
  keepingPlace(() => {
    settings.hidden = !visible;
    more.setAttribute("aria-expanded", String(visible));
  });
}

// --- What people do -------------------------------------------------------------------------------

form.addEventListener("submit", (event) => {
  event.preventDefault();
  prompt.focus();
  if (running || !prompt.value.trim()) return;
  const text = prompt.value;
  prompt.value = "";
  ask(text);
});

prompt.addEventListener("keydown", (event) => {
  // Enter that ends the composition of a character is not meant for us.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  form.requestSubmit();
});

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") running?.abort();
});

stop.addEventListener("click", () => {
  running?.abort();
  prompt.focus();
});

document.getElementById("new").addEventListener("click", () => {
  running?.abort();
  last = null;
  turns.replaceChildren();
  welcome.hidden = false;
  status.textContent = "A new conversation.";
  prompt.focus();
});

more.addEventListener("click", () => open(settings.hidden));
key.addEventListener("change", listModels);

turns.addEventListener("click", async ({ target }) => {
  const turn = shown.get(target.closest("article"));
  if (target.matches("[data-again]") && !running) {
    turn.article.remove();
    ask(turn.question.prompt);
  }
  const text = {
    answer: () => turn.text,
    code: () => target.closest(".code").querySelector("code").textContent,
    curl: () => curl(new URL(`${root}v1/chat`, location).href, turn.key, turn.question),
  }[target.dataset.copy]?.();
  if (text == null) return;
  await copy(text);
  const label = target.textContent;
  target.textContent = "Copied";
  status.textContent = "Copied.";
  setTimeout(() => (target.textContent = label), 1500);
});

remember();
listModels();
