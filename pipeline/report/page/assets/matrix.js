"use strict";
// A matrix of two clusterings: stronger cells share more clips. Pointer or arrows choose a cell, a
// click or Enter opens it.
(function () {
  const { el } = XDC;

  // shade: cell → 0..1. describe: cell or null, row, column → words. open: cell → void.
  XDC.matrix = function ({ rows, columns, cells, label, color, rowName, columnName, shade, describe, open }) {
    const canvas = el("canvas");
    const said = el(
      "p.matrix-said",
      { role: "status" },
      "Point at a cell, or move with the arrow keys. Click or press Enter to open it.",
    );
    const frame = el("div.matrix", { tabindex: 0, role: "application", "aria-label": label }, canvas);
    const rowAt = new Map(rows.map((id, i) => [id, i]));
    const columnAt = new Map(columns.map((id, i) => [id, i]));
    const by = new Map(cells.map((cell) => [rowAt.get(cell[0]) * columns.length + columnAt.get(cell[1]), cell]));
    const base = el("canvas"); // the cells alone: pointing at one draws but a cross over them
    let size = 8,
      chosen = [0, 0],
      lit = false;

    function draw() {
      const room = frame.clientWidth || 600;
      // The whole of it on one screen, where cells can still be hit.
      const tall = Math.max(7, Math.floor((0.72 * innerHeight) / rows.length));
      const least = rows.length > 1500 ? 1 : rows.length > 700 ? 2 : 3;
      size = Math.max(least, Math.min(22, tall, Math.floor(room / columns.length)));
      const [width, height] = [size * columns.length, size * rows.length];
      const dense = Math.min(window.devicePixelRatio || 1, 8000 / Math.max(width, height));
      for (const one of [base, canvas]) {
        one.width = width * dense;
        one.height = height * dense;
      }
      canvas.style.width = `${width}px`;
      canvas.style.height = `${height}px`;
      const pen = base.getContext("2d");
      pen.scale(dense, dense);
      pen.fillStyle = XDC.color("sunken");
      pen.fillRect(0, 0, width, height);
      pen.fillStyle = XDC.color(color);
      const gap = size > 5 ? 1 : 0;
      for (const [at, cell] of by) {
        const [r, c] = [Math.floor(at / columns.length), at % columns.length];
        pen.globalAlpha = Math.max(0.04, Math.min(1, shade(cell)));
        pen.fillRect(c * size, r * size, size - gap, size - gap);
      }
      cross();
    }

    function cross() {
      const pen = canvas.getContext("2d");
      pen.setTransform(1, 0, 0, 1, 0, 0);
      pen.clearRect(0, 0, canvas.width, canvas.height);
      pen.drawImage(base, 0, 0);
      if (!lit) return;
      const [r, c] = chosen;
      const dense = canvas.width / (size * columns.length);
      pen.scale(dense, dense);
      pen.fillStyle = XDC.color("ink");
      pen.globalAlpha = 0.07;
      pen.fillRect(0, r * size, size * columns.length, size);
      pen.fillRect(c * size, 0, size, size * rows.length);
      pen.globalAlpha = 1;
      pen.strokeStyle = XDC.color("ink");
      pen.lineWidth = 2;
      pen.strokeRect(c * size - 1, r * size - 1, size + 1, size + 1);
    }

    const cell = () => by.get(chosen[0] * columns.length + chosen[1]) || null;
    function choose(r, c, how) {
      chosen = [Math.max(0, Math.min(rows.length - 1, r)), Math.max(0, Math.min(columns.length - 1, c))];
      lit = true;
      cross();
      said.replaceChildren(...[describe(cell(), rows[chosen[0]], columns[chosen[1]])].flat());
      if (how === "keys") frame.scrollTo({ left: Math.max(0, chosen[1] * size - frame.clientWidth / 2) });
    }
    const under = (event) => {
      const box = canvas.getBoundingClientRect();
      return [Math.floor((event.clientY - box.top) / size), Math.floor((event.clientX - box.left) / size)];
    };
    canvas.addEventListener("pointermove", (event) => choose(...under(event)));
    canvas.addEventListener("click", (event) => {
      choose(...under(event));
      if (cell()) open(cell());
    });
    const MOVES = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    frame.addEventListener("keydown", (event) => {
      if (MOVES[event.key])
        choose(chosen[0] + (lit ? MOVES[event.key][0] : 0), chosen[1] + (lit ? MOVES[event.key][1] : 0), "keys");
      else if (event.key === "Enter" && cell()) open(cell());
      else return;
      event.preventDefault();
    });
    document.addEventListener("xdc-theme", draw);
    const watch = new ResizeObserver(draw);
    return {
      element: el(
        "div.matrix-box",
        null,
        el("p.axis.across-axis", null, `${columnName} →`),
        el("p.axis.down-axis", null, `${rowName} ↓`),
        frame,
        said,
      ),
      draw() {
        draw();
        watch.observe(frame);
      },
      end() {
        watch.disconnect();
        document.removeEventListener("xdc-theme", draw);
      },
    };
  };
})();
