"""Which finished rounds still stand: found when a run is taken up, before anything uses them.

A round stands when its files are as they were written, and when it was made of the round before
and of the pseudo-labels as they are now. One that does not stand is done again, from the stages of
it that do. Where that gives the same bytes, as on one kind of processor, the rounds after it stand;
otherwise they are done again, too.
"""

from __future__ import annotations

import json
from typing import Any

from pipeline.manifest import NAME, Damaged, Manifest, digest_of
from pipeline.run import Run
from pipeline.storage import Location

_LABELS = "labels/"


def unsound(run: Run, number: int) -> str | None:
    """Why a finished round does not stand, for a person; None if it does.

    Reads all its files but features, which are looked at when they are loaded.
    """
    this = run.round(number)
    try:
        sealed = _checked(this.location)
        if sealed is None:
            return f"{this.location / NAME} is gone"
        for update in range(sealed.made_of.get("updates", 0)):
            if _checked(this.update(update)) is None:
                return f"{this.update(update) / NAME} is gone"
        if number:
            before = Manifest.read(run.round(number - 1).location)
            name = this.encoders.name
            if before is None or before.files[name].digest != sealed.made_of["before"]:
                return f"round {number - 1} has other encoders than it was learned from"
        for place, (digest, clips) in sealed.made_of.get("labels", {}).items():
            folder = run.location / place
            if not place.startswith("rounds/"):  # of another run
                continue
            if _checked(folder) is None:
                return f"{folder / NAME} is gone"
            now, clips_now = labels_seal(folder)
            # Clips that were indexed since have labels now, and others' may have moved.
            if now != digest and clips_now <= clips:
                return f"{folder} has other pseudo-labels than it was learned from"
    except Damaged as damaged:
        return f"{damaged.place} is damaged ({damaged.what})"
    return None


def labels_seal(clusters: Location) -> list[Any]:
    """Digest of the pseudo-labels in the folder of a clustering, and of how many clips they are.

    Raises:
        Damaged: it is not finished, or its manifest is not as it was written.
    """
    sealed = Manifest.read(clusters)
    if sealed is None:
        raise Damaged(clusters / NAME, "it is gone")
    parts = [e.digest for name, e in sorted(sealed.files.items()) if name.startswith(_LABELS)]
    summary = json.loads(sealed.load("clustering.json"))
    return [digest_of("".join(parts).encode()), summary["num_clips"]]


def _checked(folder: Location) -> Manifest | None:
    found = Manifest.whole(folder)
    if found is not None:
        found.check_content()
    return found
