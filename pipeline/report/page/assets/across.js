"use strict";
// Sound against picture: which audio clusters share clips with which video clusters; and where the
// clips of a round went in the next.
(function () {
  const { el, data } = XDC;
  const MOST = 48; // clips that an opened cell shows
  let shading = "share",
    show = "both";

  // What is chosen: [words, route] of the matrices of a round.
  function kinds(report, round) {
    return [
      ...(report.across.includes(round) ? [["across", "Audio × video", `#across/${round}`]] : []),
      ...report.flows
        .filter((f) => f.round === round)
        .map((f) => [`flow/${f.name}`, `Flow of ${f.name}`, `#across/${round}/flow/${f.name}`]),
    ];
  }

  // Names of clusters: their commonest label.
  async function names(name, round) {
    const list = await XDC.get(`clusters/${name}/${round}`);
    return new Map(list.map((c) => [c.id, c.labels.length ? c.labels[0][0] : null]));
  }

  function who(name, id, labels) {
    const label = labels.get(id);
    return el(
      "span",
      null,
      `${name} ${id}`,
      label === null || label === undefined ? null : [" (", data(label), ")"],
    );
  }

  // Both matrices in one form: rows and columns with their clustering, round and order.
  async function load(round, flow) {
    if (flow) {
      const f = await XDC.get(`flow/${flow}/${round}`);
      return {
        rows: { name: flow, round: f.from, order: f.from_order },
        columns: { name: flow, round: f.to, order: f.to_order },
        cells: f.cells.map(([a, b, n]) => [a, b, n, null]),
        examples: {},
        color: ["video", "audio"].includes(flow) ? flow : "joint",
        facts: `NMI ${XDC.ratio(f.nmi)}, churn ${XDC.percent(f.churn)}.`,
        lead: `Where the clips of each ${flow} cluster of round ${f.from} are in round ${f.to}. Clusters are numbered anew each round, so the order of columns shows what stayed together.`,
      };
    }
    const a = await XDC.get(`across/${round}`);
    return {
      ...a,
      rows: { ...a.rows, round },
      columns: { ...a.columns, round },
      color: "joint",
      facts: `Agreement: ${XDC.ratio(a.agreement)} (0: by chance, 1: the same clusters).`,
      lead: "A strong cell: clips that sound alike and look alike. A row with many cells: one sound, many looks. A column with many cells: one look, many sounds.",
    };
  }

  function strongest(cells, sums) {
    const enough = cells.filter(([, , n]) => n >= 3);
    const value = ([r, , n, chance]) => chance ?? n / sums.get(r);
    return enough.sort((x, y) => value(y) - value(x)).slice(0, 10);
  }

  async function draw(box, round, flow) {
    const [m, all] = await Promise.all([load(round, flow), XDC.clips()]);
    const [rowLabels, columnLabels] = await Promise.all([
      names(m.rows.name, m.rows.round),
      names(m.columns.name, m.columns.round),
    ]);
    const sums = new Map();
    for (const [r, , n] of m.cells) sums.set(r, (sums.get(r) || 0) + n);
    const most = Math.max(...m.cells.map((c) => c[3] ?? 1), 1);
    const shades = {
      share: ([r, , n]) => Math.sqrt(n / sums.get(r)),
      chance: ([, , , chance]) => (chance <= 1 ? 0.04 : Math.log(chance) / Math.log(Math.max(most, 2))),
    };
    const opened = el("section.opened", { tabindex: -1, "aria-label": "Clips of the chosen cell" });

    const words = (cell, row, column) => {
      const pair = [
        who(m.rows.name, row, rowLabels),
        flow ? ` of round ${m.rows.round} → ` : " and ",
        who(m.columns.name, column, columnLabels),
      ];
      if (!cell) return [...pair, ": no clip."];
      return [
        ...pair,
        `: ${XDC.plural(cell[2], "clip")}, ${XDC.percent(cell[2] / sums.get(row))} of the row${XDC.known(cell[3]) ? `, ${XDC.times(cell[3])} chance` : ""}.`,
      ];
    };

    const open = (cell) =>
      XDC.busy(async () => {
        const [row, column] = cell;
        const [a, b] = await Promise.all([
          XDC.labels(m.rows.name, m.rows.round),
          XDC.labels(m.columns.name, m.columns.round),
        ]);
        let positions = [...(m.examples[`${row},${column}`] || [])];
        const listed = new Set(positions);
        const rest = [];
        for (let i = 0; i < a.length; i++) if (a[i] === row && b[i] === column && !listed.has(i)) rest.push(i);
        // Clips with media first: they can be seen and heard.
        rest.sort((x, y) => Boolean(all.movie(y)) - Boolean(all.movie(x)) || x - y);
        positions = [...positions, ...rest].slice(0, MOST);
        opened.replaceChildren(
          el("h3", null, words(cell, row, column)),
          el(
            "p",
            null,
            XDC.cards.chip(
              m.rows.name,
              m.rows.round,
              row,
              `${m.rows.name} ${row}${flow ? `, round ${m.rows.round}` : ""}`,
            ),
            " ",
            XDC.cards.chip(
              m.columns.name,
              m.columns.round,
              column,
              `${m.columns.name} ${column}${flow ? `, round ${m.columns.round}` : ""}`,
            ),
            el("span.quiet", null, ` ${XDC.plural(positions.length, "clip")} of ${XDC.count(cell[2])} here`),
          ),
          positions.length
            ? XDC.tiles(all, positions, { show })
            : XDC.message("No clip of this cell is in the report."),
        );
        opened.focus({ preventScroll: true });
        opened.scrollIntoView({ block: "nearest" });
      });

    const matrix = XDC.matrix({
      rows: m.rows.order,
      columns: m.columns.order,
      cells: m.cells,
      color: m.color,
      label: `${m.rows.name} by ${m.columns.name} clusters`,
      rowName: `${m.rows.name} clusters${flow ? ` of round ${m.rows.round}` : ""}`,
      columnName: `${m.columns.name} clusters${flow ? ` of round ${m.columns.round}` : ""}`,
      shade: (cell) => (flow ? shades.share : shades[shading])(cell),
      describe: words,
      open,
    });
    const pairs = strongest(m.cells, sums);
    box.append(
      el("p.lead", null, m.lead),
      el(
        "div.tools",
        null,
        flow
          ? null
          : XDC.choice(
              "Shade by",
              [
                ["share", "Share of the row"],
                ["chance", "Times chance"],
              ],
              shading,
              (value) => ((shading = value), matrix.draw()),
            ),
        XDC.faces(show, (value) => (show = value)),
        el("span.quiet", null, m.facts),
      ),
      el(
        "div.beside",
        null,
        matrix.element,
        el(
          "section.pairs",
          null,
          el("h3", null, flow ? "What stayed together" : "Strongest pairs"),
          pairs.length
            ? el(
                "ol",
                null,
                pairs.map((cell) =>
                  el(
                    "li",
                    null,
                    el(
                      "button.pair",
                      { onclick: () => open(cell) },
                      el(
                        "span",
                        null,
                        who(m.rows.name, cell[0], rowLabels),
                        flow ? " → " : " × ",
                        who(m.columns.name, cell[1], columnLabels),
                      ),
                      el(
                        "span.quiet",
                        null,
                        XDC.known(cell[3]) ? XDC.times(cell[3]) : XDC.percent(cell[2] / sums.get(cell[0])),
                      ),
                    ),
                  ),
                ),
              )
            : el("p.quiet", null, "No pair has three clips or more."),
        ),
      ),
      opened,
    );
    matrix.draw();
    return matrix.end;
  }

  XDC.across = {
    title: "Across",
    // #across/ROUND, #across/ROUND/flow/NAME
    async render(box, [asked, kind, name]) {
      const r = XDC.report;
      const rounds = [...new Set([...r.across, ...r.flows.map((f) => f.round)])].sort((a, b) => a - b);
      if (!rounds.length) {
        const one = r.clusterings.length === 1 && r.clusterings[0].rounds.length;
        return void box.append(
          XDC.message(
            one
              ? "There is one clustering and one round so far, hence nothing to set against it."
              : "There is nothing to compare yet: the first round is not complete.",
          ),
        );
      }
      const round = rounds.includes(Number(asked)) && asked !== undefined ? Number(asked) : rounds.at(-1);
      const choices = kinds(r, round);
      const wanted = kind === "flow" ? `flow/${name}` : "across";
      const chosen = choices.find(([key]) => key === wanted) || choices[0];
      box.append(
        el(
          "div.tools.first",
          null,
          XDC.choice(
            "Matrix",
            choices.map(([key, text]) => [key, text]),
            chosen[0],
            (key) => XDC.go(choices.find((c) => c[0] === key)[2]),
          ),
          XDC.select(
            "Round",
            rounds.map((n) => [n, n === rounds.at(-1) ? `${n} (last)` : n]),
            round,
            (n) => XDC.go(`#across/${n}${chosen[0] === "across" ? "" : `/${chosen[0]}`}`),
          ),
        ),
      );
      return draw(box, round, chosen[0].startsWith("flow/") ? chosen[0].slice(5) : null);
    },
  };
})();
