"use strict";
// Curves over rounds, drawn by uPlot.
(function () {
  const { el } = XDC;
  const DASHES = [[], [6, 4], [2, 3]];

  // A modality keeps its colour; others follow the categories. One colour twice: dashed and hollow.
  function styles(series) {
    const used = {};
    let next = 0;
    return series.map(({ name }) => {
      const first = name.split(/\W+/)[0].toLowerCase();
      const own = ["video", "audio", "joint"].includes(first) && !/\band\b/.test(name);
      const color = own ? XDC.modalityColor(first) : XDC.categories()[[2, 3, 4, 5, 7][next++ % 5]];
      used[color] = (used[color] ?? -1) + 1;
      const hollow = used[color] > 0;
      return { color, hollow, fill: hollow ? XDC.color("ground") : color, dash: DASHES[used[color] % 3] };
    });
  }

  function shown(value, unit) {
    if (value === null || value === undefined) return "–";
    const digits = Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : 2;
    const number = value.toLocaleString("en", { maximumFractionDigits: digits });
    return unit === "%" ? `${number}%` : unit ? `${number} ${unit}` : number;
  }

  function options(curve, width, xs) {
    const axis = {
      stroke: XDC.color("quiet"),
      grid: { stroke: XDC.color("line"), width: 1 },
      ticks: { show: false },
      font: "12px system-ui, sans-serif",
    };
    const style = styles(curve.series);
    const end = xs.length - 1; // without a pointer, the legend gives the last round
    const rest = (u) => u.cursor.left < 0 && u.setLegend({ idx: end }, false);
    return {
      width,
      height: 190,
      padding: [12, 12, 0, 0],
      cursor: { sync: { key: "rounds" }, points: { size: 8 }, drag: { x: false, y: false } },
      legend: {
        markers: {
          width: (u, i) => (style[i - 1]?.hollow ? 2 : 0),
          stroke: (u, i) => style[i - 1]?.color,
          fill: (u, i) => style[i - 1]?.fill,
        },
      },
      hooks: { ready: [rest], setCursor: [rest] },
      scales: {
        x: { time: false, range: (u, low, high) => (high - low < 1 ? [low - 0.5, high + 0.5] : [low, high]) },
        y: { range: { min: { pad: 0.1, soft: 0, mode: 2 }, max: { pad: 0.1 } } },
      },
      axes: [
        {
          ...axis,
          size: 28,
          grid: { show: false },
          incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500],
          values: (u, at) => at.map((v) => (Number.isInteger(v) && v >= xs[0] && v <= xs[end] ? String(v) : "")),
        },
        {
          ...axis,
          size: 48,
          values: (u, at) => at.map((v) => (curve.unit === "%" ? `${v}%` : v.toLocaleString("en"))),
        },
      ],
      series: [
        { label: "Round", value: (u, v) => (v === null ? "–" : String(v)) },
        ...curve.series.map((s, i) => ({
          label: s.name,
          stroke: style[i].color,
          width: 2,
          dash: style[i].dash,
          spanGaps: true,
          points: { show: xs.length < 40, size: 7, width: 2, fill: style[i].fill },
          value: (u, v) => shown(v, curve.unit),
        })),
      ],
    };
  }

  // One curve with its title and how to read it. `box` must be on the page before draw().
  function curve(spec) {
    const box = el("div.plot");
    const last = spec.series
      .map(
        (s) =>
          `${s.name} ${shown(
            s.values.findLast((v) => v !== null),
            spec.unit,
          )}`,
      )
      .join(", ");
    const figure = el(
      "figure.curve",
      null,
      el("figcaption", null, el("h3", null, spec.title), el("p.quiet", null, spec.note)),
      box,
    );
    box.setAttribute("role", "img");
    box.setAttribute("aria-label", `${spec.title} by round. At the end: ${last}.`);
    let plot = null;
    const values = [spec.x, ...spec.series.map((s) => s.values)];
    function draw() {
      plot?.destroy();
      plot = new uPlot(options(spec, box.clientWidth || 300, spec.x), values, box);
    }
    const watch = new ResizeObserver(() => {
      const width = box.clientWidth;
      if (plot && width && width !== plot.width) plot.setSize({ width, height: 190 });
    });
    watch.observe(box);
    return { figure, draw, end: () => (watch.disconnect(), plot?.destroy()) };
  }

  // All curves in a grid; returns its element, what draws it, and what ends it.
  XDC.curves = function (specs) {
    const all = specs.map(curve);
    const draw = () => all.forEach((c) => c.draw());
    document.addEventListener("xdc-theme", draw);
    return {
      grid: el(
        "div.curves",
        null,
        all.map((c) => c.figure),
      ),
      draw,
      end() {
        document.removeEventListener("xdc-theme", draw);
        all.forEach((c) => c.end());
      },
    };
  };
})();
