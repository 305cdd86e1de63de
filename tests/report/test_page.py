"""The report's page in a real browser, opened from a folder."""

from __future__ import annotations

import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.report.conftest import Visit, rendered
from tests.report.page_data import HOSTILE, write_page

if TYPE_CHECKING:
    from playwright.sync_api import Page

expect = pytest.importorskip("playwright.sync_api").expect

VIEWS = ["overview", "clusters", "clusters/audio/1/3", "across", "across/1/flow/video", "map"]
VIEWS += ["nearest", "nearest/0", "rejects"]


@pytest.fixture(scope="module")
def folder(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    movies = sorted(world.parent.rglob("*.mp4"))[:4]
    return write_page(tmp_path_factory.mktemp("page") / "out", movies)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without a complete round, without media."""
    return write_page(tmp_path_factory.mktemp("begun") / "out", [], rounds=0)


def order(page: Page) -> list[str]:
    rendered(page)
    return page.locator(".card").evaluate_all("all => all.map(card => card.dataset.cluster)")


@pytest.mark.parametrize("address", VIEWS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_view_renders_and_fits_a_phone(
    folder: Path, visit: Visit, address: str, scheme: str
) -> None:
    page = visit(folder, address, viewport={"width": 360, "height": 740}, color_scheme=scheme)
    assert page.locator("html").get_attribute("data-theme") == scheme
    expect(page.locator("#tabs [aria-current=page]")).to_have_count(1)
    assert len(page.locator("#view").inner_text()) > 60
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.evaluate("window.hacked") is None
    assert page.locator("main script, main b b, main img[onerror]").count() == 0


def test_hostile_strings_are_text(folder: Path, visit: Visit) -> None:
    page = visit(folder)
    expect(page.locator("h1")).to_have_text(HOSTILE[0])
    expect(page.locator(".verdict").first).to_contain_text(HOSTILE[1])  # alarms come first
    page.goto(f"{folder.as_uri()}/index.html#rejects")
    expect(rendered(page).locator("tbody tr").nth(1)).to_contain_text(HOSTILE[1])


def test_clusters_are_sorted_and_searched(folder: Path, visit: Visit) -> None:
    page = visit(folder, "clusters/video/1")
    assert order(page) == ["0", "1", "2", "3"]
    page.get_by_label("Sort by").select_option("purity")
    assert order(page) == ["3", "2", "1", "0"]
    page.get_by_label("Sort by").select_option("coherence")
    assert order(page) == ["1", "2", "0", "3"]  # the one that has none is last
    page.get_by_label("Search").fill("CAT")
    assert order(page) == ["1"]
    page.get_by_label("Search").fill("2")
    assert order(page) == ["2"]
    page.get_by_label("Search").fill("clip0.mp4")  # a file, every eighth clip
    assert order(page) == ["0"]
    page.reload()
    assert order(page) == ["0"]
    expect(page.get_by_label("Sort by")).to_have_value("coherence")


def test_labels_name_their_clusters(folder: Path, visit: Visit) -> None:
    page = visit(folder, "clusters/audio/1")
    row = page.locator(".label-index > div", has=page.get_by_text("rain", exact=True))
    expect(row).to_contain_text("2")
    confused, untold = page.locator(".confused li").all()
    expect(confused).to_contain_text(HOSTILE[1])
    expect(confused).to_contain_text("87%")
    expect(untold).to_have_text("cat")
    row.locator("a").click()
    rendered(page)
    assert page.url.endswith("#clusters/audio/1/2")
    expect(page.locator("h2")).to_contain_text("rain")
    for heading in ("Typical", "Borderline", "Random", "Labels"):
        expect(page.get_by_role("heading", name=heading)).to_be_visible()


def test_a_clip_plays_its_picture_and_sound(folder: Path, visit: Visit) -> None:
    page = visit(folder, "clusters/video/1")
    tile = page.locator(".tile[data-clip='4']")
    tile.focus()
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('#player video')?.currentTime > 0")
    film = "document.querySelector('#player video')"
    assert page.evaluate(f"{film}.videoWidth") > 0
    assert page.evaluate(f"{film}.webkitAudioDecodedByteCount") > 0
    expect(page.locator("#player .spectrogram")).to_be_visible()
    expect(page.locator("#player .chips")).to_contain_text("audio 0")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#player")).to_contain_text("3 of 4")
    page.keyboard.press("Escape")
    expect(page.locator("#player")).to_be_hidden()
    assert page.evaluate("document.activeElement.className.includes('tile')")


def test_cells_open_their_clips(folder: Path, visit: Visit) -> None:
    page = visit(folder, "across/1")
    page.locator(".matrix canvas").hover(position={"x": 4, "y": 4})
    expect(page.locator(".matrix-said")).to_contain_text("14 clips")
    expect(page.locator(".matrix-said")).to_contain_text("4.0× chance")
    page.locator(".matrix").focus()
    for key in ("ArrowDown", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    rendered(page)
    expect(page.locator(".opened h3")).to_contain_text("audio 2")
    assert page.locator(".opened .tile").count() == 14 + 1
    page.get_by_role("button", name="Flow of audio").click()
    expect(rendered(page).locator("#view")).to_contain_text("NMI 0.60")


def test_the_maps_are_linked(folder: Path, visit: Visit) -> None:
    page = visit(folder, "map")
    lit = "[...document.querySelectorAll('.map-frame')].map(f => f.dataset.lit)"
    frame = page.locator(".map-frame canvas").first
    box = frame.bounding_box()
    assert box
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(middle[0] - 20, middle[1] - 20)
    page.mouse.move(*middle)
    page.wait_for_function(f"({lit}).join() === '0,0'")
    expect(page.locator(".tip").last).to_contain_text("dog")
    page.mouse.click(*middle)
    page.wait_for_function("document.querySelector('#player video')?.currentTime > 0")
    page.get_by_label("Colour by").select_option("label")
    expect(rendered(page).locator(".legend")).to_contain_text("cat")
    expect(page.locator(".map-space").last).to_contain_text("1 without features")


def test_without_webgl_the_map_says_so(folder: Path, visit: Visit) -> None:
    page = visit(folder, "map", script="HTMLCanvasElement.prototype.getContext = () => null")
    expect(page.locator("#view")).to_contain_text("needs WebGL")


def test_neighbours_of_a_chosen_clip(folder: Path, visit: Visit) -> None:
    page = visit(folder, "nearest")
    page.get_by_label("Search").fill("dog")
    rendered(page).locator(".pick .tile").first.click()
    rendered(page)
    assert page.url.endswith("#nearest/0")
    for kind in ("picture", "sound", "across"):
        row = page.locator(f"[data-kind={kind}]")
        expect(row.locator(".tile")).to_have_count(5)
        expect(row).to_contain_text("0.89")
    expect(page.locator("[data-kind=across]")).to_contain_text(HOSTILE[0])


def test_rejects_by_reason(folder: Path, visit: Visit) -> None:
    page = visit(folder)
    page.get_by_role("link", name="truncated").click()
    expect(rendered(page).locator("tbody tr")).to_have_count(1)
    page.get_by_role("group", name="Reasons").get_by_role("button", name="All").click()
    page.get_by_label("Search").fill("passwd")
    expect(rendered(page).locator("tbody tr")).to_have_count(1)
    expect(page.get_by_role("link", name="All as CSV")).to_have_attribute("href", "rejects.csv")


def test_tabs_and_theme_by_keyboard(folder: Path, visit: Visit) -> None:
    page = visit(folder, color_scheme="light")
    page.locator("#tabs a").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(rendered(page).locator("#tabs [aria-current=page]")).to_have_text("Clusters")
    for _ in range(2):
        page.get_by_role("button", name="Colours").press("Enter")
    assert page.locator("html").get_attribute("data-theme") == "dark"


@pytest.mark.parametrize("address", [view for view in VIEWS if view != "rejects"])
def test_before_the_first_round(begun: Path, visit: Visit, address: str) -> None:
    page = visit(begun, address)
    expect(page.locator("#view .message").first).to_be_visible()


def test_without_media_names_and_times_stay(
    visit: Visit, tmp_path_factory: pytest.TempPathFactory
) -> None:
    page = visit(write_page(tmp_path_factory.mktemp("bare") / "out", []), "clusters/audio/1/2")
    tile = page.locator(".tile").first
    expect(tile).to_contain_text("clip2.mp4")
    expect(tile).to_contain_text("2.00–3.50 s")
    assert page.locator("main img, main video").count() == 0
    tile.click()
    expect(page.locator("#player")).to_contain_text("no media")


def test_a_damaged_data_file_is_named(visit: Visit, tmp_path: Path) -> None:
    folder = write_page(tmp_path / "out", [])
    (folder / "data" / "rejects.js").write_text("")
    page = visit(folder, "rejects")
    expect(page.locator("#view")).to_contain_text("data/rejects.js is damaged")


def test_a_live_report_follows_its_run(visit: Visit, tmp_path: Path) -> None:
    folder = write_page(tmp_path / "out", [], rounds=1, live=True)
    handler = partial(SimpleHTTPRequestHandler, directory=folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        page = visit(f"http://127.0.0.1:{server.server_port}", "clusters/video")
        expect(page.get_by_label("Round")).to_contain_text("0 (last)")
        later = write_page(tmp_path / "later", [], rounds=2)
        shutil.copytree(later / "data", folder / "data", dirs_exist_ok=True)
        expect(page.get_by_label("Round")).to_contain_text("1 (last)", timeout=20_000)
        expect(page.locator("#state")).to_have_text("Finished")
    finally:
        server.shutdown()
        server.server_close()
