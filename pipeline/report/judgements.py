"""What the numbers say, in words, and three alarms.

The limits were set on recorded runs (benchmarks/findings, benchmarks/alarms.json): the alarms are
silent on those that ended well, and each fires on the runs that ended in its way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pipeline import methods
from pipeline.clustering.measures import COLLAPSED
from pipeline.report.clustering_measures import ClusteringMeasures

_SENSES = {"video": "picture", "audio": "sound"}
_OTHER = {"video": "audio", "audio": "video"}
# Of what the modalities agree on, the least share that must not be the file's.
_BEYOND_FILES = 1 / 3
_SOME_AGREEMENT = 0.1  # below, there is nothing to have shares of
_SETTLED = 0.9  # NMI between rounds
_CLEARLY = 0.05  # a difference of adjusted mutual information
_TAKEN_OVER = 0.1  # likewise


class Judgement(NamedTuple):
    kind: str  # good, note or alarm
    title: str
    text: str


def judgements(found: Sequence[ClusteringMeasures], method: str) -> list[Judgement]:
    """Alarms first.

    Args:
        found: every clustering, the oldest first.
        method: its name.
    """
    if not found:
        return [Judgement("note", "No clusters yet", "The first round is not clustered yet.")]
    last = {each.name: each for each in found}
    first = {each.name: each for each in reversed(found)}
    alarms = [*_collapse(last), *_follows_file(last), *_swapped(first, last, method)]
    told = [_anchor(first, last, method), _learning(found), _settled(last)]
    return [*alarms, *(each for each in told if each)]


def _collapse(last: dict[str, ClusteringMeasures]) -> list[Judgement]:
    return [
        Judgement(
            "alarm",
            f"The {name} clusters collapse",
            f"Only {each.effective:.0f} of {each.k} clusters are in effective use. Look at the "
            "largest: if its clips are silent, black or all the same, leave them out "
            "(jobs/curate.py). If not, try clustering.balance=sinkhorn, a smaller clustering.k, "
            "or fewer epochs a round.",
        )
        for name, each in last.items()
        if _collapsed(each)
    ]


def _collapsed(each: ClusteringMeasures) -> bool:
    return each.effective < COLLAPSED * each.k


def _follows_file(last: dict[str, ClusteringMeasures]) -> list[Judgement]:
    for each in last.values():
        if each.agreement is None or each.beyond_files is None:
            continue
        if each.agreement > _SOME_AGREEMENT and each.beyond_files < _BEYOND_FILES * each.agreement:
            return [
                Judgement(
                    "alarm",
                    "The clusters follow the file",
                    f"Picture and sound agree ({each.agreement:.2f}), but mostly on which file a "
                    f"clip is from: beyond that, {each.beyond_files:.2f} is left. They learn the "
                    "room, the day or the speaker. Anchor the modality whose first clusters "
                    "follow the files less.",
                )
            ]
    return []


def _swapped(
    first: dict[str, ClusteringMeasures], last: dict[str, ClusteringMeasures], method: str
) -> list[Judgement]:
    strong = _follows_files_less(first)
    if strong is None or strong in _learned_by(strong, method):
        return []
    anchor = method.removeprefix("anchored_")
    was, now = first[strong].ami_to_files or 0, last[strong].ami_to_files or 0
    if anchor in _SENSES:
        weak = first[anchor].ami_to_files or 0
        title, why = (
            "The modalities may be swapped",
            f"The anchor is {anchor}, but its first clusters follow the files more ({weak:.2f}) "
            f"than those of {strong} ({was:.2f}).",
        )
    elif now > was + _TAKEN_OVER:
        title, why = (
            f"What {strong} knew is lost",
            f"The clusters of {strong} followed the files less at first ({was:.2f}) than now "
            f"({now:.2f}): {strong} learns from labels of the weaker modality alone.",
        )
    else:
        return []
    return [Judgement("alarm", title, f"{why} Try method=anchored_{strong}.")]


def _learned_by(modality: str, method: str) -> set[str]:
    """Names of the clusterings that an encoder learns in a round."""
    return {n for update in methods.get(method).updates for n in update.heads.get(modality, ())}


def _follows_files_less(first: dict[str, ClusteringMeasures]) -> str | None:
    if any(map(_collapsed, first.values())):  # a few huge clusters follow nothing
        return None
    told = {name: first[name].ami_to_files for name in _SENSES if name in first}
    return strong_modality({name: value for name, value in told.items() if value is not None})


def strong_modality(ami_to_files: Mapping[str, float]) -> str | None:
    """The modality to anchor: its first clusters follow the files clearly less than the other's.

    Args:
        ami_to_files: modality → adjusted mutual information of its first clusters and the files.

    Returns:
        None where the two hardly differ, or one is not known.
    """
    if len(ami_to_files) < 2:
        return None
    low, high = sorted(ami_to_files, key=ami_to_files.__getitem__)
    return low if ami_to_files[high] - ami_to_files[low] > _CLEARLY else None


def _anchor(
    first: dict[str, ClusteringMeasures], last: dict[str, ClusteringMeasures], method: str
) -> Judgement | None:
    if set(first) != set(_SENSES):
        return None
    said = ""
    if method.startswith("anchored_"):
        anchor = method.removeprefix("anchored_")
        said = f" The anchor of this run is {anchor}: it also learns its own clusters."
    if lost := [name for name, each in first.items() if _collapsed(each)]:
        why = f"The first {lost[0]} clusters collapse, so there is nothing to compare."
        return Judgement("note", "Which modality is strong is not known", why + said)
    if follows := _follows_files_less(first):
        files = {name: each.ami_to_files or 0 for name, each in first.items()}
        why = (
            f"Its first clusters follow the files less ({files[follows]:.2f}, "
            f"{_OTHER[follows]} {files[_OTHER[follows]]:.2f})."
        )
        return Judgement("note", f"The strong modality is {follows}", why + said)
    known = {name: each.nmi_to_labels for name, each in first.items()}
    if None not in known.values():
        strong = max(known, key=lambda name: known[name] or 0)
        numbers = ", ".join(f"{name} {known[name] or 0:.2f}" for name in known)
        why = f"Its first clusters tell most of the labels (NMI: {numbers})."
        return Judgement("note", f"The strong modality is {strong}", why + said)
    why = "Files hold one clip each and there are no labels, so the first clusters do not tell."
    return Judgement("note", "Which modality is strong is not known", why + said)


def _learning(found: Sequence[ClusteringMeasures]) -> Judgement | None:
    of_pairs = {e.number: (e.beyond_files, e.agreement) for e in found if e.agreement is not None}
    if len(of_pairs) < 2:
        return None
    (number, before), (last, now) = min(of_pairs.items()), max(of_pairs.items())
    use = 0 if before[0] is not None and now[0] is not None else 1
    was, is_now = before[use] or 0.0, now[use] or 0.0
    beyond = " beyond the file" if use == 0 else ""
    text = (
        f"Picture and sound agree{beyond} to {is_now:.2f} in round {last}, {was:.2f} in round "
        f"{number} (0: by chance, 1: the same clusters)."
    )
    if is_now > was + _CLEARLY:
        return Judgement("good", "It is learning", text)
    title = "No sign that it is learning"
    return Judgement("note", title, f"{text} More epochs or another rate may help.")


def _settled(last: dict[str, ClusteringMeasures]) -> Judgement | None:
    known = {n: e.nmi_to_last for n, e in last.items() if e.nmi_to_last is not None}
    if not known:
        return None
    numbers = ", ".join(f"{name} {value:.2f}" for name, value in known.items())
    text = f"NMI of the clusters with those of the round before: {numbers}."
    if min(known.values()) >= _SETTLED:
        return Judgement("good", "It has settled", f"{text} Further rounds change little.")
    return Judgement("note", "It still changes", f"{text} Further rounds (rounds=+1) may help.")
