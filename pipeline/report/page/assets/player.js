"use strict";
// One player for the whole page: picture and sound, what the clip is, and where to go from it.
(function () {
  const { el, data } = XDC;
  let list = [],
    current = -1,
    back = null,
    asked = 0;
  let loop = true;

  function picture(all, i) {
    const movie = all.movie(i),
      heard = all.spectrogram(i),
      seen = all.thumbnail(i);
    const stage = el(seen ? "div.stage" : "div.stage.sound");
    const head = el("span.head");
    if (movie) {
      const video = el("video", {
        src: movie,
        controls: true,
        playsinline: true,
        preload: "auto",
        poster: seen || heard,
      });
      video.loop = loop;
      video.setAttribute("aria-label", "Clip");
      video.addEventListener("error", () => stage.replaceChildren(XDC.message("This clip cannot be played here.")));
      const follow = () => {
        if (!video.isConnected) return;
        if (video.duration) head.style.left = `${(100 * video.currentTime) / video.duration}%`;
        requestAnimationFrame(follow);
      };
      requestAnimationFrame(follow);
      stage.append(video);
      // Browsers may ask for a press of the play button first.
      video.play().catch(() => {});
    } else if (seen) {
      stage.append(el("img.thumbnail", { src: seen, alt: "" }));
    }
    if (heard)
      stage.append(
        el("span.strip", null, el("img.spectrogram", { src: heard, alt: "Spectrogram" }), movie ? head : null),
      );
    if (!stage.childElementCount) stage.append(XDC.message("This clip has no media in the report."));
    return stage;
  }

  async function clusters(i) {
    const links = [];
    for (const { name, rounds } of XDC.report.clusterings) {
      const round = rounds.at(-1);
      if (round === undefined) continue;
      const cluster = (await XDC.labels(name, round))[i];
      links.push(
        cluster < 0
          ? el("span.quiet", null, `no ${name} cluster`)
          : el(`a.chip.${name}`, { href: `#clusters/${name}/${round}/${cluster}` }, `${name} ${cluster}`),
      );
    }
    return links;
  }

  function go(step) {
    const at = list.indexOf(current);
    const next = list[(at + step + list.length) % list.length];
    if (next !== undefined && next !== current) play(next, list);
  }

  // Plays the clip at this position; the arrows go through `others`.
  function play(i, others = [i]) {
    return XDC.busy(async () => {
      const mine = ++asked;
      const all = await XDC.clips();
      const [chips, nearest] = await Promise.all([clusters(i), XDC.report.nearest ? XDC.get("nearest") : null]);
      if (mine !== asked) return;
      const box = document.getElementById("player");
      if (box.hidden) back = document.activeElement;
      const held = box.contains(document.activeElement) && document.activeElement.getAttribute("aria-label");
      [list, current] = [others, i];
      const label = all.label(i);
      const several = list.length > 1;
      const again = el("button.plain", { "aria-pressed": String(loop), title: "Play again and again" }, "Loop");
      again.onclick = () => {
        loop = !loop;
        again.setAttribute("aria-pressed", String(loop));
        const video = box.querySelector("video");
        if (video) video.loop = loop;
      };
      const close = el("button.plain.close", { onclick: stop, "aria-label": "Close the player" }, "✕");
      box.replaceChildren(
        el("div.player-head", null, label === null ? data(all.file(i), "strong") : data(label, "strong"), close),
        picture(all, i),
        el("p.about", null, data(all.file(i)), el("span.quiet", null, ` · ${all.span(i)} · clip ${all.index(i)}`)),
        el("p.chips", null, chips),
        el(
          "div.player-foot",
          null,
          several ? el("button.plain", { onclick: () => go(-1), "aria-label": "Previous clip" }, "←") : null,
          several ? el("span.quiet", null, `${list.indexOf(i) + 1} of ${list.length}`) : null,
          several ? el("button.plain", { onclick: () => go(1), "aria-label": "Next clip" }, "→") : null,
          all.movie(i) ? again : null,
          nearest && nearest.clips.includes(i) ? el("a.button", { href: `#nearest/${i}` }, "Nearest") : null,
          XDC.report.map ? el("a.button", { href: `#map?clip=${i}` }, "On the map") : null,
        ),
      );
      box.hidden = false;
      document.dispatchEvent(new CustomEvent("xdc-play", { detail: i }));
      document.body.classList.add("playing");
      document.querySelectorAll(".tile.lit").forEach((t) => t.classList.remove("lit"));
      document.querySelectorAll(`.tile[data-clip="${i}"]`).forEach((t) => t.classList.add("lit"));
      if (held) (box.querySelector(`[aria-label="${held}"]`) || close).focus({ preventScroll: true });
      else if (matchMedia("(pointer: fine)").matches) close.focus({ preventScroll: true });
    });
  }

  function stop() {
    const box = document.getElementById("player");
    if (box.hidden) return;
    asked += 1;
    box.querySelector("video")?.pause();
    const held = box.contains(document.activeElement);
    box.hidden = true;
    box.replaceChildren();
    document.body.classList.remove("playing");
    document.querySelectorAll(".tile.lit").forEach((t) => t.classList.remove("lit"));
    if (held && back && back.isConnected) back.focus({ preventScroll: true });
    current = -1;
  }

  document.addEventListener("keydown", (event) => {
    if (current < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
    const inside = document.getElementById("player").contains(event.target);
    if (event.key === "Escape") stop();
    else if (inside && event.target.tagName !== "VIDEO" && event.key === "ArrowRight") go(1);
    else if (inside && event.target.tagName !== "VIDEO" && event.key === "ArrowLeft") go(-1);
  });

  XDC.play = play;
})();
