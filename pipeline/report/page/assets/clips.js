"use strict";
// The shown clips, by position, and the tiles that stand for them.
(function () {
  const { el, data } = XDC;
  const THUMBNAIL = 1,
    SPECTROGRAM = 2,
    PLAYABLE = 4;
  let table = null;

  // Promise of the table of clips; its functions take a position.
  function clips() {
    table ??= XDC.get("clips").then((raw) => {
      const [uri, start, end, label, media, kinds] = [
        raw.uri,
        raw.start,
        raw.end,
        raw.label,
        raw.media,
        raw.media_kinds,
      ].map(XDC.array);
      const index = XDC.array(raw.clip_index);
      const kind = (i) => (media[i] < 0 ? 0 : kinds[media[i]]);
      const file = (i, kindOf, suffix) => (kind(i) & kindOf ? `media/${raw.media_ids[media[i]]}${suffix}` : null);
      return {
        n: raw.n,
        uris: raw.uris,
        labels: raw.labels,
        uriOf: uri,
        labelOf: label,
        index: (i) => index[i],
        uri: (i) => raw.uris[uri[i]],
        file: (i) => XDC.fileName(raw.uris[uri[i]]),
        label: (i) => (label[i] < 0 ? null : raw.labels[label[i]]),
        span: (i) => XDC.span(start[i], end[i]),
        thumbnail: (i) => file(i, THUMBNAIL, ".jpg"),
        spectrogram: (i) => file(i, SPECTROGRAM, ".png"),
        movie: (i) => file(i, PLAYABLE, XDC.report.media_suffix || ".mp4"),
      };
    });
    table.catch(() => (table = null));
    return table;
  }

  // "sound" or "picture": what a cluster of this name is best seen by.
  const face = (name) => (name === "audio" ? "sound" : "picture");

  function pictures(all, i, show) {
    const seen = all.thumbnail(i),
      heard = all.spectrogram(i);
    let chosen = show === "both" ? [seen, heard] : [show === "sound" ? heard || seen : seen || heard];
    chosen = chosen.filter(Boolean);
    return chosen.map((source) =>
      el(source === heard ? "img.spectrogram" : "img.thumbnail", {
        src: source,
        alt: "",
        loading: "lazy",
        decoding: "async",
      }),
    );
  }

  // A button for a clip: its picture or spectrogram, and its words; plays it when pressed. The clips
  // of `list` are those that the player's arrows go through.
  function tile(all, i, { show = "picture", list = [i], note = null } = {}) {
    const label = all.label(i);
    const seen = pictures(all, i, show);
    const title = `${label === null ? "" : `${label} · `}${all.file(i)} · ${all.span(i)}`;
    return el(
      seen.length ? "button.tile" : "button.tile.bare",
      { title, "data-clip": i, onclick: () => XDC.play(i, list), "aria-label": `Play ${title}` },
      seen.length ? el("span.face", null, seen) : null,
      el(
        "span.words",
        null,
        label === null ? null : data(label, "b"),
        seen.length && label !== null ? null : data(all.file(i)),
        seen.length ? null : el("span.quiet", null, all.span(i)),
        note === null ? null : el("span.score", null, note),
      ),
    );
  }

  const tiles = (all, list, options = {}) =>
    el(
      XDC.report.with_media ? "div.tiles" : "div.tiles.unseen",
      null,
      list.map((i) => tile(all, i, { list, ...options })),
    );

  // Positions among `from` whose label or file holds the words; at most `most`.
  function find(all, words, from, most = 60) {
    const asked = words.toLowerCase();
    const holds = (text) => text.toLowerCase().includes(asked);
    const labels = all.labels.map(holds);
    const files = all.uris.map(holds);
    const found = [];
    for (const i of from) {
      if ((all.labelOf[i] >= 0 && labels[all.labelOf[i]]) || files[all.uriOf[i]]) found.push(i);
      if (found.length === most) break;
    }
    return found;
  }

  // The choice of what tiles show; nothing to choose without media.
  function faces(current, pick) {
    if (!XDC.report.with_media) return null;
    return XDC.choice(
      "Tiles show",
      [
        ["picture", "Picture"],
        ["sound", "Sound"],
        ["both", "Both"],
      ],
      current,
      pick,
    );
  }

  Object.assign(XDC, { clips, face, tile, tiles, find, faces, forgetClips: () => (table = null) });
})();
