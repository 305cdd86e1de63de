"use strict";
// The spaces side by side: a clip that is lit in one is lit in the other.
(function () {
  const { el, data } = XDC;
  const LIBRARIES = [
    "pub-sub-es/pub-sub.umd.min.js",
    "regl/regl.min.js",
    "regl-scatterplot/regl-scatterplot.min.js",
  ].map((file) => `assets/vendor/${file}`);
  const LISTED = 30; // categories in the legend
  const CHOSEN = 60; // clips listed of a lasso

  // Categories of the clips: number of each clip's category (-1 none), and each category's words.
  async function categories(all, by, round) {
    if (by === "label") return { of: all.labelOf, name: (k) => data(all.labels[k]), count: all.labels.length };
    if (by === "file")
      return { of: all.uriOf, name: (k) => data(XDC.fileName(all.uris[k])), count: all.uris.length };
    const [of, list] = await Promise.all([XDC.labels(by, round), XDC.get(`clusters/${by}/${round}`)]);
    const named = new Map(list.map((c) => [c.id, c]));
    const label = (k) => named.get(k)?.labels[0]?.[0];
    return {
      of,
      count: Math.max(-1, ...named.keys()) + 1,
      name: (k) => el("span", null, `${k}`, label(k) === undefined ? null : [" ", data(label(k))]),
    };
  }

  // Categories by size; the commonest ten have the ten colours, and then colours repeat.
  function ranked({ of, count }) {
    const sizes = new Int32Array(count);
    for (let i = 0; i < of.length; i++) if (of[i] >= 0) sizes[of[i]] += 1;
    const order = [...sizes.keys()].filter((k) => sizes[k]).sort((a, b) => sizes[b] - sizes[a] || a - b);
    const color = new Uint8Array(count);
    order.forEach((k, place) => (color[k] = 1 + (place % 10)));
    return { sizes, order, color };
  }

  function paint({ of }, { color }, only) {
    const colors = new Uint8Array(of.length);
    for (let i = 0; i < of.length; i++)
      if (of[i] >= 0 && (only === null || of[i] === only)) colors[i] = color[of[i]];
    return colors;
  }

  async function tip(i) {
    const all = await XDC.clips();
    const label = all.label(i);
    const picture = all.thumbnail(i) || all.spectrogram(i);
    return el(
      "div",
      null,
      picture ? el("img", { src: picture, alt: "" }) : null,
      label === null ? null : data(label, "b"),
      data(all.file(i), "span"),
      el("span.quiet", null, all.span(i)),
    );
  }

  async function draw(box, map, all, query) {
    const spaces = Object.entries(map.spaces);
    const has = XDC.report.clusterings.filter((c) => c.rounds.includes(map.round)).map((c) => c.name);
    const ways = [
      ...has.map((name) => [name, `${name} cluster`]),
      ...(XDC.report.labelled ? [["label", "label"]] : []),
      ["file", "file"],
    ];
    let by = ways.some(([way]) => way === query.get("color")) ? query.get("color") : ways[0][0];
    let only = null;
    const legend = el("div.legend", { role: "group", "aria-label": "Categories" });
    const chosen = el("section.chosen", { "aria-label": "Chosen clips" });

    const light = (i) => plots.forEach((p) => p.light(i));
    const pick = (list, from) => {
      plots.forEach((p, at) => spaces[at][0] === from || p.choose(list));
      if (list.length === 1) XDC.play(list[0]);
      else light(-1);
      const shown = [...list]
        .sort((a, b) => Boolean(all.movie(b)) - Boolean(all.movie(a)) || a - b)
        .slice(0, CHOSEN);
      chosen.replaceChildren(
        ...(list.length > 1
          ? [el("h3", null, `${XDC.plural(list.length, "clip")} chosen`), XDC.tiles(all, shown, { show: "both" })]
          : []),
      );
    };
    const plots = spaces.map(([name, { x, y }]) =>
      XDC.scatter(name, { x: XDC.array(x), y: XDC.array(y) }, { on: { hover: light, pick }, tip }),
    );

    const recolor = () =>
      XDC.busy(async () => {
        const kinds = await categories(all, by, map.round);
        const rank = ranked(kinds);
        const color = (k) => `var(--category-${rank.color[k] - 1})`;
        const held = legend.contains(document.activeElement);
        await Promise.all(plots.map((p) => p.color(paint(kinds, rank, only))));
        legend.replaceChildren(
          ...rank.order.slice(0, LISTED).map((k) => {
            const button = el(
              "button.category",
              { "aria-pressed": String(only === k), title: "Show only these" },
              el("span.dot", { style: { background: only === null || only === k ? color(k) : "var(--faint)" } }),
              kinds.name(k),
              el("span.quiet", null, XDC.count(rank.sizes[k])),
            );
            button.onclick = () => ((only = only === k ? null : k), recolor());
            return button;
          }),
          rank.order.length > LISTED
            ? el(
                "span.quiet",
                null,
                `and ${XDC.count(rank.order.length - LISTED)} more. Colours repeat after ten: press one to show it alone.`,
              )
            : "",
        );
        if (held) (legend.querySelector("[aria-pressed=true]") || legend.firstChild).focus();
      });

    const results = el("div");
    const seek = (words) =>
      XDC.busy(async () => {
        const found = words ? XDC.find(all, words, Array(all.n).keys(), 24) : [];
        results.replaceChildren(
          ...(words ? [found.length ? XDC.tiles(all, found) : el("p.quiet", null, "No clip of this name.")] : []),
        );
        if (found.length) light(found[0]);
      });

    box.append(
      el("p.lead", null, `${map.method} of the features of round ${map.round}. `, data(map.note, "span")),
      el(
        "div.tools",
        null,
        XDC.select(
          "Colour by",
          ways,
          by,
          (value) => ((by = value), (only = null), XDC.remember({ color: value }), recolor()),
        ),
        XDC.search("Find a clip", "", "label or file", seek),
        el("span.quiet.help", null, "Click plays. Drag moves, the wheel zooms, Shift and drag chooses many."),
      ),
      results,
      el(
        "div.maps",
        null,
        plots.map((p, i) =>
          el(
            "section.map-space",
            null,
            el(
              "header",
              null,
              el(
                "h3",
                null,
                el(
                  `span.chip.${["video", "audio"].includes(spaces[i][0]) ? spaces[i][0] : "joint"}`,
                  null,
                  spaces[i][0],
                ),
              ),
              p.missing ? el("span.quiet", null, `${XDC.count(p.missing)} without features`) : null,
              p.tools,
            ),
            p.frame,
          ),
        ),
      ),
      legend,
      chosen,
    );
    plots.forEach((p) => p.begin());
    await recolor();

    const played = (event) => {
      plots.forEach((p) => p.choose([event.detail]));
      light(event.detail);
    };
    document.addEventListener("xdc-play", played);
    const clip = Number(query.get("clip") ?? -1);
    if (clip >= 0 && clip < all.n) {
      plots.forEach((p) => p.choose([clip]));
      light(clip);
    }
    return () => {
      document.removeEventListener("xdc-play", played);
      plots.forEach((p) => p.end());
    };
  }

  XDC.map = {
    title: "Map",
    // #map?clip=POSITION&color=video|audio|label|file
    async render(box, path, query) {
      if (!XDC.report.map)
        return void box.append(
          XDC.message("There is no map yet. It is made from the features of a complete round."),
        );
      if (!XDC.webgl())
        return void box.append(
          XDC.message(
            "The map needs WebGL, which this browser lacks or has switched off. All other views work without it.",
          ),
        );
      const [map, all] = await Promise.all([XDC.get("map"), XDC.clips(), XDC.libraries(...LIBRARIES)]);
      return draw(box, map, all, query);
    },
  };
})();
