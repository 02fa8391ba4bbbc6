// Render growing Markdown, without any HTML of the answer.
//
// HTML in an answer is shown as text, pictures as links. DOMPurify then cleans marked's output: it
// allows the few elements below and links to the web.

import DOMPurify from "./vendor/dompurify.js";
import { Marked } from "./vendor/marked.js";

const SANITIZE_OPTIONS = {
  ALLOWED_TAGS: [
    ..."p br hr strong em del code pre blockquote ul ol li a".split(" "),
    ..."h1 h2 h3 h4 h5 h6 table thead tbody tr th td".split(" "),
  ],
  ALLOWED_ATTR: ["href", "start", "align", "class"],
  ALLOW_ARIA_ATTR: false,
  ALLOW_DATA_ATTR: false,
  ALLOWED_URI_REGEXP: /^https?:/i,
  ADD_URI_SAFE_ATTR: ["start", "align"],
  RETURN_DOM_FRAGMENT: true,
};

const marked = new Marked({
  breaks: true,
  renderer: {
    html: ({ text, block }) => {
      if (/^<br\s*\/?>$/i.test(text)) return "<br>"; // the only way to break a line in a table
      return block ? `<p>${escaped(text)}</p>` : escaped(text);
    },
    image: ({ href, text }) => `<a href="${escaped(href)}">${escaped(text || href)}</a>`,
    checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
  },
});

const ESCAPES = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };

function escaped(text) {
  return text.replace(/[&<>"']/g, (character) => ESCAPES[character]);
}

export class Markdown {
  // The settled part, which no longer changes: its characters, and the nodes made of them.
  #settled = { characters: 0, nodes: 0 };
  #element;

  constructor(element) {
    this.#element = element;
  }

  /** Show the text so far. The cost depends on the last blocks only, not on the whole text. */
  grow(text) {
    // A line of marks alone may still become a rule, a heading or an item.
    const sure = text.replace(/\n[-=*_+#`~|>:. \d]*$/, "");
    const blocks = blocksOf(sure, this.#settled.characters);
    const nodes = nodesOf(blocks);
    this.#replace(nodes);
    // The last block may grow, and the one before may be a list that continues after a blank line.
    const seen = blocks.filter((block) => marked.parser([block]));
    if (nodes.length !== seen.length || seen.length < 3) return;
    for (const block of blocks.slice(0, blocks.indexOf(seen.at(-2)))) {
      this.#settled.characters += block.raw.length;
    }
    this.#settled.nodes += seen.length - 2;
  }

  /** Show the whole text: late parts, such as a link's address, affect earlier ones. */
  finish(text) {
    this.#settled = { characters: 0, nodes: 0 };
    this.#replace(nodesOf(blocksOf(text)));
  }

  /** Put nodes after the settled ones. Equal nodes stay, and so does a selection in them. */
  #replace(nodes) {
    const there = [...this.#element.childNodes].slice(this.#settled.nodes);
    let same = 0;
    while (same < nodes.length && there[same]?.isEqualNode(nodes[same])) same += 1;
    for (const node of there.slice(same)) node.remove();
    this.#element.append(...nodes.slice(same));
  }
}

function blocksOf(text, start = 0) {
  return marked.lexer(text.replace(/\r\n?/g, "\n").slice(start));
}

function nodesOf(blocks) {
  const fragment = DOMPurify.sanitize(marked.parser(blocks), SANITIZE_OPTIONS);
  for (const link of fragment.querySelectorAll("a[href]")) {
    link.rel = "noopener noreferrer";
    link.target = "_blank";
  }
  for (const code of fragment.querySelectorAll("pre > code")) frame(code);
  for (const table of fragment.querySelectorAll("table")) scrollable(table);
  return [...fragment.children];
}

/** A code block with a head: its language, and a button that copies it. */
function frame(code) {
  const language = document.createElement("span");
  language.textContent = code.className.replace("language-", "");
  const button = document.createElement("button");
  button.type = "button";
  button.dataset.copy = "code";
  button.textContent = "Copy";
  const head = document.createElement("div");
  head.className = "head";
  head.append(language, button);
  const box = document.createElement("div");
  box.className = "code";
  code.parentElement.tabIndex = 0; // wide code is scrolled with the keyboard too
  code.parentElement.replaceWith(box);
  box.append(head, code.parentElement);
}

function scrollable(table) {
  const box = document.createElement("div");
  box.className = "wide";
  box.tabIndex = 0;
  table.replaceWith(box);
  box.append(table);
}
