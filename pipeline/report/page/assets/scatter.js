"use strict";
// One space of the map: its points drawn by regl-scatterplot, with a label for the clip under the pointer.
(function () {
  const { el } = XDC;
  const SIZES = [
    [1000, 9],
    [5000, 6],
    [20000, 4.5],
    [60000, 3.5],
    [Infinity, 2.5],
  ];
  const OFF = -9; // where clips without features are: outside of what can be seen

  XDC.webgl = function () {
    try {
      const pen = document.createElement("canvas").getContext("webgl");
      const able = Boolean(pen && pen.getExtension("OES_texture_float"));
      pen?.getExtension("WEBGL_lose_context")?.loseContext();
      return able;
    } catch {
      return false;
    }
  };

  // x, y: Float32Array in [-1, 1], NaN for none. on.hover(i or -1), on.pick(list of i, name).
  // tip: i → Promise of an element. color(Uint8Array of colour numbers, 0 for grey) draws.
  XDC.scatter = function (name, { x, y }, { on, tip }) {
    const canvas = el("canvas", { "aria-label": `Map of the ${name} space`, role: "img" });
    const label = el("div.tip", { hidden: true });
    const frame = el("div.map-frame", { "data-space": name }, canvas, label);
    const missing = x.reduce((n, v) => n + Number.isNaN(v), 0);
    const [px, py] = [x, y].map((values) => values.map((v) => (Number.isNaN(v) ? OFF : 0.97 * v)));
    const size = SIZES.find(([most]) => x.length <= most)[1];
    let plot = null,
      index,
      lit = -1;

    const look = () => ({
      backgroundColor: XDC.color("raised"),
      pointColor: [XDC.color("faint"), ...XDC.categories()],
      pointColorActive: XDC.color("ink"),
      pointColorHover: XDC.color("ink"),
      lassoColor: XDC.color("accent"),
    });

    async function color(colors) {
      await plot.draw(
        { x: px, y: py, z: colors },
        { zDataType: "categorical", preventFilterReset: true, spatialIndex: index },
      );
      index = plot.get("spatialIndex");
      const order = [...colors.keys()]; // grey points lie under the others
      plot.set({ pointOrder: [...order.filter((i) => !colors[i]), ...order.filter((i) => colors[i])] });
    }

    // Lights the clip, here only; -1 for none.
    function light(i) {
      const there = i >= 0 && !Number.isNaN(x[i]);
      plot.hover(there ? i : -1, { preventEvent: true });
      frame.dataset.lit = there ? i : "";
      lit = i;
      label.hidden = true;
      if (!there) return;
      const [left, top] = plot.getScreenPosition(i) || [-1, -1];
      if (left < 0 || top < 0 || left > frame.clientWidth || top > frame.clientHeight) return;
      tip(i).then((content) => {
        if (lit !== i) return;
        label.replaceChildren(content);
        label.hidden = false;
        label.style.left = `${Math.max(4, Math.min(left + 12, frame.clientWidth - label.offsetWidth - 4))}px`;
        label.style.top = `${top > label.offsetHeight + 16 ? top - label.offsetHeight - 10 : top + 14}px`;
      });
    }

    const choose = (list) =>
      list.length
        ? plot.select(
            list.filter((i) => !Number.isNaN(x[i])),
            { preventEvent: true },
          )
        : plot.deselect({ preventEvent: true });

    function begin() {
      plot = createScatterplot.default({
        canvas,
        width: frame.clientWidth,
        height: frame.clientHeight,
        pointSize: size,
        pointSizeSelected: 7,
        pointOutlineWidth: 3,
        colorBy: "valueA",
        opacity: x.length > 20000 ? 0.6 : 0.85,
        opacityInactiveMax: 0.5,
        ...look(),
      });
      plot.subscribe("pointover", (i) => on.hover(i));
      plot.subscribe("pointout", () => on.hover(-1));
      plot.subscribe("select", ({ points }) => on.pick(points, name));
      plot.subscribe("deselect", () => on.pick([], name));
      plot.subscribe("view", () => (label.hidden = true));
    }

    const watch = new ResizeObserver(() => plot?.set({ width: frame.clientWidth, height: frame.clientHeight }));
    const theme = () => plot?.set(look());
    document.addEventListener("xdc-theme", theme);

    function zoom(factor) {
      const camera = plot.get("camera");
      plot.zoomToLocation([camera.target[0], camera.target[1]], camera.distance[0] * factor, {
        transition: true,
        transitionDuration: 200,
      });
    }

    return {
      frame,
      missing,
      color,
      light,
      choose,
      begin() {
        begin();
        watch.observe(frame);
      },
      tools: el(
        "span.map-tools",
        null,
        el("button.plain", { onclick: () => zoom(0.6), "aria-label": `Zoom into the ${name} space` }, "+"),
        el("button.plain", { onclick: () => zoom(1 / 0.6), "aria-label": `Zoom out of the ${name} space` }, "−"),
        el("button.plain", { onclick: () => plot.reset(), "aria-label": `Show the whole ${name} space` }, "Whole"),
      ),
      end() {
        watch.disconnect();
        document.removeEventListener("xdc-theme", theme);
        plot?.destroy();
      },
    };
  };
})();
