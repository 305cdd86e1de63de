"""Which tracks of a transport stream belong to the same programme.

PyAV shows no programmes. FFmpeg's description of a file lists them, each with its tracks.
"""

from __future__ import annotations

import re
from typing import Any

import av
from av.container import InputContainer

_LINES = re.compile(r"^  (?:(Program) \d+|(No Program)|Stream #\d+:(\d+))", re.MULTILINE)


def programs_of(container: InputContainer) -> list[set[int]]:
    """Indices of the tracks of each programme; empty where there are none to be told apart."""
    if not len(container.streams.video) or not len(container.streams.audio):
        return []
    if len(container.streams.video) + len(container.streams.audio) < 3:
        return []
    programs: list[set[int]] = []
    place: set[int] = set()
    for program, no_program, track in _LINES.findall(_description(container)):
        if program or no_program:
            place = set()
            programs += [place] if program else []
        else:
            place.add(int(track))
    return programs


def _description(container: Any) -> str:
    level, skips = av.logging.get_level(), av.logging.get_skip_repeated()
    # The description comes as log lines of this level.
    av.logging.set_skip_repeated(False)
    av.logging.set_level(av.logging.INFO)
    try:
        return container.dumps_format()
    finally:
        av.logging.set_level(level)
        av.logging.set_skip_repeated(skips)
