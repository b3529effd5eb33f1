// A table whose columns sort by a click; the address keeps the order.
Page.kinds.table = (body, data, id) => {
  const titles = data.columns.map((column) => column.title);
  const numeric = titles.map((_, i) => data.rows.some((row) => typeof row[i] === "number"));
  const buttons = titles.map((title, i) => Page.el("button", { type: "button", onclick: () => click(i) }, title));
  const heads = buttons.map((button, i) => Page.el("th", { scope: "col", class: numeric[i] ? "number" : null }, button));
  const rows = data.rows.map((row) => Page.el("tr", {}, ...row.map((cell, i) => drawn(row, cell, i))));
  const list = Page.el("tbody", {}, ...rows);
  body.append(Page.el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "table, scrolls" },
    Page.el("table", {}, Page.el("thead", {}, Page.el("tr", {}, ...heads)), list)));

  function drawn(row, cell, i) {
    const text = typeof cell === "string" ? cell : Page.number(cell, data.columns[i].digits);
    if (i) return Page.el("td", { class: numeric[i] ? "number" : null }, text);
    const colour = data.colours[cell];
    const swatch = colour ? [Page.el("span", { class: "swatch", style: `background:${Page.rgb(colour)}` })] : [];
    return Page.el("th", { scope: "row" }, ...swatch, text);
  }

  function click(i) {
    const [column, order] = chosen();
    const other = order === "descending" ? "ascending" : "descending";
    const first = numeric[i] ? "descending" : "ascending";
    Page.set(`${id}.sort`, `${titles[i]}.${column === i ? other : first}`);
    show();
  }

  function chosen() {
    const [, title, order] = /^(.*)\.(ascending|descending)$/.exec(Page.get(`${id}.sort`, "")) || [];
    return [titles.indexOf(title), order];
  }

  function show() {
    const [column, order] = chosen();
    heads.forEach((head, i) => (i === column ? head.setAttribute("aria-sort", order) : head.removeAttribute("aria-sort")));
    const sign = order === "descending" ? -1 : 1;
    const places = data.rows.map((_, i) => i);
    if (column >= 0) {
      places.sort((a, b) => {
        const [x, y] = [data.rows[a][column], data.rows[b][column]];
        if (x === null || y === null) return (x === null) - (y === null); // none comes last
        return sign * (typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y)));
      });
    }
    list.append(...places.map((place) => rows[place]));
  }
  Page.onstate(show);
  show();
};
