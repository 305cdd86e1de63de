"""What earlier passes finished: records beside the shards say it, and what the shards are made of.

A shard without a record does not count, nor one that is not what its record says. So a pass that
was killed, that lost files, or that saw fewer clips than there are now is completed by the next.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import safetensors

from pipeline.clips.deleted import Losses, loss
from pipeline.clips.table import ClipTable
from pipeline.manifest import NAME, Damaged, Entry, Manifest, digest_of, seal, signed, unsigned
from pipeline.storage import Location, as_parquet, from_parquet

BANKED = "bank"  # how names of what training kept begin
Folders = Mapping[str, Location]  # modality → where its features lie
_REQUESTS = 8  # records read at once
_COLUMNS = ("clip_index", "present", "rejected", "away", "lost")  # of a record


@dataclass(frozen=True)
class Origin:
    """What features are made of: those of another origin do not count."""

    weights: Mapping[str, str]  # modality → digest of its encoder's weights; none: no encoders
    settings: str  # digest of all settings that decide what comes out
    clips: ClipTable

    @classmethod
    def of(cls, weights: Location | None, settings: Mapping[str, Any], clips: ClipTable) -> Origin:
        made = {} if weights is None else weight_digests(weights)
        return cls(made, digest_of(json.dumps(settings, sort_keys=True).encode()), clips)

    def noted(self, modality: str) -> dict[str, Any]:
        """As manifests and records hold it."""
        table = {"clips": len(self.clips), "ids": self.clips.identity()}
        return {"weights": self._weights(modality), "settings": self.settings, **table}

    def fits(self, noted: Mapping[str, Any], modality: str) -> bool:
        """Whether a modality's features are of this, be it of the first clips only."""
        made = self._weights(modality), self.settings
        same = (noted.get("weights"), noted.get("settings")) == made
        return same and self.clips.identity(noted.get("clips")) == noted.get("ids")

    def _weights(self, modality: str) -> str:
        return self.weights.get(modality, "raw")


def weight_digests(weights: Location) -> dict[str, str]:
    """Modality → digest of its encoder in safetensors of both, whose names begin with it."""
    info = weights.info()
    return _weight_digests(weights, info.size, info.mtime_ns)


@lru_cache(maxsize=4)  # of a file as it is now: every stage of a round asks
def _weight_digests(weights: Location, size: int, mtime_ns: int) -> dict[str, str]:
    tensors: dict[str, list[bytes]] = {}
    for name, tensor in sorted(safetensors.deserialize(weights.read_bytes())):
        about = f"{name} {tensor['dtype']} {tensor['shape']}".encode()
        tensors.setdefault(name.partition(".")[0], []).extend((about, tensor["data"]))
    return {modality: digest_of(b"\0".join(parts)) for modality, parts in tensors.items()}


@dataclass(frozen=True)
class Written:
    """What the records in the `out` folders say."""

    files: Mapping[str, Mapping[str, Entry]]  # modality → shard → what it holds
    # Modality → bool [N]: with features, or known to have none; not if storage was away.
    clips: Mapping[str, np.ndarray]
    present: Mapping[str, np.ndarray]  # modality → bool [N]: with features
    lost: Mapping[str, np.ndarray]  # modality → bool [N]: this modality of them was rejected
    rejected: np.ndarray  # bool [N]: nothing of them could be used, whenever it was tried
    rejected_before: tuple[np.ndarray, np.ndarray]  # clips int64, ascending, and how often
    banked: np.ndarray  # bool [N], of training
    damaged: tuple[str, ...]  # shards that were removed, since they are not as they were written
    passes: int  # how many there were

    @classmethod
    def before(
        cls, out: Folders, rejects: Location, origin: Origin, names: Iterable[str] = ()
    ) -> Written:
        """Read the records, also of `names`; remove every shard that does not count."""
        n = len(origin.clips)
        flags = ("seen", "usable", "rejected", "present", "lost", "banked")
        of = {flag: {m: np.zeros(n, bool) for m in out} for flag in flags}
        often: list[np.ndarray] = [np.zeros(0, np.int64)]
        kept: dict[str, dict[str, Entry | None]] = {m: {} for m in out}
        damaged: list[str] = []
        for modality, folder in out.items():
            for name, record, entry in _swept(folder, modality, origin, names, damaged):
                kept[modality][name] = entry
                index, *read = (record[c].to_numpy(zero_copy_only=False) for c in _COLUMNS)
                present, rejected, away, lost = read
                of["seen"][modality][index[~away]] = True
                of["usable"][modality][index[~rejected]] = True
                of["rejected"][modality][index[rejected]] = True
                of["present"][modality][index[present]] = True
                of["lost"][modality][index] = lost
                of["banked"][modality][index] = name.startswith(BANKED)
                if modality == next(iter(out)):
                    often.append(index[rejected])
        counting = {name for entries in kept.values() for name in entries}
        prefix = rejects_prefix(out)
        for part in rejects.files(".parquet"):
            # A write that was not finished is made again under another name.
            if part.name.startswith(prefix) and part.name.removeprefix(prefix) not in counting:
                part.delete()
        counted = np.unique(np.concatenate(often), return_counts=True)
        return cls(
            files={m: {n: e for n, e in entries.items() if e} for m, entries in kept.items()},
            clips=of["seen"],
            present=of["present"],
            lost=of["lost"],
            rejected=_all(of["rejected"]) & ~_all(of["usable"]),
            rejected_before=counted,
            banked=_all(of["banked"]),
            damaged=tuple(damaged),
            passes=len({n.split("-")[1] for n in counting if not n.startswith(BANKED)}),
        )

    @cached_property
    def done(self) -> np.ndarray:
        """bool [N]: in every folder."""
        return _all(self.clips)

    def counts(self) -> dict[str, int]:
        """Clips, those rejected, those that lost one modality, and features by modality."""
        counted = {"clips": self.done | self.rejected, "rejected": self.rejected}
        counted |= {f"lost_{modality}": lost for modality, lost in self.lost.items()}
        return {name: int(flags.sum()) for name, flags in (counted | dict(self.present)).items()}


