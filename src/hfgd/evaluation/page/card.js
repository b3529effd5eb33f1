// One image of a gallery: the photograph, and over it one canvas, or one for each of two models.
Page.Stack = class {
  constructor(data) {
    this.data = data;
    this.photo = Page.el("img", { alt: "", draggable: "false" });
    const count = data.models.length > 1 ? 2 : 1;
    this.canvases = Array.from({ length: count }, (_, side) => Page.el("canvas", { class: `over side-${side}` }));
    this.node = Page.el("span", { class: count > 1 ? "stack two" : "stack" }, this.photo, ...this.canvases);
    this.drawing = 0;
  }

  // view: {layer, sides, chosenClass}
  async show(item, view) {
    const drawing = ++this.drawing; // what was asked for later wins
    if (this.item !== item) {
      this.item = item;
      this.photo.src = item.layers.image;
    }
    if (view.layer === null) return this.clear();
    await Promise.all(this.canvases.map(async (canvas, side) => {
      const fresh = document.createElement("canvas");
      const there = await Page.layers.paint(fresh, this.data, item, view.layer, view.sides, side, view.chosenClass);
      if (drawing !== this.drawing) return;
      [canvas.width, canvas.height] = there ? [fresh.width, fresh.height] : [0, 0];
      if (there) canvas.getContext("2d").drawImage(fresh, 0, 0);
    }));
  }

  clear() {
    this.canvases.forEach((canvas) => ([canvas.width, canvas.height] = [0, 0]));
  }

  // Far from view: give the memory back.
  leave() {
    this.drawing++;
    this.item = null;
    this.photo.removeAttribute("src");
    this.clear();
  }
};

// The large view of one image, with the same controls.
Page.large = (data, controls, step, closed) => {
  const stack = new Page.Stack(data);
  const title = Page.el("h3", { id: "large-title" });
  const facts = Page.el("dl", { class: "facts" });
  const said = Page.el("p", { class: "said" }, "Point at the picture to read its classes.");
  const button = (text, name, run) => Page.el("button", { type: "button", "aria-label": name, onclick: run }, text);
  const place = Page.el("div", { class: "controls-place" });
  const dialog = Page.el("dialog", { class: "large", "aria-labelledby": "large-title" },
    Page.el("div", { class: "bar" }, title, Page.el("div", { class: "tools" },
      button("‹", "previous image", () => step(-1)), button("›", "next image", () => step(1)),
      button("×", "close", () => dialog.close()))),
    stack.node, said, place, facts);
  const home = controls.parentNode;
  const next = controls.nextSibling;
  dialog.addEventListener("close", () => {
    home.insertBefore(controls, next);
    closed();
  });
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());

  // which classes lie under the pointer
  let known = { item: null };
  async function load(item, sides) {
    const lines = data.layers.filter((layer) => layer.kind === "labels").flatMap((layer) =>
      layer.byModel && data.models.length > 1
        ? sides.map((model) => [`${layer.title} of ${data.models[model]}`, Page.layers.of(data, item, layer.key, model)])
        : [[layer.title, Page.layers.of(data, item, layer.key, sides[0])]]);
    const maps = await Promise.all(lines.map(([, values]) => values));
    known = { item, lines: lines.map(([name], i) => [name, maps[i]]).filter(([, map]) => map) };
  }
  stack.node.addEventListener("pointermove", (event) => {
    const { item } = known;
    if (!item) return;
    const box = stack.node.getBoundingClientRect();
    const [height, width] = item.size;
    const scale = Math.min(box.width / width, box.height / height);
    const x = Math.floor((event.clientX - box.left - (box.width - scale * width) / 2) / scale);
    const y = Math.floor((event.clientY - box.top - (box.height - scale * height) / 2) / scale);
    if (x < 0 || y < 0 || x >= width || y >= height) return;
    said.textContent = known.lines.map(([name, map]) => {
      const id = map[y * width + x];
      return `${name}: ${data.classes[id] || "void"}`;
    }).join(" · ");
  });

  return {
    dialog,
    async show(item, view) {
      title.textContent = item.name;
      facts.replaceChildren(...Object.entries(item.facts).map(([name, text]) =>
        Page.el("div", {}, Page.el("dt", {}, name), Page.el("dd", {}, text))));
      stack.node.style.setProperty("--shape", item.size[1] / item.size[0]);
      if (!dialog.open) {
        place.append(controls);
        dialog.showModal();
      }
      known = { item: null };
      await Promise.all([stack.show(item, view), load(item, view.sides)]);
    },
  };
};
