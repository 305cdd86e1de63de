"""Public datasets in their published form, read into labelled examples with official splits.

``KIND:ROOT`` names one: `KINDS` lists the kinds, `read` reads one. Listed media that are missing
are counted and named, never dropped in silence.

To add a dataset, write a reader in a file of its own and add it to `KINDS`. The first line of the
reader's docstring appears in ``jobs/evaluate.py --help``.
"""

from __future__ import annotations

from collections.abc import Callable

from pipeline.errors import UserError
from pipeline.evaluation.datasets.actions import read_hmdb51, read_kinetics, read_ucf101
from pipeline.evaluation.datasets.cuts import read_folders, read_table
from pipeline.evaluation.datasets.labelled import LabelledMedia
from pipeline.evaluation.datasets.sounds import (
    read_audioset,
    read_dcase2014,
    read_esc10,
    read_esc50,
    read_vggsound,
)
from pipeline.storage import Location

__all__ = ["KINDS", "LabelledMedia", "help_text", "read"]

KINDS: dict[str, Callable[[Location], LabelledMedia]] = {
    "ucf101": read_ucf101,
    "hmdb51": read_hmdb51,
    "kinetics": read_kinetics,
    "esc50": read_esc50,
    "esc10": read_esc10,
    "dcase2014": read_dcase2014,
    "audioset": read_audioset,
    "vggsound": read_vggsound,
    "folders": read_folders,
    "csv": read_table,
}


def help_text() -> str:
    """A line for each kind of dataset, for a command's help."""
    width = max(map(len, KINDS))
    firsts = {kind: (reader.__doc__ or "").partition("\n")[0] for kind, reader in KINDS.items()}
    lines = [f"  {kind:{width}}  {first}" for kind, first in firsts.items()]
    return "\n".join(lines).replace("``", "")


def read(named: str) -> LabelledMedia:
    """The dataset of ``KIND:ROOT``, for example ``esc50:/data/ESC-50`` or ``csv:s3://b/table.csv``.

    Raises:
        UserError: the kind is unknown, or what is there is not such a dataset.
    """
    kind, colon, root = named.partition(":")
    if not colon or not root or kind not in KINDS:
        raise UserError(
            f"{named!r} is not KIND:ROOT; kinds are {', '.join(KINDS)}, "
            "for example esc50:/data/ESC-50"
        )
    return KINDS[kind](Location.of(root))
