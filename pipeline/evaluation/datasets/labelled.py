"""Labelled media as a published dataset lists them, and where their files lie."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from pipeline.clips.folders import FolderListing
from pipeline.errors import UserError
from pipeline.storage import Location

SCHEMA = pa.schema(
    [
        ("uri", pa.string()),
        ("start_s", pa.float64()),  # null, with end_s: the whole file
        ("end_s", pa.float64()),
        ("label", pa.string()),  # null: the example has none, or several
        ("source", pa.string()),  # what it was cut from: never on both sides of a split
    ]
)
# Containers in which the public sets are published or kept after transcoding.
_VIDEO = ("3gp", "avi", "flv", "m4v", "mkv", "mov", "mp4", "mpeg", "mpg", "ts", "webm", "wmv")
_SOUND = ("aac", "flac", "m4a", "mp3", "ogg", "opus", "wav", "wma")
_MEDIA = frozenset((*_VIDEO, *_SOUND))
TRAIN, TEST, NEITHER = "train", "test", ""
Window = tuple[float | None, float | None]  # start and end in the file, in seconds
WHOLE: Window = (None, None)  # the whole file


@dataclass(frozen=True)
class ListedExample:
    """A row of a dataset's lists."""

    name: str  # as the lists have it
    uri: str | None  # of the media file; None: it is missing
    label: str | None  # None: the example has none, or several
    source: str  # what it was cut from
    sides: Mapping[str, str]  # split → ``train`` or ``test``; on neither side of any other split
    window: Window = WHOLE
    others: Mapping[str, str | None] = field(default_factory=dict)  # further columns, in all rows


@dataclass(frozen=True)
class LabelledMedia:
    """The examples of a dataset whose files are there."""

    kind: str  # the reader's name
    root: Location  # what the reader was given
    table: pa.Table  # `SCHEMA` and the dataset's further columns, one row an example
    splits: dict[str, np.ndarray]  # ``train``, ``test`` or empty, object [rows]; official first
    default: tuple[str, ...]  # the splits that a full evaluation averages over
    missing: tuple[str, ...]  # names of listed examples whose media file is not there

    @classmethod
    def listed(
        cls,
        kind: str,
        root: Location,
        examples: Iterable[ListedExample],
        splits: Sequence[str],
        default: Sequence[str] = (),
    ) -> LabelledMedia:
        """What a reader found in a dataset's lists; an empty `default` means all splits.

        Raises:
            UserError: nothing is listed, or none of the listed files is there.
        """
        examples = list(examples)
        there = [example for example in examples if example.uri is not None]
        missing = tuple(example.name for example in examples if example.uri is None)
        if missing and not there:
            raise UserError(
                f"none of the {len(missing):,} files that {kind} lists is below {root} (the first: "
                f"{missing[0]}); give the folder that holds both the media and the lists"
            )
        if not there:
            raise UserError(f"{root} lists no example of {kind}")
        rows = [
            {**dict(zip(SCHEMA.names, (e.uri, *e.window, e.label, e.source))), **e.others}
            for e in there
        ]
        schema = pa.schema([*SCHEMA, *(pa.field(name, pa.string()) for name in there[0].others)])
        sides = {s: np.array([e.sides.get(s, NEITHER) for e in there], object) for s in splits}
        table = pa.Table.from_pylist(rows, schema)
        return cls(kind, root, table, sides, tuple(default or splits), missing)

    def __len__(self) -> int:
        return len(self.table)

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of all that is listed: another list is another dataset."""
        digest = hashlib.blake2b(self.kind.encode(), digest_size=8)
        for name in SCHEMA.names:
            digest.update(repr(self.table[name].to_pylist()).encode())
        for name, sides in self.splits.items():
            digest.update(repr((name, sides.tolist())).encode())
        return digest.hexdigest()


class FileTree:
    """All files below a folder, found by name wherever they lie.

    People unpack and transcode datasets in their own ways, so media are found by their name
    without suffix. Their folder decides between equal names.

    Raises:
        UserError: there is no such folder, or it is empty.
    """

    def __init__(self, root: Location) -> None:
        self.root = root
        names = FolderListing.of(root).names
        self.paths = [name for name in names if name.isascii() or _is_utf_8(name)]
        if not self.paths:
            raise UserError(f"there are no files in {root}; give the folder of the dataset")
        self.media = [p for p in self.paths if p.rsplit(".", 1)[-1].lower() in _MEDIA]
        self._by_stem: dict[str, list[str]] = defaultdict(list)  # without regard to case
        for path in self.media:
            self._by_stem[stem_of(path).casefold()].append(path)

    def uri(self, path: str) -> str:
        return (self.root / path).full_uri

    def find(self, stem: str, folder: str | None = None, fold_case: bool = False) -> str | None:
        """URI of the media file with this name and any suffix; None where there is none.

        Of several files, one inside a `folder` of this name is preferred. `fold_case` also accepts
        a name that differs in case.
        """
        alike = self._by_stem.get(stem.casefold(), [])
        found = [path for path in alike if stem_of(path) == stem] or (alike if fold_case else [])
        inside = [path for path in found if folder in path.split("/")[:-1]]
        return self.uri((inside or found)[0]) if found else None

    def find_cut(
        self, stems: Iterable[str], whole: str, window: Window, folder: str | None = None
    ) -> tuple[str | None, Window]:
        """URI and window of a cut: the first file of `stems`, or its seconds of the `whole` one."""
        cut = next((uri for stem in stems if (uri := self.find(stem, folder))), None)
        return (cut, WHOLE) if cut else (self.find(whole), window)

    def files(self, suffix: str) -> list[str]:
        """Paths that end in `suffix`, in order."""
        return [path for path in self.paths if path.endswith(suffix)]

    def one(self, name: str) -> Location:
        """The file of this name, the shallowest where there are several.

        Raises:
            UserError: there is none.
        """
        found = [path for path in self.paths if path.rsplit("/", 1)[-1] == name]
        if not found:
            raise UserError(f"{name} is nowhere below {self.root}; it is part of the dataset")
        return self.root / min(found, key=lambda path: (path.count("/"), path))


def _is_utf_8(name: str) -> bool:
    """Whether a name can stand in a table; lists of published datasets name no others."""
    return name.encode(errors="replace").decode() == name


def sides_of_part(part: str, splits: Iterable[str]) -> dict[str, str]:
    """Sides of an example of a part; each split tests on the part of its name (test, val)."""
    return dict.fromkeys(splits, TRAIN) if part == TRAIN else {part: TEST}


def stem_of(path: str) -> str:
    return path.rsplit("/", 1)[-1].rsplit(".", 1)[0]


def is_test_by_hash(name: str, share: float = 0.3) -> bool:
    """Whether a file is for testing where nobody has split the set."""
    digest = hashlib.blake2b(name.encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") / 2**32 < share
