"use strict";
// A cluster as a card, and as a page of its own.
(function () {
  const { el, data } = XDC;

  const address = (name, round, id) => `#clusters/${name}/${round}${id === undefined ? "" : `/${id}`}`;
  const chip = (name, round, id, text) => el(`a.chip.${name}`, { href: address(name, round, id) }, text);

  // The commonest label names a cluster, once it has more than a fifth of it.
  function title(cluster) {
    const [label, share] = cluster.labels[0] || [];
    if (label === undefined) return [`Cluster ${cluster.id}`];
    return share >= 0.2
      ? [data(label), el("span.share", null, XDC.percent(share))]
      : [el("span.mixed", null, "mixed")];
  }

  // Labels by their share, in one bar.
  function labelBar(cluster, color) {
    if (!cluster.labels.length) return null;
    const rest = 1 - cluster.labels.reduce((sum, [, share]) => sum + share, 0);
    return el(
      "div.label-bar",
      { "aria-hidden": "true" },
      cluster.labels.map(([, share], i) =>
        el("span", {
          style: { width: `${100 * share}%`, background: color, opacity: String([1, 0.55, 0.38, 0.26, 0.18][i]) },
        }),
      ),
      rest > 0.001 ? el("span", { style: { width: `${100 * rest}%` } }) : null,
    );
  }

  const labelWords = (cluster, from = 0) =>
    cluster.labels
      .slice(from)
      .map(([label, share], i) =>
        el("span.label-word", null, i ? ", " : null, data(label), ` ${XDC.percent(share)}`),
      );

  const MEASURES = [
    ["size", "Clips", (c) => XDC.count(c.size), "Clips in this cluster, of the whole run."],
    ["purity", "Purity", (c) => XDC.percent(c.purity), "Share of the commonest label among labelled clips."],
    [
      "file_purity",
      "Same file",
      (c) => XDC.percent(c.file_purity),
      "Share of clips from the commonest file. High: the cluster follows the recording, not its content.",
    ],
    ["coherence", "Coherence", (c) => XDC.ratio(c.coherence), "Mean cosine of the features to their mean."],
    [
      "agrees",
      "Agreement",
      (c) => (c.agrees.length ? XDC.percent(c.agrees[0][2]) : "–"),
      "Largest share of its clips in one cluster of the other modality.",
    ],
    ["churn", "Churn", (c) => XDC.percent(c.churn), "Share of clips that were elsewhere in the round before."],
  ];

  // Those that this report can know.
  const measured = () =>
    MEASURES.filter(
      ([key]) =>
        (key !== "purity" || XDC.report.labelled) && (key !== "agrees" || XDC.report.clusterings.length > 1),
    );

  const measures = (cluster) =>
    el(
      "dl.measures",
      null,
      measured().map(([, name, show, why]) =>
        el("div", { title: why }, el("dt", null, name), el("dd", null, show(cluster))),
      ),
    );

  // Commonest labels of the clusters of the other clusterings: {name: Map of id → label}.
  async function labelsOfOthers(name, round) {
    const others = XDC.report.clusterings.filter((c) => c.name !== name && c.rounds.includes(round));
    const found = await Promise.all(others.map((c) => XDC.get(`clusters/${c.name}/${round}`)));
    return Object.fromEntries(
      others.map((c, i) => [
        c.name,
        new Map(found[i].filter((x) => x.labels.length).map((x) => [x.id, x.labels[0][0]])),
      ]),
    );
  }

  function agreements(cluster, round, others) {
    const label = (name, id) => others[name]?.get(id);
    return cluster.agrees.map(([name, id, share, chance]) =>
      el(
        "span.agree",
        null,
        chip(name, round, id, [`${name} ${id}`, label(name, id) === undefined ? null : data(label(name, id))]),
        el("span.quiet", null, ` ${XDC.percent(share)}, ${XDC.times(chance)} chance`),
      ),
    );
  }

  function card(all, cluster, { name, round, clips, show, others }) {
    const color = `var(--${name})`;
    return el(
      "article.card",
      { "aria-label": `Cluster ${cluster.id}`, "data-cluster": cluster.id },
      el(
        "header",
        null,
        el("h3", null, el("a", { href: address(name, round, cluster.id) }, title(cluster))),
        el("span.quiet.number", null, `${name} ${cluster.id}`),
      ),
      labelBar(cluster, color),
      cluster.labels.length
        ? el("p.card-labels", null, labelWords(cluster, cluster.labels[0][1] >= 0.2 ? 1 : 0))
        : null,
      measures(cluster),
      cluster.agrees.length ? el("p.agrees", null, agreements(cluster, round, others).slice(0, 1)) : null,
      cluster[clips].length
        ? XDC.tiles(all, cluster[clips].slice(0, 6), { show })
        : el("p.quiet", null, "No clip of this kind is in the report."),
    );
  }

  async function page(box, all, list, { name, round, rounds, show, id, others }) {
    const cluster = list.find((c) => c.id === id);
    if (!cluster) {
      box.append(
        XDC.message(
          `There is no ${name} cluster ${id} in round ${round}. `,
          el("a", { href: address(name, round) }, "See all clusters."),
        ),
      );
      return null;
    }
    const ids = list.map((c) => c.id).sort((a, b) => a - b);
    const at = ids.indexOf(id);
    const step = (to, text) =>
      ids[to] === undefined ? null : el("a.button", { href: address(name, round, ids[to]) }, text);
    const row = (heading, why, positions) =>
      el(
        "section.block",
        null,
        el("h3", null, heading),
        el("p.quiet", null, why),
        positions.length
          ? XDC.tiles(all, positions, { show })
          : el("p.quiet", null, "None of these is in the report."),
      );
    const members = [];
    (await XDC.labels(name, round)).forEach((c, i) => c === id && members.push(i));

    box.append(
      el(
        "div.crumbs",
        null,
        el("a", { href: address(name, round) }, "← All clusters"),
        el("span.spring"),
        step(at - 1, "Previous"),
        step(at + 1, "Next"),
      ),
      el(
        "h2.cluster-title",
        null,
        title(cluster),
        el(`span.chip.${name}`, null, `${name} ${id}`),
        el("span.quiet", null, `round ${round}`),
      ),
      labelBar(cluster, `var(--${name})`),
      el(
        "dl.explained",
        null,
        measured().map(([, term, value, why]) =>
          el("div", null, el("dt", null, term), el("dd", null, value(cluster)), el("dd.quiet", null, why)),
        ),
      ),
      el(
        "div.columns",
        null,
        cluster.labels.length
          ? el(
              "section",
              null,
              el("h3", null, "Labels"),
              el(
                "ul.bars",
                null,
                cluster.labels.map(([label, share]) =>
                  el(
                    "li",
                    null,
                    data(label),
                    XDC.bar(share, `var(--${name})`),
                    el("span.number", null, XDC.percent(share)),
                  ),
                ),
              ),
            )
          : null,
        el(
          "section",
          null,
          cluster.agrees.length
            ? [
                el("h3", null, "Where its clips are in the other modality"),
                el("p.stack", null, agreements(cluster, round, others)),
              ]
            : null,
          cluster.before && rounds.includes(round - 1)
            ? [
                el("h3", null, "Where they were before"),
                el(
                  "p",
                  null,
                  chip(name, round - 1, cluster.before[0], `${name} ${cluster.before[0]}`),
                  el("span.quiet", null, ` had ${XDC.percent(cluster.before[1])} of them in round ${round - 1}`),
                ),
              ]
            : null,
          el(
            "p.quiet",
            null,
            `From ${XDC.plural(cluster.files, "file")}; ${XDC.percent(cluster.share)} of all clips.`,
          ),
        ),
      ),
      row("Typical", "Nearest the centroid.", cluster.typical),
      row("Borderline", "Almost as near another centroid.", cluster.borderline),
      row("Random", "Drawn by chance.", cluster.random),
    );
    const every = el("div.tiles");
    let end = null;
    box.append(
      el(
        "details.block",
        {
          ontoggle: () =>
            (end ??= XDC.growing(every, members, (i) => XDC.tile(all, i, { show, list: members }), 60)),
        },
        el("summary", null, `All ${XDC.plural(members.length, "clip")} shown of this cluster`),
        every,
      ),
    );
    return () => end?.();
  }

  XDC.cards = { address, chip, card, page, labelsOfOthers, measured };
})();
