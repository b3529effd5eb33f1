// Images with a switch, sliders, sorting and filters; what is chosen lives in the address.
Page.kinds.gallery = (body, data, id) => {
  const two = data.models.length > 1;
  const byClass = "class";
  const layers = [{ key: "image", title: "image", hint: "" }, ...data.layers];
  const sorts = [...data.sorts, { key: "name", title: "name" }];
  const tags = [...new Set(data.items.flatMap((item) => item.tags))].sort();
  const state = {};
  let shown = [];

  const read = (name, otherwise) => Page.get(`${id}.${name}`, otherwise);
  const defaults = {
    sort: sorts[0].key, order: "", class: "", name: "", tag: "", layer: layers[layers.length > 1 ? 1 : 0].key,
    opacity: "60", wipe: "50", left: "0", right: String(Math.max(0, data.models.length - 1)), open: "",
  };
  function load() {
    for (const [name, otherwise] of Object.entries(defaults)) state[name] = read(name, otherwise);
    const whole = (name, least, most) => {
      const value = Number(state[name]);
      state[name] = Number.isInteger(value) && value >= least && value <= most ? String(value) : defaults[name];
    };
    const among = (name, known) => {
      if (!known.includes(state[name])) state[name] = defaults[name];
    };
    whole("opacity", 0, 100);
    whole("wipe", 0, 100);
    ["left", "right"].forEach((name) => two && whole(name, 0, data.models.length - 1));
    among("sort", sorts.map((sort) => sort.key));
    among("order", ["", "up", "down"]);
    among("layer", layers.map((layer) => layer.key));
    among("class", ["", ...data.classes]);
    among("tag", ["", ...tags]);
  }
  function change(name, value) {
    state[name] = String(value);
    Page.set(`${id}.${name}`, value, defaults[name]);
    apply(name);
  }
  const layer = () => data.layers.find((one) => one.key === state.layer) || null;
  const view = () => ({ layer: layer(), sides: [Number(state.left), Number(state.right)], chosenClass: data.classes.indexOf(state.class) });
  load();

  // --- controls ---
  const choice = layers.map(({ key, title }) => {
    const input = Page.el("input", { type: "radio", name: `${id}-layer`, value: key, onchange: () => change("layer", key) });
    return Page.el("label", {}, input, Page.el("span", {}, title));
  });
  const slider = (title, name) => {
    const input = Page.el("input", { type: "range", "aria-label": title, min: 0, max: 100, oninput: () => change(name, input.value) });
    return Page.el("label", { class: "field slide" }, Page.el("span", {}, title), input);
  };
  const fields = {
    opacity: slider("colours over the image", "opacity"),
    wipe: two ? slider("from the left model to the right", "wipe") : null,
    left: two ? Page.select("left", data.models.map((title, i) => [i, title]), 0, (value) => change("left", value)) : null,
    right: two ? Page.select("right", data.models.map((title, i) => [i, title]), 0, (value) => change("right", value)) : null,
    sort: Page.select("sort by", sorts.map(({ key, title }) => [key, title]), "", (value) => change("sort", value)),
    class: Page.select("class", [["", "all classes"], ...data.classes.map((name) => [name, name])], "", (value) => change("class", value)),
    tag: tags.length ? Page.select("kind", [["", "all kinds"], ...tags.map((tag) => [tag, tag])], "", (value) => change("tag", value)) : null,
  };
  const name = Page.el("input", { type: "search", "aria-label": "name", placeholder: "part of a name", oninput: () => change("name", name.value) });
  fields.name = Page.el("label", { class: "field" }, Page.el("span", {}, "name"), name);
  const order = Page.el("button", { type: "button", class: "order", onclick: () => change("order", descending() ? "up" : "down") });
  const hint = Page.el("p", { class: "hint" });
  const looks = Page.el("div", { class: "controls" },
    Page.el("fieldset", { class: "switch" }, Page.el("legend", {}, "show"), ...choice),
    ...[fields.opacity, fields.wipe, fields.left, fields.right].filter(Boolean), hint);
  const legend = Page.el("details", { class: "legend" }, Page.el("summary", {}, "colours of the classes"),
    ...data.classes.map((title, i) => Page.el("button", {
      type: "button", "aria-pressed": "false", "data-class": title,
      onclick: () => change("class", state.class === title ? "" : title),
    }, Page.el("span", { class: "swatch", style: `background:${Page.rgb(data.palette[i])}` }), title)));
  const status = Page.el("p", { role: "status", class: "status" });
  const filters = Page.el("div", { class: "controls" },
    ...[fields.sort, order, fields.class, fields.tag, fields.name].filter(Boolean), status);
  const grid = Page.el("ul", { class: "grid" });
  const bar = Page.el("div", { class: "sticky" }, looks);
  body.append(filters, legend, bar, grid);

  // --- cards ---
  const cards = data.items.map((item, place) => {
    const stack = new Page.Stack(data);
    const score = Page.el("span", { class: "score" });
    const button = Page.el("button", { type: "button", onclick: () => change("open", item.name) }, stack.node,
      Page.el("span", { class: "caption" }, Page.el("span", { class: "name" }, item.name), score));
    const node = Page.el("li", {}, button);
    node.place = place;
    return { item, stack, score, button, node, near: false };
  });
  if (cards.length) body.style.setProperty("--shape", shape(data.items));
  function shape(items) {
    const all = items.map(({ size }) => size[1] / size[0]).sort((a, b) => a - b);
    return Math.min(2.4, Math.max(0.75, all[all.length >> 1]));
  }
  const near = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      const card = cards[target.place];
      card.near = isIntersecting;
      if (isIntersecting) card.stack.show(card.item, view());
      else card.stack.leave();
    }
  }, { rootMargin: "600px 0px" });
  cards.forEach((card) => near.observe(card.node));

  // --- order and filters ---
  function value(item) {
    if (state.sort === byClass) {
      if (state.class) return item.classes[data.classes.indexOf(state.class)] ?? null;
      const known = Object.values(item.classes).filter((one) => one !== null);
      return known.length ? Math.min(...known) : null;
    }
    return item.values[state.sort] ?? null;
  }
  function descending() {
    const usual = sorts.find((sort) => sort.key === state.sort).descending;
    return state.order ? state.order === "down" : Boolean(usual);
  }
  function matching() {
    const wanted = data.classes.indexOf(state.class);
    const part = state.name.toLowerCase();
    return cards.filter(({ item }) =>
      (wanted < 0 || String(wanted) in item.classes) && (!state.tag || item.tags.includes(state.tag)) && item.name.toLowerCase().includes(part));
  }
  function arrange() {
    const sign = descending() ? -1 : 1;
    shown = matching();
    shown.sort((a, b) => {
      if (state.sort === "name") return sign * a.item.name.localeCompare(b.item.name);
      const [x, y] = [value(a.item), value(b.item)];
      return x === null || y === null ? (x === null) - (y === null) : sign * (x - y); // none comes last
    });
    const title = sorts.find((sort) => sort.key === state.sort).title;
    for (const card of shown) {
      const text = state.sort === "name" ? Object.values(card.item.values)[0] : value(card.item);
      card.score.textContent = text === undefined ? "" : Page.percent(text);
      card.button.setAttribute("aria-label", state.sort === "name" ? card.item.name : `${card.item.name}, ${title} ${Page.percent(text)}`);
    }
    grid.replaceChildren(...shown.map((card) => card.node));
    status.textContent = shown.length === cards.length ? `${cards.length} images` : `${shown.length} of ${cards.length} images`;
  }

  // --- drawing ---
  function redraw() {
    cards.filter((card) => card.near).forEach((card) => card.stack.show(card.item, view()));
  }
  function slides() {
    body.style.setProperty("--opacity", state.opacity / 100);
    body.style.setProperty("--wipe", `${state.wipe}%`);
  }
  const large = Page.large(data, looks, step, () => {
    const card = cards.find(({ item }) => item.name === state.open);
    change("open", "");
    if (card) card.button.focus();
  });
  body.append(large.dialog);
  function step(by) {
    const place = shown.findIndex(({ item }) => item.name === state.open);
    const next = shown[place + by];
    if (place >= 0 && next) change("open", next.item.name);
  }
  function opened() {
    const card = state.open && cards.find(({ item }) => item.name === state.open);
    if (card) large.show(card.item, view());
    else if (large.dialog.open) large.dialog.close();
  }

  function controls() {
    choice.forEach((label) => (label.firstChild.checked = label.firstChild.value === state.layer));
    for (const [key, field] of Object.entries(fields)) {
      const input = field && field.querySelector("input, select");
      if (input && input.value !== state[key]) input.value = state[key];
    }
    fields.opacity.hidden = layer() === null;
    if (fields.wipe) fields.wipe.hidden = layer() === null || !sided();
    body.classList.toggle("whole", two && !sided());
    order.textContent = descending() ? "▼ highest first" : "▲ lowest first";
    if (state.sort === "name") order.textContent = descending() ? "▼ z to a" : "▲ a to z";
    hint.textContent = layer() ? layer().hint : "";
    legend.querySelectorAll("button").forEach((button) => button.setAttribute("aria-pressed", button.dataset.class === state.class));
  }
  // whether the layer differs between the models
  function sided() {
    const one = layer();
    if (one === null || one.kind === "gain") return false;
    return one.byModel || (one.kind === "error" && data.layers.some((other) => other.key === one.of[1] && other.byModel));
  }
  function apply(name) {
    controls();
    slides();
    if (["sort", "order", "class", "name", "tag", undefined].includes(name)) arrange();
    if (["layer", "left", "right", "class", undefined].includes(name)) redraw();
    if (["open", "layer", "left", "right", "class", undefined].includes(name)) opened();
  }
  Page.onstate(() => {
    load();
    apply();
  });
  apply();

  // --- keys ---
  if (id !== "gallery") return; // of the first gallery
  const digits = layers.map((_, i) => String(i + 1)).slice(0, 9);
  Page.key(digits, "show the image, or the layer of that number", (event) => change("layer", layers[Number(event.key) - 1].key));
  const nudge = (name, by) => change(name, Math.min(100, Math.max(0, Number(state[name]) + by)));
  Page.key(["[", "]"], "colours: fainter, stronger", (event) => nudge("opacity", event.key === "[" ? -10 : 10));
  if (two) Page.key([",", "."], "slider between the models: left, right", (event) => nudge("wipe", event.key === "," ? -5 : 5));
  Page.key("s", "sort by the next", () => change("sort", sorts[(sorts.findIndex((sort) => sort.key === state.sort) + 1) % sorts.length].key));
  Page.key("o", "the other order", () => change("order", descending() ? "up" : "down"));
  Page.key("/", "filter by name", () => name.focus());
  Page.key(["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"], "go from image to image", (event) => {
    if (event.target.matches("input")) return false;
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (large.dialog.open) return by ? step(by) : false;
    const place = shown.findIndex((card) => card.button === document.activeElement);
    if (place < 0) return false;
    const columns = getComputedStyle(grid).gridTemplateColumns.split(" ").length;
    const next = shown[place + (by || (event.key === "ArrowUp" ? -columns : columns))];
    if (next) next.button.focus();
  });
  Page.key("Enter", "open the image; Escape closes it", () => false);
};
