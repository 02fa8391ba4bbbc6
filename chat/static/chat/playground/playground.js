// The page: ask, show the growing answer, continue.

import { chat, models } from "./api.js";
import { copy, curl } from "./clipboard.js";
import { Images, thumbnail } from "./images.js";
import { Markdown } from "./markdown.js";

const root = document.body.dataset.root;
const [form, prompt, model, key, user, more, settings, trouble, send, stop, turns, welcome, status] =
  [
    ..."ask prompt model key user more settings trouble send stop".split(" "),
    ..."turns welcome status".split(" "),
  ].map((id) => document.getElementById(id));
const files = document.getElementById("files");

const images = new Images(document.getElementById("images"), document.getElementById("size"));
let running = null; // the AbortController of the answer that is being written
let last = null; // the turn that the next one continues
const shown = new WeakMap(); // article -> Turn

// --- A turn ---------------------------------------------------------------------------------------

class Turn {
  text = "";
  thoughts = "";
  drawn = 0; // characters of the thoughts that are shown

  constructor(question, apiKey) {
    this.question = question;
    this.key = apiKey;
    this.article = document.getElementById("turn").content.cloneNode(true).firstElementChild;
    shown.set(this.article, this);
    this.part(".question p").textContent = question.prompt;
    this.part(".question ul").append(...(question.images ?? []).map((url) => thumbnail({ url })));
    this.part(".question ul").hidden = !question.images;
    this.part(".answer").setAttribute("aria-busy", "true");
    this.markdown = new Markdown(this.part(".answer"));
    this.draw = throttled(() => {
      if (this.ended) return;
      keepingPlace(() => {
        this.drawThoughts();
        this.markdown.grow(this.text);
      });
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

  think(thought) {
    this.thoughts += thought;
    this.draw();
  }

  drawThoughts() {
    this.part(".thoughts p").append(this.thoughts.slice(this.drawn));
    this.drawn = this.thoughts.length;
    this.part(".thoughts").hidden = !this.thoughts;
    if (this.text || this.ended) this.part(".thoughts summary").textContent = "Thoughts";
  }

  done(answer) {
    this.thoughts ||= answer.reasoning ?? "";
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
      this.drawThoughts();
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

async function ask(text, pictures) {
  const turn = new Turn(question(text, pictures), key.value);
  const controller = new AbortController();
  welcome.hidden = true;
  busy(controller);
  scrollTo(0, document.documentElement.scrollHeight);
  status.textContent = "Waiting for the answer.";
  try {
    for await (const piece of chat(root, turn.key, turn.question, controller.signal)) {
      if (piece.answer) {
        turn.done(piece.answer);
        last = turn;
      } else if (piece.thought) {
        turn.think(piece.thought);
      } else {
        turn.add(piece.text);
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

function question(text, pictures) {
  // A conversation belongs to one user, and to the owner of one key.
  const goesOn = last && last.question.userId === user.value && last.key === key.value;
  return {
    userId: user.value,
    prompt: text,
    ...(pictures.length && { images: pictures }),
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

/** A function that draws with the next frame, and spends at most a fifth of the time on it. */
function throttled(draw) {
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

/** Change the page. A reader at its end stays at the end; one who scrolled up stays in place. */
function keepingPlace(change) {
  const { scrollHeight, clientHeight, scrollTop } = document.documentElement;
  const atEnd = scrollHeight - clientHeight - scrollTop < 40;
  change();
  if (atEnd) scrollTo(0, document.documentElement.scrollHeight);
}

// --- Settings -------------------------------------------------------------------------------------

/** Keep the fields' values as long as the tab is open. */
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

// --- Events ---------------------------------------------------------------------------------------

form.addEventListener("submit", (event) => {
  event.preventDefault();
  prompt.focus();
  if (running) return;
  if (!prompt.value.trim()) {
    if (images.urls.length) images.say("Write a question about the images.");
    return;
  }
  const [text, pictures] = [prompt.value, images.urls];
  prompt.value = "";
  images.clear();
  ask(text, pictures);
});

async function attach(files) {
  await images.add(files);
  status.textContent = document.getElementById("size").textContent;
  prompt.focus();
}

document.getElementById("attach").addEventListener("click", () => files.click());

files.addEventListener("change", () => {
  attach([...files.files]);
  files.value = ""; // the same file may be chosen again
});

prompt.addEventListener("paste", (event) => {
  const { files, types } = event.clipboardData;
  if (!files.length || types.includes("text/plain")) return; // cells of a table are an image too
  event.preventDefault();
  attach([...files]);
});

document.addEventListener("dragover", (event) => {
  if (!event.dataTransfer.types.includes("Files")) return;
  event.preventDefault();
  form.classList.add("over");
});

document.addEventListener("dragleave", ({ relatedTarget }) => {
  if (!relatedTarget) form.classList.remove("over");
});

document.addEventListener("drop", (event) => {
  form.classList.remove("over");
  if (!event.dataTransfer.files.length) return;
  event.preventDefault();
  attach([...event.dataTransfer.files]);
});

prompt.addEventListener("keydown", (event) => {
  // Enter may end the composition of a character: then it does not send.
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
    ask(turn.question.prompt, turn.question.images ?? []);
  }
  const text = {
    answer: () => turn.text,
    code: () => target.closest(".code").querySelector("code").textContent,
    curl: () => curl(new URL(`${root}v1/chat`, location).href, turn.key, turn.question),
  }[target.dataset.copy]?.();
  if (text == null) return;
  await copy(text);
  status.textContent = "Copied.";
  const label = target.textContent;
  if (label === "Copied") return; // an earlier click restores the label
  target.textContent = "Copied";
  setTimeout(() => (target.textContent = label), 1500);
});

remember();
listModels();
