"""Reports of real runs in a real browser: of a generated world, and of words.

    XDC_REPORT=runs/demo/report python -m pytest tests/report/test_whole_reports.py

looks at a report that is there already, too.
"""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from jobs.index import main as index
from jobs.report import main as report
from pipeline.rounds import pretrain
from pipeline.settings import load
from pipeline.storage import Location
from tests.conftest import ROOT, shared_media
from tests.report.conftest import Visit, rendered
from tests.report.page_values import value_of
from tests.whole_runs import Calm

if TYPE_CHECKING:
    from playwright.sync_api import Page

expect = pytest.importorskip("playwright.sync_api").expect

FILM = "document.querySelector('#player video')"
SENTENCES = 40  # of the words: 240 clips
SHORT = ["rounds=1", "learning.epochs=0.5", "clustering.k=16", "clustering.iterations=5"]


def of_generated(calm: Calm, folder: Path) -> Path:
    report([str(calm.place), str(folder / "report")])
    return folder / "report"


def of_words(folder: Path) -> Path:
    words = shared_media("words")
    with (words / "words.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    sentences = list(dict.fromkeys(row["uri"] for row in rows))[:SENTENCES]
    kept = [row | {"uri": words / row["uri"]} for row in rows if row["uri"] in sentences]
    with (folder / "words.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(kept)
    run = folder / "run"
    index([str(folder / "words.csv"), str(run)])
    pretrain(load([str(ROOT / "configs" / "words.yaml"), f"run={run}", *SHORT]))
    report([str(run), str(folder / "report")])
    return folder / "report"


@pytest.fixture(scope="module", params=["generated", "words", "named"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp(request.param)
    if request.param == "named":
        if not (named := os.environ.get("XDC_REPORT")):
            pytest.skip("XDC_REPORT names no report")
        return Path(named)
    if request.param == "words":
        request.getfixturevalue("local_ray")
        return of_words(place)
    return of_generated(request.getfixturevalue("calm"), place)


@pytest.fixture(scope="module")
def told(folder: Path) -> dict[str, Any]:
    return value_of(Location.of(folder), "report")


@pytest.mark.parametrize("width", [360, 1280])
def test_every_view_renders(folder: Path, told: dict[str, Any], visit: Visit, width: int) -> None:
    views = ["overview", "clusters", "map", "nearest/0", "rejects"]
    for clustering in told["clusterings"]:
        views += [f"clusters/{clustering['name']}/{n}" for n in clustering["rounds"]]
    views += [f"across/{number}" for number in told["across"]]
    last = told["across"][-1]
    views += [f"across/{last}/flow/{f['name']}" for f in told["flows"] if f["round"] == last]
    page = visit(folder, viewport={"width": width, "height": 800})
    for view in views:
        page.goto(f"{folder.resolve().as_uri()}/index.html#{view}")
        rendered(page)
        assert len(page.locator("#view").inner_text()) > 20, view
        assert page.evaluate("document.documentElement.scrollWidth") <= width, view
        expect(page.locator("#tabs [aria-current=page]")).to_have_count(1)


def last_of(told: dict[str, Any], name: str) -> int:
    (found,) = [c for c in told["clusterings"] if c["name"] == name]
    return int(found["rounds"][-1])


def shown(page: Page) -> list[int]:
    cards = rendered(page).locator(".card")
    return [int(n) for n in cards.evaluate_all("all => all.map(card => card.dataset.cluster)")]


def test_clusters_are_sorted_searched_and_linked(
    folder: Path, told: dict[str, Any], visit: Visit
) -> None:
    number = last_of(told, "audio")
    cards = {c["id"]: c for c in value_of(Location.of(folder), f"clusters/audio/{number}")}
    page = visit(folder, f"clusters/audio/{number}")
    page.get_by_label("Sort by").select_option("purity")
    purities = [cards[n]["purity"] or 0 for n in shown(page)]
    assert purities == sorted(purities, reverse=True)
    page.get_by_label("Sort by").select_option("size")
    sizes = [cards[n]["size"] for n in shown(page)]
    assert sizes == sorted(sizes, reverse=True)
    last = shown(page)[-1]
    page.get_by_label("Search").fill(cards[last]["labels"][0][0])
    found = shown(page)
    assert last in found
    page.reload()
    assert shown(page) == found, "the address says what is searched"
    page.get_by_label("Search").fill("a label that none has")
    assert shown(page) == []


def test_the_card_of_labels_tells_which_clusters_they_are(
    folder: Path, told: dict[str, Any], visit: Visit
) -> None:
    """The link beside a label leads to clusters in which most clips have that label."""
    place, number = Location.of(folder), last_of(told, "audio")
    labels = value_of(place, f"labels/audio/{number}")
    clips = value_of(place, "clips")
    page = visit(folder, f"clusters/audio/{number}")
    rows = page.locator(".label-index > div")
    assert rows.count() > 0
    for text, links in rows.evaluate_all(
        "all => all.map(row => [row.firstElementChild.textContent,"
        " [...row.querySelectorAll('a')].map(a => a.getAttribute('href'))])"
    ):
        label = clips["labels"].index(text.strip())
        for link in links:
            cluster = int(link.rpartition("/")[2])
            counts = np.bincount(clips["label"][labels == cluster], minlength=label + 1)
            assert counts[label] == counts.max(), (text, cluster)


def test_a_clip_is_seen_and_heard_and_lit_in_both_maps(
    folder: Path, told: dict[str, Any], visit: Visit
) -> None:
    page = visit(folder, f"clusters/video/{last_of(told, 'video')}")
    page.locator(".card .tile").first.click()
    page.wait_for_function(f"{FILM}?.currentTime > 0", timeout=60_000)
    assert page.evaluate(f"{FILM}.videoWidth") > 0
    assert page.evaluate(f"{FILM}.webkitAudioDecodedByteCount") > 0
    page = visit(folder, "map")
    frame = page.locator(".map-frame canvas").first
    box = frame.bounding_box()
    assert box
    lit = "[...document.querySelectorAll('.map-frame')].map(f => f.dataset.lit)"
    clips = value_of(Location.of(folder), "map")["spaces"]["video"]
    # Over the map until a point is met: where points lie depends on the run.
    for step in range(400):
        x = box["x"] + box["width"] * (0.05 + 0.9 * ((step * 0.618) % 1))
        y = box["y"] + box["height"] * (0.05 + 0.9 * step / 400)
        page.mouse.move(x, y)
        found = page.evaluate(lit)
        if found[0] not in (None, "", "-1"):
            break
    else:
        pytest.fail(f"no point of {len(clips['x'])} was met")
    page.wait_for_function(f"(([a, b]) => a === b)({lit})")
