// The images of the next question: pasted, dropped, or chosen.

const MAX_IMAGES = 16; // the API's limit

export class Images {
  #images = []; // { name, url }
  #list;
  #note;

  constructor(list, note) {
    this.#list = list;
    this.#note = note;
  }

  /** Data URLs. */
  get urls() {
    return this.#images.map(({ url }) => url);
  }

  /** Add those of the files that are images. */
  async add(files) {
    const images = [...files].filter(({ type }) => type.startsWith("image/"));
    const pictures = await Promise.all(images.slice(0, MAX_IMAGES).map(read));
    const fitting = pictures.slice(0, MAX_IMAGES - this.#images.length); // others were added meanwhile
    this.#images.push(...fitting);
    this.#draw();
    if (images.length < files.length) this.say("Only images can be added.");
    if (fitting.length < images.length) this.say(`No more than ${MAX_IMAGES} images.`);
  }

  clear() {
    this.#images = [];
    this.#draw();
  }

  say(sentence) {
    this.#note.textContent = sentence;
    this.#note.hidden = !sentence;
  }

  #draw() {
    const count = this.#images.length;
    this.#list.replaceChildren(...this.#images.map((image) => this.#removable(image)));
    this.#list.hidden = !count;
    const size = this.urls.reduce((sum, url) => sum + url.length, 0);
    this.say(count ? `${count} ${count === 1 ? "image" : "images"}, ${megabytes(size)} to send` : "");
  }

  #removable(image) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "×";
    button.ariaLabel = `Remove ${image.name}`;
    button.addEventListener("click", () => {
      this.#images = this.#images.filter((other) => other !== image);
      this.#draw();
    });
    const item = thumbnail(image);
    item.append(button);
    return item;
  }
}

/** A list item with the image as a thumbnail. */
export function thumbnail({ name = "Image", url }) {
  const picture = document.createElement("img");
  picture.src = url;
  picture.alt = name;
  const item = document.createElement("li");
  item.append(picture);
  return item;
}

function read(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve({ name: file.name || "Image", url: reader.result });
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}

function megabytes(bytes) {
  return `${Math.max(0.1, bytes / 1e6).toFixed(1)} MB`;
}
