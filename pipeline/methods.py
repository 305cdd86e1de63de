"""The methods as data: what is clustered, which heads predict which labels, in which order.

A round is a list of updates. Before an update, every modality whose clustering the update needs
and whose encoder changed since it was last embedded is embedded and clustered again; then the
update trains its encoders. So *simultaneous* training is one update that names both encoders, and
*alternating* training is two updates that name one each.

SDC, MDC, CDC and XDC follow Figure 1 of Alwassel et al. 2020; the others are ours.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from pipeline.errors import UserError

MODALITIES = ("video", "audio")


@dataclass(frozen=True)
class Update:
    """One pass of learning: trained encoder → clusterings that it predicts, one head each."""

    heads: Mapping[str, tuple[str, ...]]

    @property
    def encoders(self) -> tuple[str, ...]:
        return tuple(m for m in MODALITIES if m in self.heads)

    @property
    def clusterings(self) -> tuple[str, ...]:
        """Every clustering that some head predicts, each once."""
        return tuple(dict.fromkeys(name for names in self.heads.values() for name in names))


@dataclass(frozen=True)
class Method:
    """The clusterings and updates of one round."""

    clusterings: Mapping[str, tuple[str, ...]]  # name → modalities, features concatenated
    updates: tuple[Update, ...]  # in order; an encoder is trained at most once a round

    def modalities_of(self, update: Update) -> tuple[str, ...]:
        """Modalities whose features the update's clusterings need."""
        needed = {m for name in update.clusterings for m in self.clusterings[name]}
        return tuple(m for m in MODALITIES if m in needed)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities that some clustering needs or some update trains."""
        needed = {m for modalities in self.clusterings.values() for m in modalities}
        needed |= {m for update in self.updates for m in update.encoders}
        return tuple(m for m in MODALITIES if m in needed)

    def restricted(self, there: Collection[str]) -> Method | None:
        """The method where clips have only the modalities `there`.

        None where an encoder would lose labels that it learns: that is another method.
        """
        clusterings = {name: ms for name, ms in self.clusterings.items() if {*ms} <= {*there}}
        heads = [{m: ns for m, ns in u.heads.items() if m in there} for u in self.updates]
        wanted = {name for update in heads for names in update.values() for name in names}
        if not wanted or not wanted <= clusterings.keys():
            return None
        return Method(clusterings, tuple(Update(each) for each in heads if each))

    def needs_all_labels(self, update: Update) -> bool:
        """Whether a clip must have every label: not where each encoder learns from itself alone."""
        return any(
            self.clusterings[name] != (encoder,)
            for encoder, names in update.heads.items()
            for name in names
        )


def _apart(*updates: Mapping[str, tuple[str, ...]]) -> Method:
    """Each modality is clustered by itself."""
    return Method({m: (m,) for m in MODALITIES}, tuple(map(Update, updates)))


METHODS: Mapping[str, Method] = {
    "sdc": _apart({"video": ("video",), "audio": ("audio",)}),
    "mdc": _apart({"video": ("video", "audio"), "audio": ("audio", "video")}),
    "cdc": Method({"joint": MODALITIES}, (Update({"video": ("joint",), "audio": ("joint",)}),)),
    "xdc": _apart({"video": ("audio",), "audio": ("video",)}),
    # XDC, one encoder after the other, best the weak one first. The second encoder learns from the
    # first one's new clusters.
    "xdc_video_first": _apart({"video": ("audio",)}, {"audio": ("video",)}),
    "xdc_audio_first": _apart({"audio": ("video",)}, {"video": ("audio",)}),
    # The weak modality learns from the anchor's clusters, is clustered again, and then the anchor
    # learns from both its own clusters and the weak modality's new ones.
    "anchored_audio": _apart({"video": ("audio",)}, {"audio": ("audio", "video")}),
    "anchored_video": _apart({"audio": ("video",)}, {"video": ("video", "audio")}),
}


def get(name: str) -> Method:
    """Raises UserError if there is no such method."""
    if name not in METHODS:
        raise UserError(f"unknown method {name!r}; choose one of {', '.join(METHODS)}")
    return METHODS[name]
