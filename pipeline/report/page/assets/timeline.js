"use strict";
// Attempts, rounds and lost nodes on one axis of time.
(function () {
  const { el } = XDC;
  const STEPS = [60, 300, 900, 1800, 3600, 10800, 21600, 43200, 86400, 172800, 604800, 2592000, 31536000];

  function nodes(attempt) {
    const roles = Object.entries(attempt.nodes || {}).map(([role, n]) => `${n} ${role}`);
    return roles.length ? ` on ${roles.join(", ")}` : "";
  }

  XDC.timeline = function ({ attempts = [], rounds = [], losses = [] }) {
    if (!attempts.length) return XDC.message("No attempt has been recorded yet.");
    const now = XDC.report.made;
    const end = (a) => a.ended ?? now;
    const times = [
      ...attempts.flatMap((a) => [a.began, end(a)]),
      ...rounds.map((r) => r.at),
      ...losses.map((l) => l.at),
    ];
    const low = Math.min(...times);
    const high = Math.max(...times, low + 1);
    const at = (time) => `${(100 * (time - low)) / (high - low)}%`;
    const step = STEPS.find((s) => (high - low) / s <= 8) || STEPS.at(-1);

    const axis = el("div.time-axis");
    for (let t = 0; t <= high - low; t += step)
      axis.append(el("span", { style: { left: at(low + t) } }, t ? `+${XDC.lasting(t)}` : "0"));
    const lane = (name, ...marks) =>
      el("div.time-lane", null, el("span.time-name", null, name), el("div.time-track", null, marks));
    const events = [
      ...attempts.map((a) => [a.began, `Attempt ${a.number} began${nodes(a)}`]),
      ...attempts.map((a) => [
        end(a),
        a.ended ? `Attempt ${a.number} ended: ${XDC.words(a.how)}` : `Attempt ${a.number} still goes on`,
      ]),
      ...rounds.map((r) => [r.at, `Round ${r.round} was complete`]),
      ...losses.map((l) => [l.at, XDC.capital(l.what)]),
    ].sort((a, b) => a[0] - b[0]);

    return el(
      "div.timeline",
      null,
      el(
        "div",
        { "aria-hidden": "true" },
        lane(
          "Attempts",
          attempts.map((a) =>
            el(
              `span.time-bar${a.how === "done" ? ".done" : ""}`,
              {
                style: { left: at(a.began), width: `${(100 * (end(a) - a.began)) / (high - low)}%` },
                title: `Attempt ${a.number}: ${XDC.words(a.how ?? "working")}, ${XDC.lasting(end(a) - a.began)}${nodes(a)}`,
              },
              `${a.number} · ${XDC.words(a.how ?? "working")}`,
            ),
          ),
        ),
        lane(
          "Rounds",
          rounds.map((r) =>
            el(
              "span.time-round",
              { style: { left: at(r.at) }, title: `Round ${r.round}: ${XDC.date(r.at)}` },
              String(r.round),
            ),
          ),
        ),
        lane(
          "Lost nodes",
          losses.map((l) =>
            el("span.time-loss", { style: { left: at(l.at) }, title: `${l.what}: ${XDC.date(l.at)}` }),
          ),
        ),
        lane("", axis),
      ),
      el(
        "details",
        null,
        el("summary", null, "The same as a list"),
        el(
          "ol.events",
          null,
          events.map(([time, what]) => el("li", null, el("time.quiet", null, XDC.date(time)), " ", XDC.data(what))),
        ),
      ),
    );
  };
})();
