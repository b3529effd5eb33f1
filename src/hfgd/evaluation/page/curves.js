// Lines over iterations, by uPlot.
Page.kinds.curves = (body, data) => {
  const colours = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#7f7f7f"];
  const HEIGHT = 260;
  const holders = data.plots.map((plot) => {
    const holder = Page.el("div", { class: "plot", role: "img", "aria-label": told(plot) });
    body.append(Page.el("h3", {}, plot.title), holder);
    return holder;
  });
  let drawn = [];

  function told(plot) {
    const ends = plot.lines.map(({ title, y }) => {
      const known = y.filter((value) => value !== null);
      return known.length ? `${title} from ${short(known[0])} to ${short(known[known.length - 1])}` : title;
    });
    return `${plot.title} over ${plot.xTitle}: ${ends.join("; ")}`;
  }
  function short(value) {
    return Number(value.toPrecision(4)).toString();
  }

  function draw() {
    drawn.forEach((plot) => plot.destroy());
    const probe = Page.el("span"); // the canvas takes no light-dark(): the colour in use
    body.append(probe);
    const [text, grid] = ["--text", "--line"].map((name) => {
      probe.style.color = `var(${name})`;
      return getComputedStyle(probe).color;
    });
    probe.remove();
    const axis = { stroke: text, grid: { stroke: grid, width: 1 }, ticks: { stroke: grid } };
    drawn = data.plots.map((plot, place) => new uPlot({
      width: holders[place].clientWidth || 600,
      height: HEIGHT,
      cursor: { sync: { key: "curves" }, drag: { x: true, y: false } },
      scales: { x: { time: false }, y: plot.log ? { distr: 3 } : {} },
      axes: [axis, { ...axis, size: 60 }],
      series: [{ label: plot.xTitle }, ...plot.lines.map(({ title, y }, i) => ({
        label: title,
        stroke: colours[i % colours.length],
        width: 1.6,
        dash: i >= colours.length ? [6, 4] : undefined,
        points: { show: y.length < 60 },
        spanGaps: true,
        value: (_, value) => (value === null || value === undefined ? "–" : short(value)),
      }))],
    }, [plot.x, ...plot.lines.map(({ y }) => (plot.log ? y.map((value) => (value > 0 ? value : null)) : y))], holders[place]));
  }
  draw();
  document.addEventListener("theme", draw);
  new ResizeObserver(() => drawn.forEach((plot, i) => {
    const width = holders[i].clientWidth;
    if (width && width !== plot.width) plot.setSize({ width, height: HEIGHT });
  })).observe(body);
};
