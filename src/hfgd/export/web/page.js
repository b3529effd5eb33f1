"use strict";
// One page, two engines: the model in a worker of this page, or a service that is asked.

const get = (id) => document.getElementById(id);
const facts = JSON.parse(get("facts").textContent);
const state = { busy: false, name: null, next: null, shown: null, hidden: new Set() };

// ---- engines: label({file, pixels, width, height}) → {labels, width, height, seconds} ------------

/** The model in a worker, which is made when first needed and anew after it failed. */
class InPage {
  async label({ pixels, width, height }) {
    try {
      if (!this.worker) await this.start();
      progress("Labelling", null);
      return await this.ask({ what: "label", pixels, width, height }, [pixels.buffer]);
    } catch (error) {
      this.worker?.terminate();
      this.worker = null;
      throw error;
    }
  }

  async start() {
    const url = URL.createObjectURL(new Blob([get("worker").textContent], { type: "text/javascript" }));
    this.worker = new Worker(url);
    await this.ask({ what: "load", wasm: get("wasm").textContent, model: get("model").textContent, facts });
    URL.revokeObjectURL(url);
  }

  ask(message, moved = []) {
    return new Promise((resolve, reject) => {
      this.worker.onmessage = ({ data }) => {
        if (data.what === "progress") progress(data.name, data.done ?? null);
        else if (data.what === "failed") reject(new Error(inWords(data.message)));
        else resolve(data);
      };
      this.worker.onerror = (event) => {
        reject(new Error(event.message || "this browser could not start the model"));
      };
      this.worker.postMessage(message, moved);
    });
  }
}

function inWords(message) {
  const full = /memory|alloc|abort|out of bounds/i.test(message);
  return full ? `not enough memory for this image; try a smaller one (${message})` : message;
}

/** A service: the file itself is sent, so that its own decoder reads it. */
class Service {
  async label({ file }) {
    progress("Labelling", null);
    const began = performance.now();
    const answer = await fetch(facts.service, {
      method: "POST", body: file, headers: { Accept: "image/png", "Content-Type": "application/octet-stream" },
    }).catch(() => { throw new Error("the service does not answer"); });
    if (!answer.ok) {
      const told = await answer.json().catch(() => ({}));
      throw new Error(told.detail ?? `the service answered ${answer.status}`);
    }
    const seconds = (performance.now() - began) / 1000;
    return { ...(await readLabels(await answer.arrayBuffer())), seconds };
  }
}

const engine = facts.service ? new Service() : new InPage();

// ---- one image -------------------------------------------------------------------------------------

async function take(file) {
  if (state.busy) {
    state.next = file; // the last one that was given comes next
    return;
  }
  state.busy = true;
  get("trouble").hidden = true;
  get("work").hidden = false;
  try {
    if (!window.DecompressionStream) throw new Error("this browser is too old for this page");
    progress("Reading the image", null);
    const image = await read(file);
    const answer = await engine.label({ file, ...image });
    if (answer.width !== image.width || answer.height !== image.height) await fit(image, file, answer);
    show(file, image, answer);
  } catch (error) {
    say("");
    get("trouble").textContent = `${file.name || "The image"}: ${error.message}`;
    get("trouble").hidden = false;
  }
  get("work").hidden = true;
  clearInterval(state.clock);
  Object.assign(state, { busy: false, name: null });
  const next = state.next;
  state.next = null;
  if (next) take(next);
}

/** Upright pixels as they are stored (no colour profile), at most facts.maxPixels of them. */
async function read(file) {
  const options = { imageOrientation: "from-image", colorSpaceConversion: "none", premultiplyAlpha: "none" };
  const bitmap = await createImageBitmap(file, options)
    .catch(() => { throw new Error("this is no image that this browser can read"); });
  const whole = bitmap.width * bitmap.height;
  const scale = Math.min(1, Math.sqrt(facts.maxPixels / whole));
  const width = Math.max(1, Math.floor(bitmap.width * scale));
  const height = Math.max(1, Math.floor(bitmap.height * scale));
  const original = [bitmap.width, bitmap.height];
  return { ...draw(bitmap, width, height), original };
}

function draw(bitmap, width, height) {
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  return { canvas, width, height, pixels: context.getImageData(0, 0, width, height).data };
}

/** The picture at the size of labels that were made elsewhere. */
async function fit(image, file, answer) {
  const bitmap = await createImageBitmap(file, { imageOrientation: "from-image" });
  Object.assign(image, draw(bitmap, answer.width, answer.height));
}

// ---- the result -------------------------------------------------------------------------------------

