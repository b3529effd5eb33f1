// The confusion matrix: rows are labels, columns predictions, in percent of the row.
Page.kinds.matrix = (body, data, id) => {
  const { names, matrices } = data;
  const said = Page.el("p", { class: "said", role: "status" }, "Point at a cell, or go there with the arrow keys.");
  const table = Page.el("table", { class: names.length > 30 ? "matrix tiny" : "matrix" });
  const worst = Page.el("ol", { class: "worst" });
  const titles = matrices.map(({ title }) => title);
  let cells = [];
  let counts = [];

  if (matrices.length > 1) {
    const options = titles.map((title) => [title, title]);
    const field = Page.select("model", options, chosen(), (value) => {
      Page.set(`${id}.model`, value, titles[0]);
      show();
    });
    body.append(field);
    Page.onstate(() => (field.querySelector("select").value = chosen()));
  }
  body.append(said, Page.el("div", { class: "scroll" }, table),
    Page.el("details", { open: true }, Page.el("summary", {}, "most pixels taken for another class"), worst));

  function chosen() {
    const title = Page.get(`${id}.model`, titles[0]);
    return titles.includes(title) ? title : titles[0];
  }

  function share(i, j) {
    const sum = counts[i].reduce((a, b) => a + b, 0);
    return sum ? counts[i][j] / sum : null;
  }

  function tell(i, j) {
    const part = share(i, j);
    if (part === null) return `${names[i]} is in no label.`;
    const text = `${(100 * part).toFixed(2)} % of ${names[i]} (${counts[i][j].toLocaleString("en")} pixels)`;
    return i === j ? `${text} is found.` : `${text} is taken for ${names[j]}.`;
  }

  function show() {
    counts = matrices[titles.indexOf(chosen())].counts;
    const head = names.map((name) => Page.el("th", { scope: "col" }, Page.el("span", {}, name)));
    cells = names.map((_, i) => names.map((_, j) => {
      const part = share(i, j);
      const text = part === null || part < 0.005 ? "" : (100 * part).toFixed(0);
      const strength = part === null ? 0 : Math.round(100 * part);
      const cell = Page.el("td", { style: `--share:${strength}%`, class: strength > 55 ? "strong" : null, tabindex: -1 }, text);
      [cell.row, cell.column] = [i, j];
      return cell;
    }));
    const rows = names.map((name, i) => Page.el("tr", {}, Page.el("th", { scope: "row" }, name), ...cells[i]));
    table.replaceChildren(
      Page.el("caption", {}, "rows: the label; columns: what it was taken for; percent of the label's pixels"),
      Page.el("thead", {}, Page.el("tr", {}, Page.el("td", {}), ...head)),
      Page.el("tbody", {}, ...rows));
    cells[0][0].tabIndex = 0;
    const wrong = names.flatMap((_, i) => names.map((_, j) => [i, j])).filter(([i, j]) => i !== j && counts[i][j]);
    wrong.sort(([a, b], [c, d]) => counts[c][d] - counts[a][b]);
    worst.replaceChildren(...wrong.slice(0, 8).map(([i, j]) => Page.el("li", {}, tell(i, j))));
  }

  let marked = null;
  function point(cell) {
    if (!cell || cell.row === undefined) return;
    if (marked) [marked.parentNode, marked].forEach((node) => node.classList.remove("at"));
    [cell.parentNode, cell].forEach((node) => node.classList.add("at"));
    marked = cell;
    said.textContent = tell(cell.row, cell.column);
  }
  table.addEventListener("pointerover", (event) => point(event.target.closest("td")));
  table.addEventListener("focusin", (event) => point(event.target.closest("td")));
  table.addEventListener("keydown", (event) => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    const from = event.target.closest("td");
    if (!step || !from || from.row === undefined) return;
    const to = (cells[from.row + step[0]] || [])[from.column + step[1]];
    event.preventDefault();
    if (!to) return;
    from.tabIndex = -1;
    to.tabIndex = 0;
    to.focus();
  });
  Page.onstate(show);
  show();
};
