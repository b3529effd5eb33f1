// The page itself: what is chosen lives in the address (location.hash), keys, light and dark.
const Page = {
  kinds: {}, // kind of section → function (body, data, id) that draws it
  keys: [], // {key, text, run}
  listeners: [],

  params() {
    return new URLSearchParams(location.hash.slice(1));
  },
  get(name, otherwise) {
    const value = Page.params().get(name);
    return value === null ? otherwise : value;
  },
  // Remember a choice; what is the default is left out of the address.
  set(name, value, otherwise) {
    const params = Page.params();
    if (value === null || String(value) === String(otherwise)) params.delete(name);
    else params.set(name, value);
    const text = params.toString();
    history.replaceState(null, "", text ? `#${text}` : "#");
  },
  // Told when somebody changes the address: a link, the back button.
  onstate(run) {
    Page.listeners.push(run);
  },
  key(key, text, run) {
    Page.keys.push({ key, text, run });
  },

  // el("button", {class: "x", onclick: f}, "text", child)
  el(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (value === true) node.setAttribute(name, "");
      else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
    }
    node.append(...children);
    return node;
  },
  // a labelled <select>: options are [value, title]
  select(title, options, value, change) {
    const select = Page.el("select", { "aria-label": title, onchange: () => change(select.value) });
    for (const [key, text] of options) select.append(Page.el("option", { value: key }, text));
    select.value = value;
    return Page.el("label", { class: "field" }, Page.el("span", {}, title), select);
  },
  number(value, digits) {
    if (value === null || value === undefined) return "–";
    return value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  },
  percent(value) {
    return value === null || value === undefined ? "–" : `${(100 * value).toFixed(1)} %`;
  },
  rgb(colour) {
    return `rgb(${colour.join(" ")})`;
  },

  start() {
    const nav = document.querySelector("nav");
    const sections = [...document.querySelectorAll("section[data-kind]")];
    for (const section of sections) {
      const source = section.querySelector("script");
      const data = JSON.parse(source.textContent);
      source.remove(); // the text is not needed twice
      Page.kinds[section.dataset.kind](section.querySelector(".body"), data, section.id);
      const title = section.querySelector("h2");
      title.tabIndex = -1;
      const go = () => {
        title.scrollIntoView({ block: "start" });
        title.focus({ preventScroll: true });
      };
      nav.append(Page.el("button", { type: "button", onclick: go }, title.textContent));
    }
    nav.hidden = sections.length < 2;
    document.querySelector("[data-skip]").addEventListener("click", (event) => {
      event.preventDefault(); // the address is for choices
      document.getElementById("main").focus();
    });
    Page.theme();
    Page.help();
    addEventListener("hashchange", () => Page.listeners.forEach((run) => run()));
    document.addEventListener("keydown", Page.pressed);
  },

  pressed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    const typing = event.target.closest("input:not([type=range]):not([type=radio]), select, textarea");
    if (typing && event.key !== "Escape") return;
    for (const { key, run } of Page.keys) {
      if (![key].flat().includes(event.key)) continue;
      if (run(event) !== false) event.preventDefault();
      return;
    }
  },

  theme() {
    const button = document.getElementById("theme");
    const names = ["auto", "light", "dark"];
    const show = () => {
      const theme = names.includes(Page.get("theme")) ? Page.get("theme") : "auto";
      document.documentElement.dataset.theme = theme;
      button.textContent = `theme: ${theme}`;
      document.dispatchEvent(new Event("theme"));
    };
    const next = () => {
      Page.set("theme", names[(names.indexOf(Page.get("theme", "auto")) + 1) % 3], "auto");
      show();
    };
    button.addEventListener("click", next);
    Page.key("d", "theme: auto, light, dark", next);
    Page.onstate(show);
    show();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
  },

  help() {
    const dialog = document.getElementById("keys");
    const open = () => (dialog.open ? dialog.close() : dialog.showModal());
    Page.key("?", "this list", open);
    document.getElementById("help").addEventListener("click", open);
    for (const { key, text } of Page.keys.filter((entry) => entry.text)) {
      const names = [key].flat().map((name) => Page.el("kbd", {}, name));
      dialog.querySelector("dl").append(Page.el("dt", {}, ...names), Page.el("dd", {}, text));
    }
  },
};
