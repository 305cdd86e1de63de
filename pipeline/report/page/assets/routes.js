"use strict";
// Every view and what is chosen in it has an address: #VIEW/part/part?key=value.
(function () {
  const { el } = XDC;
  const VIEWS = ["overview", "clusters", "across", "map", "nearest", "rejects"];
  const STATES = {
    finished: "Finished",
    working: "Working",
    interrupted: "Interrupted",
    failed: "Failed",
    killed: "Killed",
    begun: "Begun",
  };
  let ended = null; // ends the view that is shown
  let turn = 0;

  function parts() {
    const [path, query] = location.hash.slice(1).split("?");
    const [view, ...rest] = path.split("/").map((part) => {
      try {
        return decodeURIComponent(part);
      } catch {
        return part;
      }
    });
    return { view: VIEWS.includes(view) ? view : VIEWS[0], rest, query: new URLSearchParams(query) };
  }

  // Keeps what is chosen in the address, without a new entry in the history.
  function remember(values) {
    const [path] = location.hash.slice(1).split("?");
    const query = new URLSearchParams(location.hash.split("?")[1]);
    for (const [name, value] of Object.entries(values)) value ? query.set(name, value) : query.delete(name);
    const text = query.toString();
    const hash = `#${path || VIEWS[0]}${text ? `?${text}` : ""}`;
    if (hash !== location.hash && (location.hash || text)) history.replaceState(null, "", hash);
  }

  function tabs(current) {
    const row = document.getElementById("tabs");
    row.replaceChildren(
      ...VIEWS.map((name) =>
        el("a.tab", { href: `#${name}`, "aria-current": name === current ? "page" : null }, XDC[name].title),
      ),
    );
    const chosen = row.querySelector("[aria-current]");
    row.scrollLeft = chosen.offsetLeft - row.clientWidth / 2 + chosen.offsetWidth / 2;
  }

  const focusable = (box) => [...box.querySelectorAll("a, button, input, select, summary, [tabindex]")];

  function show(keep = false) {
    return XDC.busy(async () => {
      const mine = ++turn;
      const { view, rest, query } = parts();
      const held = document.activeElement?.closest?.("#tabs");
      const main = document.getElementById("view");
      tabs(view);
      document.title = `${XDC[view].title} · ${XDC.report.title}`;
      const box = el("div.view", { "data-view": view });
      const at = main.contains(document.activeElement) ? focusable(main).indexOf(document.activeElement) : null;
      ended?.();
      ended = null;
      // The view is in the page before it renders, so that it can measure itself.
      const place = scrollY;
      main.replaceChildren(box);
      if (held) document.querySelector("#tabs [aria-current]").focus({ preventScroll: true });
      let end = null;
      try {
        end = await XDC[view].render(box, rest, query);
      } catch (error) {
        box.replaceChildren(XDC.message(error.message || String(error)));
        console.warn(error);
      }
      if (mine !== turn) return end?.();
      ended = end;
      scrollTo(0, keep ? place : 0);
      // The keyboard goes on where it was, or from the beginning of a new view.
      if (at !== null) ((keep && focusable(main)[at]) || main).focus({ preventScroll: true });
    });
  }

  function head(report) {
    document.getElementById("title").textContent = report.title;
    document
      .getElementById("subtitle")
      .replaceChildren(
        XDC.data(report.run),
        " · ",
        XDC.data(XDC.words(report.method)),
        ` · release ${report.release} · made ${XDC.date(report.made)}`,
      );
    const state = document.getElementById("state");
    state.textContent = (STATES[report.state] || report.state) + (report.live ? ", live" : "");
    state.className = `state ${STATES[report.state] ? report.state : ""}`;
  }

  document.getElementById("skip").addEventListener("click", (event) => {
    event.preventDefault();
    document.getElementById("view").focus();
  });
  document.getElementById("tabs").addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const all = [...event.currentTarget.children];
    all[(all.indexOf(document.activeElement) + step + all.length) % all.length].focus();
    event.preventDefault();
  });

  XDC.go = (hash) => (location.hash = hash);
  XDC.remember = remember;
  window.addEventListener("hashchange", () => XDC.report && show());

  XDC.busy(async () => {
    XDC.report = await XDC.get("report");
    head(XDC.report);
    await show();
    if (XDC.report.live)
      XDC.follow(XDC.report.made, (report) => {
        XDC.report = report;
        XDC.forgetClips();
        head(report);
        return show(true);
      });
  }).catch(XDC.fail);
})();
