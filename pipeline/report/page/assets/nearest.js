"use strict";
// The neighbours of a clip: by picture, by sound, and across.
(function () {
  const { el, data } = XDC;
  const KINDS = [
    ["picture", "By picture", "Clips that look alike."],
    ["sound", "By sound", "Clips that sound alike."],
    ["across", "Across", "Clips whose sound goes with this picture, by both encoders together."],
  ];

  function row(all, near, at, [kind, heading, why]) {
    const found = near.lists[kind]?.[at];
    if (!near.lists[kind]) return null;
    const positions = (found || []).map(([i]) => i);
    const note = near.notes?.[kind];
    const show = kind === "picture" ? "picture" : kind === "sound" ? "sound" : "both";
    return el(
      "section.block",
      { "data-kind": kind },
      el("h3", null, heading),
      el("p.quiet", null, note ? data(note, "span") : why),
      positions.length
        ? el(
            "div.tiles",
            null,
            found.map(([i, cosine]) => XDC.tile(all, i, { show, list: positions, note: cosine.toFixed(2) })),
          )
        : el(
            "p.quiet",
            null,
            kind === "across"
              ? "Not known for this clip."
              : `This clip has no ${kind === "sound" ? "sound" : "picture"}.`,
          ),
    );
  }

  function choose(box, all, near, query) {
    const list = el("div.tiles.pick");
    const said = el("p.quiet.said", { role: "status" });
    let ended = null;
    const draw = (words) =>
      XDC.busy(async () => {
        ended?.();
        const found = words ? XDC.find(all, words, near.clips, Infinity) : near.clips;
        said.textContent = words
          ? `${XDC.plural(found.length, "clip")} of ${XDC.count(near.clips.length)}`
          : `${XDC.plural(near.clips.length, "clip")} to choose from`;
        list.replaceChildren();
        ended = XDC.growing(
          list,
          found,
          (i) => {
            const tile = XDC.tile(all, i, { show: "both" });
            // Here a clip is chosen, not played.
            const link = el("a", {
              href: `#nearest/${i}`,
              class: tile.className,
              title: tile.title,
              "aria-label": `Neighbours of ${tile.title}`,
              "data-clip": i,
            });
            link.append(...tile.childNodes);
            return link;
          },
          48,
        );
        XDC.remember({ q: words });
      });
    box.append(
      el(
        "p.lead",
        null,
        "Choose a clip to see what is nearest to it by its picture, by its sound, and from one to the other.",
      ),
      el("div.tools", null, XDC.search("Search", query.get("q") || "", "label or file", draw)),
      said,
      list,
    );
    draw(query.get("q") || "");
    return () => ended?.();
  }

  XDC.nearest = {
    title: "Nearest",
    // #nearest, #nearest/POSITION
    async render(box, [asked], query) {
      if (!XDC.report.nearest)
        return void box.append(
          XDC.message(
            "Neighbours are not known yet, or were left out. They are made from the features of a complete round.",
          ),
        );
      const [near, all] = await Promise.all([XDC.get("nearest"), XDC.clips()]);
      if (asked === undefined) return choose(box, all, near, query);
      const i = Number(asked);
      const at = near.clips.indexOf(i);
      if (at < 0)
        return void box.append(
          XDC.message(
            "The neighbours of this clip are not in the report. ",
            el("a", { href: "#nearest" }, "Choose another clip."),
          ),
        );
      const label = all.label(i);
      box.append(
        el("div.crumbs", null, el("a", { href: "#nearest" }, "← Choose another clip")),
        el(
          "div.query",
          null,
          XDC.tile(all, i, { show: "both" }),
          el(
            "div",
            null,
            el("h2", null, label === null ? data(all.file(i)) : data(label)),
            el("p", null, data(all.uri(i)), el("span.quiet", null, ` · ${all.span(i)}`)),
          ),
        ),
        ...KINDS.map((kind) => row(all, near, at, kind) || ""),
      );
      return null;
    },
  };
})();
