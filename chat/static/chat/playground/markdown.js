// Markdown that grows, shown without ever letting HTML in.
//
// HTML in an answer is shown as the text that it is, pictures as links. What marked makes of the
// rest goes through DOMPurify, which lets through the few elements below and addresses of the web.

import DOMPurify from "./vendor/dompurify.js";
import { Marked } from "./vendor/marked.js";

const PURE = {
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
  // What is before this stays as it is: so many characters, which made so many nodes.
  #settled = { characters: 0, nodes: 0 };
  #element;

  constructor(element) {
    this.#element = element;
  }

  /** Show the text so far. It costs as much as its last blocks are long, not all that it is. */
  grow(text) {
    // A line of nothing but marks may yet become anything: a rule, a heading, an item.
    const sure = text.replace(/\n[-=*_+#`~|>:. \d]*$/, "");
    const blocks = blocksOf(sure, this.#settled.characters);
    const nodes = nodesOf(blocks);
    this.#replace(nodes);
    // The last block may grow, and the one before may be a list that goes on after a blank line.
    const seen = blocks.filter((block) => marked.parser([block]));
    if (nodes.length !== seen.length || seen.length < 3) return;
    for (const block of blocks.slice(0, blocks.indexOf(seen.at(-2)))) {
      this.#settled.characters += block.raw.length;
    }
    this.#settled.nodes += seen.length - 2;
  }

  /** Show the whole text: what comes late, a link's address for instance, counts from the start. */
  finish(text) {
    this.#settled = { characters: 0, nodes: 0 };
    this.#replace(nodesOf(blocksOf(text)));
  }

  /** Put nodes after the settled ones. Those that are there already stay, and what is selected. */
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
  const fragment = DOMPurify.sanitize(marked.parser(blocks), PURE);
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
