"""What a run was trained on, from its tables: for config.json and the model card.

Numbers and reasons alone: names of files and labels say more than who shares weights may know.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.clips.indexing import REJECTS
from pipeline.clips.input_keys import distinct, uri_keys
from pipeline.clips.rejects import kind_of_loss
from pipeline.clips.table import ClipTable
from pipeline.errors import UserError
from pipeline.run import Run
from pipeline.storage import Location

_COLUMNS = ["uri", "start_s", "end_s", "has_video", "has_audio", "label", "split"]
_SHOWN = 8  # splits or reasons that a row of the card names


def data_summary(run: Run, number: int) -> dict[str, Any] | None:
    """Counts of the clips table and of the rejects until round `number`; None without a table."""
    try:
        parts = ClipTable.open(run.clips).of_each_part(_COLUMNS, _counts)
        rejects = {
            "indexing": _reasons([run.location / REJECTS]),
            "round": _reasons(run.round(number).rejects.files(".parquet")),
        }
    except UserError:
        return None  # weights are of use without it
    total: Counter[str] = sum((numbers for numbers, _, _ in parts), Counter())
    splits: Counter[str] = sum((found for _, found, _ in parts), Counter())
    return {
        "clips": total["clips"],
        "files": len(distinct(keys for _, _, keys in parts)),
        "hours": round(total["ms"] / 3_600_000, 3),
        "with_video": total["has_video"],
        "with_audio": total["has_audio"],
        "labelled": total["labelled"],
        "splits": dict(splits.most_common()),
        "learned_from": list(run.config.clips.split),  # empty: all splits
        "rejects": rejects,
    }


def _counts(part: pa.Table) -> tuple[Counter[str], Counter[str], Any]:
    """Numbers of a part of the clips table, its splits, and the keys of its files."""
    seconds = pc.sum(pc.subtract(part["end_s"], part["start_s"])).as_py() or 0
    counts = Counter(
        clips=len(part), ms=round(1000 * seconds), labelled=len(part) - part["label"].null_count
    )
    for name in ("has_video", "has_audio"):
        counts[name] = pc.sum(part[name]).as_py() or 0
    splits = Counter(name for name in part["split"].to_pylist() if name is not None)
    return counts, splits, distinct([uri_keys(part["uri"])])


def _reasons(places: Iterable[Location]) -> dict[str, dict[str, int]]:
    """``rejected``, ``lost_video`` or ``lost_audio`` → reason → how many, the most first."""
    found: dict[str, Counter[str]] = {}
    for place in places:
        if place.exists():
            rows = place.read_table(["modality", "reason"])
            for modality, reason in zip(rows["modality"].to_pylist(), rows["reason"].to_pylist()):
                found.setdefault(kind_of_loss(modality), Counter())[reason] += 1
    return {kind: dict(reasons.most_common()) for kind, reasons in sorted(found.items())}


def data_rows(data: dict[str, Any] | None) -> dict[str, str]:
    """Rows of the model card."""
    if data is None:
        return {"clips": "unknown: the run's clips table could not be read"}
    media = f"{data['with_video']:,} with video, {data['with_audio']:,} with audio"
    labelled = f"{data['labelled']:,} clips have one; training reads none"
    return {
        "clips indexed": f"{data['clips']:,} of {data['files']:,} files, {media}",
        "hours": f"{data['hours']:,.3g}",
        "splits in the table": _listed(data["splits"]) or "unknown: the table names none",
        "splits learned from": ", ".join(data["learned_from"]) or "all",
        "labels": labelled if data["labelled"] else "unknown: the table has none",
        "licences of the media": "unknown: a run's tables do not hold them",
        **{
            f"{kind.replace('_', ' ')} {when}": _listed(reasons)
            for when, kinds in (
                ("when indexing", data["rejects"]["indexing"] or {"rejected": {}}),
                ("since, in this round", data["rejects"]["round"]),
            )
            for kind, reasons in kinds.items()
        },
    }


def _listed(counts: dict[str, int]) -> str:
    """``corrupt 3, timeout 1``"""
    named = [f"{name} {number:,}" for name, number in list(counts.items())[:_SHOWN]]
    more = len(counts) - _SHOWN
    return ", ".join([*named, *([f"and {more} more"] if more > 0 else [])])
