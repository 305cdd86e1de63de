"use strict";
// What ran on what, what came of it, and what to worry about.
(function () {
  const { el, data } = XDC;
  const KINDS = [
    ["alarm", "Alarm"],
    ["note", "Note"],
    ["good", "Good"],
  ];

  const section = (title, ...children) => el("section.block", null, el("h2", null, title), children);

  function verdicts(list) {
    const place = (v) => KINDS.findIndex(([kind]) => kind === v.kind);
    const ordered = [...list].sort((a, b) => place(a) - place(b));
    return el(
      "div.verdicts",
      null,
      ordered.map((v) =>
        el(
          `article.verdict.${KINDS[Math.max(0, place(v))][0]}`,
          null,
          el("p.kind", null, KINDS[Math.max(0, place(v))][1]),
          el("h3", null, data(v.title)),
          el("p", null, data(v.text)),
        ),
      ),
    );
  }

  function numbers(r) {
    const one = (value, name) => el("div", null, el("dd", null, value), el("dt", null, name));
    return el(
      "dl.numbers",
      null,
      one(XDC.count(r.clips), "clips"),
      r.shown < r.clips ? one(XDC.count(r.shown), "shown here") : null,
      one(`${r.rounds_done} of ${r.rounds_wanted}`, "rounds"),
      one(
        r.clusterings.length ? r.clusterings.map((c) => XDC.count(c.k)).join(" + ") : "–",
        r.clusterings.length ? `${r.clusterings.map((c) => c.name).join(" + ")} clusters` : "clusters",
      ),
      one(XDC.count(r.rejected), "rejected"),
      one(r.with_media ? XDC.count(r.playable) : "none", "clips to play"),
    );
  }

  const list = (pairs) =>
    el(
      "dl.facts",
      null,
      pairs.map(([name, value]) => el("div", null, data(name, "dt"), data(value, "dd"))),
    );

  function rejects(rows) {
    const most = Math.max(...rows.map((r) => r.count), 1);
    return el(
      "ul.bars.staged",
      null,
      [...rows]
        .sort((a, b) => b.count - a.count)
        .map((r) =>
          el(
            "li",
            null,
            el(
              "a",
              { href: `#rejects?reason=${encodeURIComponent(`${r.stage} ${r.reason}`)}` },
              data(`${XDC.words(r.reason)}`),
            ),
            el("span.quiet", null, data(r.stage)),
            XDC.bar(r.count / most),
            el("span.number", null, XDC.count(r.count)),
          ),
        ),
    );
  }

  function hours(byRole) {
    const rows = Object.entries(byRole);
    const most = Math.max(...rows.map(([, h]) => h), 1e-9);
    return el(
      "ul.bars",
      null,
      rows.map(([role, h]) =>
        el("li", null, data(role), XDC.bar(h / most), el("span.number", null, `${h.toFixed(h < 10 ? 1 : 0)} h`)),
      ),
    );
  }

  const downloads = (rows) =>
    el(
      "ul.downloads",
      null,
      rows.map(([file, what]) =>
        el(
          "li",
          null,
          el("a", { href: encodeURI(file), download: "" }, data(file)),
          el("span.quiet", null, data(what)),
        ),
      ),
    );

  XDC.overview = {
    title: "Overview",
    async render(box) {
      const r = XDC.report;
      const curves = r.curves.length ? XDC.curves(r.curves) : null;
      box.append(
        numbers(r),
        r.verdicts.length
          ? verdicts(r.verdicts)
          : XDC.message("There is nothing to judge before the first round is complete."),
        section("Curves", curves ? curves.grid : XDC.message("Curves begin with the first complete round.")),
        section("Timeline", XDC.timeline(r.timeline || {})),
        el(
          "div.columns",
          null,
          section("What ran", list(r.facts)),
          el(
            "div",
            null,
            section("Rejected", r.rejects.length ? rejects(r.rejects) : XDC.message("Nothing was rejected.")),
            Object.keys(r.node_hours || {}).length ? section("Node-hours", hours(r.node_hours)) : null,
          ),
        ),
        el(
          "div.columns",
          null,
          section(
            "Settings",
            r.settings.length
              ? [el("p.quiet", null, "Those that differ from the defaults."), list(r.settings)]
              : el("p.quiet", null, "All are the defaults."),
          ),
          section("Downloads", downloads(r.downloads)),
        ),
      );
      curves?.draw();
      return () => curves?.end();
    },
  };
})();
