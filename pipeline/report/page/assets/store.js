"use strict";
// The data of the report. A data file is a script of one statement, XDC.put("NAME", VALUE), since a
// page opened from a folder may not fetch. XDC is the page's only global.
window.XDC = (function () {
  const values = new Map(); // name → Promise of the value
  const waiting = new Map(); // name → what put() calls
  const decoded = new WeakMap(); // encoded array → typed array
  const ARRAYS = { int32: Int32Array, float32: Float32Array, uint8: Uint8Array };
  let stamp = ""; // set when a live report changed: the browser must not answer from its cache
  let working = 0;

  function put(name, value) {
    const done = waiting.get(name);
    waiting.delete(name);
    if (done) done(value);
    else values.set(name, Promise.resolve(value));
  }

  function load(name) {
    return new Promise((resolve, reject) => {
      if (!/^[a-z0-9_/-]+$/.test(name)) return reject(new Error("There is no such data file."));
      const script = document.createElement("script");
      const fail = (how) => {
        waiting.delete(name);
        reject(new Error(`data/${name}.js ${how}. Make the report again.`));
      };
      waiting.set(name, resolve);
      script.onerror = () => fail("is missing or cannot be read");
      script.onload = () => {
        script.remove();
        if (waiting.get(name) === resolve) fail("is damaged");
      };
      script.src = `data/${name}.js${stamp}`;
      document.head.append(script);
    });
  }

  // Promise of the value of data/NAME.js, which is loaded once.
  function get(name) {
    if (!values.has(name)) {
      values.set(name, load(name));
      values.get(name).catch(() => values.delete(name));
    }
    return values.get(name);
  }

  // Typed array of {"type", "b64"}, little endian, as every browser's machine is.
  function array(value) {
    if (!decoded.has(value)) {
      const text = atob(value.b64);
      const bytes = new Uint8Array(text.length);
      for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
      decoded.set(value, new ARRAYS[value.type](bytes.buffer));
    }
    return decoded.get(value);
  }

  // Libraries that one view alone needs, in order.
  async function libraries(...sources) {
    for (const source of sources) {
      if (document.querySelector(`script[src="${source}"]`)) continue;
      await new Promise((resolve, reject) => {
        const script = document.createElement("script");
        script.src = source;
        script.onload = resolve;
        script.onerror = () => (script.remove(), reject(new Error(`${source} is missing.`)));
        document.head.append(script);
      });
    }
  }

  // Clusters of every shown clip: Int32Array, -1 for none.
  const labels = (name, round) => get(`labels/${name}/${round}`).then(array);

  // Marks the page as ready once all of what was begun has rendered.
  async function busy(work) {
    working += 1;
    delete document.documentElement.dataset.ready;
    try {
      return await work();
    } finally {
      working -= 1;
      if (working === 0) document.documentElement.dataset.ready = "1";
    }
  }

  function fail(error) {
    const line = document.createElement("p");
    line.textContent = error && error.message ? error.message : String(error);
    const close = document.createElement("button");
    close.type = "button";
    close.textContent = "Dismiss";
    close.onclick = () => line.remove();
    line.append(" ", close);
    const box = document.getElementById("errors");
    if (box && box.childElementCount < 3) box.append(line);
  }
  window.addEventListener("error", (event) => event.message && fail(event.error || event.message));
  window.addEventListener("unhandledrejection", (event) => fail(event.reason));

  // A live report: asks every ten seconds whether it was made anew, and then forgets all data.
  function follow(made, redraw) {
    setTimeout(async () => {
      const before = stamp;
      stamp = `?asked=${Date.now()}`;
      const kept = new Map(values);
      values.delete("report");
      try {
        const report = await get("report");
        if (report.made === made) {
          stamp = before;
        } else {
          values.clear();
          values.set("report", Promise.resolve(report));
          made = report.made;
          await redraw(report);
        }
        if (report.live) follow(made, redraw);
      } catch {
        // The server stopped or is writing: keep what is shown and ask again.
        stamp = before;
        kept.forEach((value, name) => values.set(name, value));
        follow(made, redraw);
      }
    }, 10000);
  }

  return { put, get, array, labels, libraries, busy, fail, follow };
})();