function show(file, image, { labels, width, height, seconds }) {
  const counts = new Array(256).fill(0);
  for (const id of labels) counts[id]++;
  const found = counts.map((count, id) => ({ id, share: count / labels.length }))
    .filter(({ share, id }) => share > 0 && id < facts.classes.length)
    .sort((a, b) => b.share - a.share);
  state.shown = { file, labels, width, height, found };
  state.hidden.clear();
  const target = get("image");
  Object.assign(target, { width, height });
  target.getContext("2d").drawImage(image.canvas, 0, 0);
  paint();
  legend(found);
  const words = found.slice(0, 5).map(({ id, share }) => `${facts.classes[id]} ${percent(share)}`);
  get("stack").setAttribute("aria-label", `The image under its labels: ${words.join(", ")}`);
  get("result").hidden = false;
  save();
  const [wide, tall] = image.original;
  const smaller = wide * tall > width * height ? `, scaled down from ${wide}×${tall}` : "";
  say(`Labelled ${file.name || "the image"} at ${width}×${height}${smaller} in ${seconds.toFixed(1)} s: ${words.join(", ")}`);
}

function paint() {
  const { labels, width, height } = state.shown;
  const canvas = get("labels");
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  const picture = context.createImageData(width, height);
  const table = new Uint32Array(256);
  facts.palette.forEach((colour, id) => {
    new Uint8Array(table.buffer, 4 * id, 4).set([...colour, state.hidden.has(id) ? 0 : 255]);
  });
  const words = new Uint32Array(picture.data.buffer);
  for (let i = 0; i < labels.length; i++) words[i] = table[labels[i]];
  context.putImageData(picture, 0, 0);
}

function legend(found) {
  const rows = found.map(({ id, share }) => {
    const row = document.createElement("tr");
    const [name, number] = [document.createElement("td"), document.createElement("td")];
    const label = document.createElement("label");
    const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: true });
    box.addEventListener("change", () => {
      state.hidden[box.checked ? "delete" : "add"](id);
      paint();
    });
    const swatch = Object.assign(document.createElement("span"), { className: "swatch" });
    swatch.style.background = `rgb(${facts.palette[id].join(" ")})`;
    label.append(box, swatch, facts.classes[id]);
    name.append(label);
    number.className = "number";
    number.textContent = percent(share);
    row.append(name, number);
    return row;
  });
  get("legend").replaceChildren(...rows);
}

async function save() {
  const { file, labels, width, height } = state.shown;
  const blob = await writeLabels(labels, width, height, facts.palette);
  const link = get("save");
  if (link.href) URL.revokeObjectURL(link.href);
  link.href = URL.createObjectURL(blob);
  link.download = `${stem(file)}.png`;
}

function saveOverlay() {
  const { file, width, height } = state.shown;
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d");
  context.drawImage(get("image"), 0, 0);
  context.globalAlpha = get("opacity").value / 100;
  context.drawImage(get("labels"), 0, 0);
  canvas.toBlob((blob) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `${stem(file)}_overlay.png`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  });
}

const stem = (file) => (file.name || "labels").replace(/\.[^.]+$/, "");
const percent = (share) => (share < 0.001 ? "< 0.1 %" : `${(100 * share).toFixed(1)} %`);

// ---- what is going on -------------------------------------------------------------------------------

function say(text) {
  get("status").textContent = text;
}

/** done: 0…1, or null where nobody knows. The seconds are counted, unheard by screen readers. */
function progress(name, done) {
  const bar = get("bar");
  if (done === null) bar.removeAttribute("value");
  else bar.value = done;
  if (state.name === name) return;
  clearInterval(state.clock);
  state.name = name;
  say(`${name} …`);
  const began = performance.now();
  const tick = () => { get("clock").textContent = `${Math.round((performance.now() - began) / 1000)} s`; };
  tick();
  state.clock = setInterval(tick, 1000);
}

// ---- the doors ---------------------------------------------------------------------------------------

get("file").addEventListener("change", ({ target }) => {
  if (target.files[0]) take(target.files[0]);
  target.value = ""; // the same file again is a new choice
});
for (const name of ["dragover", "drop", "dragleave"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    document.body.classList.toggle("over", name === "dragover");
    const file = name === "drop" && event.dataTransfer.files[0];
    if (file) take(file);
  });
}
document.addEventListener("paste", ({ clipboardData }) => {
  if (clipboardData.files[0]) take(clipboardData.files[0]);
});
get("opacity").addEventListener("input", ({ target }) => {
  get("percent").textContent = `${target.value} %`;
  get("labels").style.opacity = target.value / 100;
});
get("save-overlay").addEventListener("click", saveOverlay);
get("stack").addEventListener("pointermove", ({ currentTarget, clientX, clientY }) => {
  const box = currentTarget.getBoundingClientRect();
  const { labels, width, height } = state.shown;
  const x = Math.min(width - 1, Math.floor(((clientX - box.left) / box.width) * width));
  const y = Math.min(height - 1, Math.floor(((clientY - box.top) / box.height) * height));
  get("under").textContent = `${facts.classes[labels[y * width + x]] ?? "unlabelled"} (${x}, ${y})`;
});
for (const [term, text] of Object.entries(facts.about)) {
  const [dt, dd] = [document.createElement("dt"), document.createElement("dd")];
  dt.textContent = term;
  dd.textContent = text;
  get("about").append(dt, dd);
}
get("classes").textContent = facts.classes.map((name, id) => `${id} ${name}`).join(", ");