def unfinished(out: Folders, origin: Origin) -> dict[str, str]:
    """Modalities whose features are not whole or not of this origin, and why, for a person.

    An empty reason: there are none yet, or only some.
    """
    lacking = {}
    for modality, folder in out.items():
        try:
            manifest = Manifest.whole(folder)
        except Damaged as damaged:
            lacking[modality] = str(damaged.place) + ": " + damaged.what
            continue
        if manifest is None:
            lacking[modality] = ""
        elif not origin.fits(manifest.made_of, modality):
            lacking[modality] = f"{folder} is of other weights, settings or clips"
        elif manifest.made_of["clips"] != len(origin.clips):
            more = len(origin.clips) - manifest.made_of["clips"]
            lacking[modality] = f"there are {more:,} more clips than {folder} is of"
    return lacking


def finish(out: Folders, written: Written, origin: Origin) -> None:
    """Mark the features as complete."""
    for modality, folder in out.items():
        seal(folder, written.files[modality], **origin.noted(modality))


def discard(damaged: Damaged) -> None:
    """Remove a shard that is not as it was written: the next pass makes it again."""
    folder = Location(damaged.place.uri.rpartition("/")[0], damaged.place.query)
    (folder / NAME).delete()
    damaged.place.delete()


def write_record(
    folder: Location,
    name: str,
    record: pa.Table,
    entry: Entry | None,
    origin: Mapping[str, Any] | None,
) -> None:
    """Make a shard count.

    Args:
        record: ``clip_index`` of all clips that were tried, bool ``present``, ``rejected``,
            ``away``, ``lost``.
        entry: of the shard's file; None: there is none, since no clip has features.
        origin: `Origin.noted`; None: of what training kept.
    """
    noted = {
        "entry": [entry.size, entry.digest, dict(entry.notes)] if entry else None,
        "origin": origin,
    }
    table = record.replace_schema_metadata({"record": json.dumps(noted)})
    (_records(folder) / name).write_bytes(signed(bytes(as_parquet(table))))


def delete_shards(folder: Location, names: Iterable[str]) -> None:
    for name in names:
        (_records(folder) / name).delete()
        (folder / name).delete()


def rejects_prefix(out: Folders) -> str:
    """How names of the rejects of passes into these folders begin: ``features-video-audio-``."""
    kind = next(iter(out.values())).uri.split("/")[-2]
    return f"{kind}-{'-'.join(out)}-"


def shard_names(folder: Location) -> set[str]:
    """Names of all shards and records, whether they count or not."""
    return {part.name for place in (folder, _records(folder)) for part in place.files(".parquet")}


def _swept(
    folder: Location, modality: str, origin: Origin, also: Iterable[str], damaged: list[str]
) -> Iterator[tuple[str, pa.Table, Entry | None]]:
    """Names and records of the shards that count, and their files' entries; no others are left.

    Those of `also` are looked for by their names, too: listings may lag. Names of shards that are
    not as they were written are added to `damaged`.
    """
    (folder / NAME).delete()
    sizes = {i.base_name: i.size for i in folder.children() if i.base_name.endswith(".parquet")}
    listed = {record.name for record in _records(folder).files(".parquet")}
    names = sorted(sizes.keys() | listed | {*also})

    def read(name: str) -> tuple[pa.Table, Entry | None] | None:
        found = _record(folder, name)
        if found is None or not (found[2] is None or origin.fits(found[2], modality)):
            return None
        return found[:2]

    with ThreadPoolExecutor(_REQUESTS) as pool:
        for name, found in zip(names, pool.map(read, names)):
            size = sizes.get(name)
            if found is not None and found[1] is not None and size is None:
                size = (folder / name).info().size
            if found is not None and size == (found[1].size if found[1] else None):
                yield name, *found
            else:
                if found is not None:
                    damaged.append(f"{folder / name}")
                delete_shards(folder, [name])


def _record(
    folder: Location, name: str
) -> tuple[pa.Table, Entry | None, Mapping[str, Any] | None] | None:
    """A shard's record, the entry of its file, and its origin; None if it is not as written."""
    try:
        table = from_parquet(unsigned((_records(folder) / name).read_bytes()))
        noted = json.loads(table.schema.metadata[b"record"])
    except (FileNotFoundError, ValueError, KeyError, pa.ArrowException):
        return None
    return table, Entry(*noted["entry"]) if noted["entry"] else None, noted["origin"]


def _records(folder: Location) -> Location:
    return folder / "_written"


def _all(flags: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.logical_and.reduce(list(flags.values()))


def losses_of(rejects: Location, out: Folders, clips: Iterable[str]) -> Losses:
    """Of these clips, by id, of which nothing could be used: the reason of their last try."""
    prefix, wanted = rejects_prefix(out), {*clips}
    latest: dict[str, tuple[int, str, str]] = {}
    for part in rejects.files(".parquet"):
        if part.name.startswith(prefix):
            columns = ["clip_id", "uri", "modality", "reason", "attempt"]
            rows = part.read_table(columns).to_pylist()
            for row in rows:
                key, attempt = row["clip_id"], row["attempt"]
                whole = row["modality"] is None and key in wanted
                if whole and attempt >= latest.get(key, (0, "", ""))[0]:
                    latest[key] = attempt, row["uri"], row["reason"]
    return Counter(loss(uri, reason) for _, uri, reason in latest.values())
