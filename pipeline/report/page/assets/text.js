"use strict";
// Elements and words. Every string reaches the page as a text node or an attribute, never as HTML.
(function () {
  // el("p.quiet", {title: "…", onclick: f}, "text", child, [more children])
  function el(kind, attributes, ...children) {
    const [tag, ...classes] = kind.split(".");
    const node = document.createElement(tag || "div");
    if (classes.length) node.className = classes.join(" ");
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value === null || value === undefined || value === false) continue;
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (name === "style") Object.entries(value).forEach(([k, v]) => node.style.setProperty(k, v));
      else node.setAttribute(name, value === true ? "" : value);
    }
    if (tag === "button" && !node.hasAttribute("type")) node.type = "button";
    node.append(...children.flat(3).filter((c) => c !== null && c !== undefined && c !== false));
    return node;
  }

  // A string of the user's: its own direction, isolated from its neighbours.
  const data = (text, kind = "bdi") => el(kind, { dir: "auto" }, String(text));

  const count = (n) => Math.round(n).toLocaleString("en");
  const known = (x) => x !== null && x !== undefined && !Number.isNaN(x);
  const percent = (x) => (known(x) ? `${(100 * x).toFixed(x > 0 && x < 0.0095 ? 1 : 0)}%` : "–");
  const ratio = (x) => (known(x) ? x.toFixed(2) : "–");
  const times = (x) => (known(x) ? `${x >= 10 ? Math.round(x) : x.toFixed(1)}×` : "–");
  const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;
  const words = (name) => String(name).replaceAll("_", " ");
  const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

  // From when to when in a file, in seconds, or in minutes and seconds.
  function span(start, end) {
    if (end < 60) return `${start.toFixed(2)}–${end.toFixed(2)} s`;
    const clock = (s) => {
      const hundredths = Math.round(100 * s);
      return `${Math.floor(hundredths / 6000)}:${((hundredths % 6000) / 100).toFixed(2).padStart(5, "0")}`;
    };
    return `${clock(start)}–${clock(end)}`;
  }

  function lasting(seconds) {
    if (seconds < 90) return `${Math.round(seconds)} s`;
    if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
    if (seconds < 172800) return `${(seconds / 3600).toFixed(1)} h`;
    return `${(seconds / 86400).toFixed(1)} days`;
  }

  const date = (epoch) =>
    new Date(1000 * epoch).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });

  // The last part of an address, which names the file.
  function fileName(uri) {
    const parts = String(uri).split(/[\\/]/);
    return parts.pop() || parts.pop() || String(uri);
  }

  const message = (text, ...more) => el("p.message", null, text, ...more);

  // One choice of a few: buttons that say which is pressed.
  function choice(label, options, current, pick) {
    const group = el("div.choice", { role: "group", "aria-label": label });
    for (const [value, text] of options) {
      const button = el("button", { "aria-pressed": String(value === current) }, text);
      button.onclick = () => {
        for (const other of group.children) other.setAttribute("aria-pressed", String(other === button));
        pick(value);
      };
      group.append(button);
    }
    return group;
  }

  function select(label, options, current, pick) {
    const box = el("select", { onchange: () => pick(box.value) });
    for (const [value, text] of options)
      box.append(el("option", { value, selected: String(value) === String(current) }, text));
    return el("label.field", null, el("span", null, label), box);
  }

  // A search field that waits until typing pauses.
  function search(label, value, placeholder, pick) {
    let timer = 0;
    const box = el("input", {
      type: "search",
      value,
      placeholder,
      dir: "auto",
      autocomplete: "off",
      spellcheck: "false",
    });
    box.addEventListener("input", () => {
      clearTimeout(timer);
      delete document.documentElement.dataset.ready;
      timer = setTimeout(() => pick(box.value.trim()), 150);
    });
    return el("label.field.search", null, el("span", null, label), box);
  }

  // A share as a bar, with its words beside it.
  function bar(share, tone) {
    const width = `${Math.max(0, Math.min(100, 100 * (share || 0)))}%`;
    return el(
      "span.bar",
      { "aria-hidden": "true" },
      el("span", { style: { width, background: tone || "var(--accent)" } }),
    );
  }

  // Puts more of a long list on the page when its end comes into view.
  function growing(box, items, make, step) {
    let shown = 0;
    const end = el("button.more", { onclick: () => grow() }, "Show more");
    const last = box.tagName === "TBODY" ? el("tr", null, el("td", { colspan: 9 }, end)) : end;
    const watch = new IntersectionObserver((seen) => seen.some((s) => s.isIntersecting) && grow(), {
      rootMargin: "600px",
    });
    function grow() {
      const next = items.slice(shown, shown + step);
      shown += next.length;
      last.before(...next.map(make));
      watch.disconnect();
      if (shown >= items.length) last.remove();
      else watch.observe(end); // anew, so that an end still in view is seen again
    }
    box.append(last);
    grow();
    return () => watch.disconnect();
  }

  Object.assign(XDC, {
    el,
    data,
    count,
    known,
    percent,
    ratio,
    times,
    plural,
    words,
    capital,
    span,
    lasting,
    date,
    fileName,
    message,
    choice,
    select,
    search,
    bar,
    growing,
  });
})();
