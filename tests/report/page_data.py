"""A small data folder by the page's data contract, full of hostile strings."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from typing import Any

import av
import numpy as np

PAGE = Path(__file__).resolve().parents[2] / "pipeline" / "report" / "page"
CLIPS, K, PLAYABLE = 60, 4, 12
HOSTILE = [
    "<script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 1'>",
    "../../../etc/passwd",
    "one line\nand \u2028 another",
    "\u202eexe.ylno gnp \u200f\u05e9\u05dc\u05d5\u05dd",
    "x" * 300,
    "\"'><b>&amp;",
]
LABELS = ["dog", "cat", "rain", *HOSTILE]


def put(folder: Path, name: str, value: Any) -> None:
    file = folder / "data" / f"{name}.js"
    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(value).replace("<", "\\u003c")
    file.write_text(f'XDC.put("{name}", {text});')


def array(values: Any, kind: str) -> dict[str, str]:
    little = np.asarray(values, np.dtype(kind).newbyteorder("<"))
    return {"type": kind, "b64": base64.b64encode(little.tobytes()).decode()}


def write_media(folder: Path, movies: list[Path]) -> list[str]:
    """Clips, thumbnails and pictures that stand for spectrograms; returns their names."""
    (folder / "media").mkdir()
    names = []
    for i in range(PLAYABLE):
        name, movie = f"{i:016x}", movies[i % len(movies)]
        shutil.copy(movie, folder / "media" / f"{name}.mp4")
        with av.open(str(movie)) as container:
            image = next(container.decode(video=0)).to_image()
        image.save(folder / "media" / f"{name}.jpg")
        image.resize((160, 64)).save(folder / "media" / f"{name}.png")
        names.append(name)
    return names


def cluster(i: int, name: str, round_number: int, of: np.ndarray) -> dict[str, Any]:
    members = np.flatnonzero(of == i).tolist()
    other = "audio" if name == "video" else "video"
    return {
        "id": i,
        "size": 100 - 10 * i,
        "share": len(members) / CLIPS,
        "labels": [[LABELS[i], 0.4 + 0.1 * i], [HOSTILE[i], 0.2]],
        "purity": 0.4 + 0.1 * i,
        "files": 5,
        "file_purity": 0.2,
        "coherence": [0.5, 0.9, 0.7, None][i],
        "agrees": [[other, i, 0.6, 8.3]],
        "churn": 0.2 if round_number else None,
        "before": [i, 0.8] if round_number else None,
        "typical": members[:4],
        "borderline": members[4:6],
        "random": members[6:8],
    }


def write_clusters(folder: Path, rounds: int) -> None:
    of = np.arange(CLIPS) % K
    of[-1] = -1
    for number in range(rounds):
        for name in ("video", "audio"):
            put(folder, f"labels/{name}/{number}", array(of, "int32"))
            put(
                folder,
                f"clusters/{name}/{number}",
                [cluster(i, name, number, of) for i in range(K)],
            )
            cells = [[i, i, 14] for i in range(K)]
            if number:
                order = list(range(K))
                flow = {"from": number - 1, "to": number, "cells": cells, "nmi": 0.6, "churn": 0.3}
                put(
                    folder,
                    f"flow/{name}/{number}",
                    {**flow, "from_order": order, "to_order": order},
                )
        sides = {"rows": {"name": "audio", "order": [3, 2, 1, 0]}}
        sides["columns"] = {"name": "video", "order": [3, 2, 1, 0]}
        cells = [[i, i, 14, 4.0] for i in range(K)]
        found = {"examples": {"3,3": [3, 7]}, "agreement": 0.31}
        put(folder, f"across/{number}", {**sides, "cells": cells, **found})


def write_page(folder: Path, movies: list[Path], rounds: int = 2, live: bool = False) -> Path:
    """A report of 60 clips in 4 clusters a modality; without `movies` it has no media."""
    shutil.copytree(PAGE, folder)
    names = write_media(folder, movies) if movies else []
    uris = [f"s3://bucket/{text}/clip{i}.mp4" for i, text in enumerate(["plain", *HOSTILE])]
    rows = np.arange(CLIPS)
    put(folder, "clips", {
        "n": CLIPS, "clip_index": array(rows * 3, "int32"), "uris": uris,
        "uri": array(rows % len(uris), "int32"), "start": array(rows, "float32"),
        "end": array(rows + 1.5, "float32"), "labels": LABELS,
        "label": array(np.where(rows % 7 == 6, -1, rows % len(LABELS)), "int32"),
        "media_ids": names, "media": array(np.where(rows < len(names), rows, -1), "int32"),
        "media_kinds": array([7] * len(names), "uint8"),
    })  # fmt: skip
    write_clusters(folder, rounds)
    # The first clip lies in the middle of both spaces, the second has no sound.
    grid = np.stack([(rows % 8) / 4 - 0.9, rows // 8 / 4 - 0.9])
    grid[:, 0] = 0
    silent = grid.copy()
    silent[:, 1] = np.nan
    spaces = {
        name: {"x": array(xy[0], "float32"), "y": array(xy[1], "float32")}
        for name, xy in (("video", grid), ("audio", silent))
    }
    put(folder, "map", {"round": rounds - 1, "method": "PCA", "note": HOSTILE[0], "spaces": spaces})
    near = [[[i, 0.9 - i / 100] for i in range(1, 6)]] * 3
    lists = {"picture": near, "sound": near, "across": near}
    put(folder, "nearest", {"clips": [0, 1, 2], "lists": lists, "notes": {"across": HOSTILE[0]}})
    rejects = [["index", "no_video", text, None, text, 0] for text in HOSTILE]
    rejects.append(["decode", "truncated", "s3://bucket/late.mp4", "c0ffee", "ends early", 1])
    put(folder, "rejects", {"total": len(rejects), "rows": rejects})
    clusterings = [{"name": n, "rounds": list(range(rounds)), "k": K} for n in ("video", "audio")]
    series = [{"name": "video predicts audio", "values": [None, *[2.0] * rounds][:rounds]}]
    put(folder, "report", {
        "title": HOSTILE[0], "run": HOSTILE[1], "made": 1.79e9 + rounds, "release": "0.4.0",
        "method": "anchored_audio", "state": "working" if live else "finished", "live": live,
        "clips": CLIPS, "shown": CLIPS, "playable": len(names), "labelled": True,
        "with_media": bool(names), "media_suffix": ".mp4",
        "rounds_wanted": 2, "rounds_done": rounds,
        "facts": [["hardware", HOSTILE[5]]], "settings": [["clustering.k", "4"]],
        "clusterings": clusterings,
        "curves": [{"id": "loss", "title": "Loss", "note": "Lower is better.", "unit": "",
                    "x": list(range(rounds)), "series": series}] if rounds else [],
        "verdicts": [{"kind": "good", "title": "Learning", "text": "It learns."},
                     {"kind": "alarm", "title": HOSTILE[1], "text": HOSTILE[4]}] if rounds else [],
        "rejects": [{"stage": "index", "reason": "no_video", "count": len(HOSTILE)},
                    {"stage": "decode", "reason": "truncated", "count": 1}],
        "rejected": len(rejects),
        "timeline": {"attempts": [{"number": 1, "began": 1.79e9, "ended": None, "how": None,
                                   "nodes": {"decode": 2}}],
                     "rounds": [{"round": r, "at": 1.79e9} for r in range(rounds)],
                     "losses": [{"at": 1.79e9, "what": HOSTILE[0]}]},
        "node_hours": {"head": 0.3}, "across": list(range(rounds)),
        "confusions": {
            "audio": {"pairs": [[HOSTILE[1], LABELS[0], 0.87]], "untold": [LABELS[1]]}
        }, "map": rounds > 0,
        "flows": [{"name": n, "round": r} for r in range(1, rounds) for n in ("video", "audio")],
        "nearest": bool(names), "downloads": [["rejects.csv", "every reject"]],
    })  # fmt: skip
    return folder
