"use strict";
// The clusters of one clustering and round: sort, search, and look.
(function () {
  const { el, data } = XDC;
  const { address, card, page, labelsOfOthers, measured } = XDC.cards;
  const CLIPS = [
    ["typical", "Typical"],
    ["borderline", "Borderline"],
    ["random", "Random"],
  ];
  const shows = {}; // what tiles show, by clustering
  let clips = "typical";

  const VALUE = {
    id: (c) => c.id,
    size: (c) => c.size,
    purity: (c) => c.purity,
    file_purity: (c) => c.file_purity,
    coherence: (c) => c.coherence,
    agrees: (c) => (c.agrees.length ? c.agrees[0][2] : null),
    churn: (c) => c.churn,
    label: (c) => (c.labels.length ? c.labels[0][0] : null),
  };

  function sorted(list, key, down) {
    const value = VALUE[key] || VALUE.size;
    const order = (a, b) => (typeof a === "string" ? a.localeCompare(b) : a - b);
    return [...list].sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      // Clusters that lack the measure come last, whichever way it is sorted.
      if (x === null || y === null) return (x === null) - (y === null) || a.id - b.id;
      return (down ? -1 : 1) * order(x, y) || a.id - b.id;
    });
  }

  // Clusters by number, by label, or by the name of a file that they hold clips of.
  async function matching(list, words, all, name, round) {
    if (!words) return list;
    const asked = words.replace(/^#/, "").toLowerCase();
    const labelled = (c) => c.labels.some(([label]) => label.toLowerCase().includes(asked));
    if (/^\d+$/.test(asked)) return list.filter((c) => String(c.id) === asked || labelled(c));
    const files = all.uris.map((uri) => uri.toLowerCase().includes(asked));
    const holding = new Set();
    (await XDC.labels(name, round)).forEach((c, i) => files[all.uriOf[i]] && holding.add(c));
    return list.filter((c) => labelled(c) || holding.has(c.id));
  }

  // Which clusters are which labels: the clusters that each label is the commonest of.
  function labelIndex(list, name, round) {
    const by = new Map();
    for (const c of list) {
      if (!c.labels.length) continue;
      const [label, share] = c.labels[0];
      if (!by.has(label)) by.set(label, []);
      by.get(label).push([c.id, share]);
    }
    if (!by.size) return null;
    const rows = [...by].sort((a, b) => a[0].localeCompare(b[0], "en", { numeric: true }));
    rows.forEach(([, found]) => found.sort((a, b) => b[1] - a[1]));
    const index = el("dl.label-index");
    const end = XDC.growing(
      index,
      rows,
      ([label, found]) =>
        el(
          "div",
          null,
          data(label, "dt"),
          el(
            "dd",
            null,
            found.slice(0, 6).map(([id, share]) =>
              el(
                `a.chip.${name}`,
                {
                  href: address(name, round, id),
                  title: `Cluster ${id}: ${XDC.percent(share)} of it have this label`,
                  style: { "--share": String(Math.max(0.12, share)) },
                },
                `${id}`,
                el("span", null, XDC.percent(share)),
              ),
            ),
            found.length > 6 ? el("span.quiet", null, `and ${found.length - 6} more`) : null,
          ),
        ),
      120,
    );
    end();
    return el(
      "details.block.labels-box",
      { open: innerWidth > 640 && rows.length <= 80 },
      el("summary", null, "Which clusters are which labels"),
      el("p.quiet", null, "The clusters in which a label is the commonest, and its share of them."),
      index,
      confused(name, round),
    );
  }

  // What it says of labels; the report has that of the last round.
  function confused(name, round) {
    const { rounds } = XDC.report.clusterings.find((c) => c.name === name);
    const { pairs = [], untold = [] } = XDC.report.confusions?.[name] ?? {};
    if (!pairs.length && !untold.length) return null;
    if (Number(round) !== rounds.at(-1)) return null;
    const words =
      "How often two clips, one of each label, share a cluster, against two of the same label. 100%: not told apart.";
    const pair = ([a, b, share]) =>
      el("li", null, data(a, "b"), " and ", data(b, "b"), " ", el("span.quiet", null, XDC.percent(share)));
    const unknown =
      "Two clips of one of these share a cluster no more than twice as often as any two clips do.";
    const box = el("div.confused");
    if (pairs.length)
      box.append(
        el("h3", null, "Labels that it confuses most"),
        el("p.quiet", null, words),
        el("ul", null, pairs.map(pair)),
      );
    if (untold.length) {
      const all = el("ul");
      box.append(el("h3", null, "Labels that it does not tell"), el("p.quiet", null, unknown), all);
      XDC.growing(all, untold, (label) => el("li", null, data(label, "b")), 60)();
    }
    return box;
  }

  async function grid(box, all, list, where, query) {
    const words = query.get("q") || "";
    let key = query.get("sort") || "size";
    if (!VALUE[key]) key = "size";
    let down = query.get("down") ? query.get("down") === "1" : key !== "id" && key !== "label";
    let asked = words,
      ended = null,
      turn = 0;
    const cards = el("div.cards");
    const said = el("p.quiet.said", { role: "status" });

    const draw = () =>
      XDC.busy(async () => {
        const mine = ++turn;
        const found = sorted(await matching(list, asked, all, where.name, where.round), key, down);
        if (mine !== turn) return;
        ended?.();
        cards.replaceChildren();
        said.textContent = asked
          ? `${XDC.plural(found.length, "cluster")} of ${XDC.count(list.length)}`
          : XDC.plural(found.length, "cluster");
        ended = XDC.growing(cards, found, (c) => card(all, c, { ...where, clips, show: shows[where.name] }), 24);
        XDC.remember({
          q: asked,
          sort: key === "size" ? "" : key,
          down: key === "size" && down ? "" : down ? "1" : "0",
        });
      });

    const keys = [
      ["size", "Size"],
      ...measured()
        .slice(1)
        .map(([k, n]) => [k, k === "purity" ? "Purity by label" : k === "file_purity" ? "Purity by file" : n]),
      ...(XDC.report.labelled ? [["label", "Label"]] : []),
      ["id", "Number"],
    ];
    const way = el("button.plain.way");
    const turnWay = () => {
      way.textContent = down ? "↓" : "↑";
      way.setAttribute("aria-label", down ? "Largest first" : "Smallest first");
    };
    way.onclick = () => ((down = !down), turnWay(), draw());
    turnWay();

    box.append(
      XDC.report.labelled ? labelIndex(list, where.name, where.round) || "" : "",
      el(
        "div.tools",
        null,
        XDC.search(
          "Search",
          words,
          XDC.report.labelled ? "label, file or number" : "file or number",
          (text) => ((asked = text), draw()),
        ),
        el(
          "span.joined",
          null,
          XDC.select(
            "Sort by",
            keys,
            key,
            (value) => ((key = value), (down = key !== "id" && key !== "label"), turnWay(), draw()),
          ),
          way,
        ),
        XDC.choice("Clips", CLIPS, clips, (value) => ((clips = value), draw())),
        XDC.faces(shows[where.name], (value) => ((shows[where.name] = value), draw())),
      ),
      said,
      cards,
    );
    await draw();
    return () => ended?.();
  }

  XDC.clusters = {
    title: "Clusters",
    // #clusters/NAME/ROUND/ID?q=…&sort=…&down=…
    async render(box, [name, round, id], query) {
      const has = XDC.report.clusterings.filter((c) => c.rounds.length);
      if (!has.length)
        return void box.append(XDC.message("There are no clusters yet: the first round is not complete."));
      const chosen = has.find((c) => c.name === name) || has[0];
      const at =
        chosen.rounds.includes(Number(round)) && round !== undefined ? Number(round) : chosen.rounds.at(-1);
      shows[chosen.name] ??= XDC.face(chosen.name);
      const [all, list, others] = await Promise.all([
        XDC.clips(),
        XDC.get(`clusters/${chosen.name}/${at}`),
        labelsOfOthers(chosen.name, at),
      ]);
      const where = { name: chosen.name, round: at, rounds: chosen.rounds, others };
      if (id !== undefined) return page(box, all, list, { ...where, show: shows[chosen.name], id: Number(id) });
      box.append(
        el(
          "div.tools.first",
          null,
          has.length > 1
            ? XDC.choice(
                "Clustering",
                has.map((c) => [c.name, XDC.capital(c.name)]),
                chosen.name,
                (n) => XDC.go(address(n, at)),
              )
            : el("span.chip.joint", null, chosen.name),
          XDC.select(
            "Round",
            chosen.rounds.map((r) => [r, r === chosen.rounds.at(-1) ? `${r} (last)` : r]),
            at,
            (r) => XDC.go(address(chosen.name, r)),
          ),
        ),
      );
      return grid(box, all, list, where, query);
    },
  };
})();
