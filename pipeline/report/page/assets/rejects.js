"use strict";
// What could not be used, where and why.
(function () {
  const { el, data } = XDC;
  const COLUMNS = ["Stage", "Reason", "File", "Clip", "Detail", "Attempt"];

  XDC.rejects = {
    title: "Rejects",
    // #rejects?reason=STAGE REASON&q=…
    async render(box, path, query) {
      const r = XDC.report;
      if (!r.rejected) return void box.append(XDC.message("Nothing was rejected."));
      const { total, rows } = await XDC.get("rejects");
      const key = (row) => `${row.stage ?? row[0]} ${row.reason ?? row[1]}`;
      let reason = r.rejects.some((x) => key(x) === query.get("reason")) ? query.get("reason") : "";
      let words = query.get("q") || "";
      let ended = null;
      const body = el("tbody");
      const said = el("p.quiet.said", { role: "status" });
      const csv = r.downloads.find(([file]) => file.endsWith("rejects.csv"));

      const draw = () =>
        XDC.busy(async () => {
          ended?.();
          const asked = words.toLowerCase();
          const found = rows.filter(
            (row) =>
              (!reason || key(row) === reason) &&
              (!asked || row.some((cell) => cell !== null && String(cell).toLowerCase().includes(asked))),
          );
          said.textContent = `${XDC.plural(found.length, "row")}${rows.length < total ? ` of the first ${XDC.count(rows.length)}; ${XDC.count(total)} were rejected in all` : ""}`;
          body.replaceChildren();
          ended = XDC.growing(
            body,
            found,
            (row) =>
              el(
                "tr",
                null,
                row.map((cell, i) =>
                  el(
                    "td",
                    { "data-name": COLUMNS[i], class: cell === null ? "none" : null },
                    i === 1 ? data(XDC.words(cell)) : cell === null ? "–" : data(cell),
                  ),
                ),
              ),
            80,
          );
          XDC.remember({ reason, q: words });
        });

      const chips = el("div.reasons", { role: "group", "aria-label": "Reasons" });
      const all = [
        ["", "All", total],
        ...[...r.rejects].sort((a, b) => b.count - a.count).map((x) => [key(x), x, x.count]),
      ];
      for (const [value, what, n] of all) {
        const button = el(
          "button.reason",
          { "aria-pressed": String(value === reason) },
          what === "All" ? "All" : [data(XDC.words(what.reason)), el("span.quiet", null, data(what.stage))],
          el("span.number", null, XDC.count(n)),
        );
        button.onclick = () => {
          reason = value;
          for (const other of chips.children) other.setAttribute("aria-pressed", String(other === button));
          draw();
        };
        chips.append(button);
      }
      box.append(
        chips,
        el(
          "div.tools",
          null,
          XDC.search("Search", words, "file, clip or detail", (text) => ((words = text), draw())),
          csv ? el("a.button", { href: encodeURI(csv[0]), download: "" }, "All as CSV") : null,
        ),
        said,
        el(
          "div.scroll",
          { tabindex: 0, role: "region", "aria-label": "Rejects" },
          el(
            "table.rejects",
            null,
            el(
              "thead",
              null,
              el(
                "tr",
                null,
                COLUMNS.map((name) => el("th", { scope: "col" }, name)),
              ),
            ),
            body,
          ),
        ),
      );
      await draw();
      return () => ended?.();
    },
  };
})();
