"""The report's map beside Plotly's scattergl: frames a second at 100,000 points in one Chromium.

    npm pack plotly.js-dist-min && tar xzf plotly.js-dist-min-*.tgz
    python benchmarks/map.py package/plotly.min.js [--points 100000] [--turns 3]

Both draw the same points, ten colours, marks of the same size, on 580×580 pixels. A frame moves the
view a little, waits until the library says that it has drawn, reads a pixel back (so that the
drawing is over), and waits for the browser's next frame. Without a graphics card Chromium draws
WebGL on the processor. Turns alternate, each in a new page; the best counts. Writes
``benchmarks/map.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, sync_playwright

from pipeline.telemetry.machine import about

ROOT = Path(__file__).resolve().parents[1]
VENDOR = ROOT / "pipeline" / "report" / "page" / "assets" / "vendor"
RESULT = ROOT / "benchmarks" / "map.json"
FLAGS = ["--no-sandbox", "--enable-unsafe-swiftshader"]
SCRIPTS = ["pub-sub-es/pub-sub.umd.min.js", "regl/regl.min.js"]
SCRIPTS += ["regl-scatterplot/regl-scatterplot.min.js"]

POINTS = """
function points(n) {
  let state = 1;
  const draw = () => ((state = (state * 48271) % 2147483647) / 2147483647);
  const x = new Float32Array(n), y = new Float32Array(n), z = new Uint8Array(n);
  for (let i = 0; i < n; i++) {
    const k = i % 64, r = 0.12 * Math.sqrt(-2 * Math.log(draw())), a = 6.2831853 * draw();
    x[i] = 0.8 * Math.cos(2.4 * k) * Math.sqrt(k / 64) + r * Math.cos(a);
    y[i] = 0.8 * Math.sin(2.4 * k) * Math.sqrt(k / 64) + r * Math.sin(a);
    z[i] = k % 10;
  }
  return { x, y, z };
}
const COLORS = ["#0072b2", "#d55e00", "#009e73", "#aa3377", "#c29a10",
                "#5a4fcf", "#35a5c4", "#8c510a", "#7b9a2d", "#e07aa8"];
const sync = (canvas) => {
  const gl = canvas.getContext("webgl");
  gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(4));
};
async function timed(move, seconds) {
  await move(0);
  const begun = performance.now();
  let frames = 0;
  while (performance.now() - begun < 1000 * seconds) {
    await move(++frames);
    await new Promise(requestAnimationFrame);
  }
  return (1000 * frames) / (performance.now() - begun);
}
"""

# As scatter.js sets it up at this number of points.
OURS = """
async ([n, seconds]) => {
  const data = points(n), canvas = document.createElement("canvas");
  document.body.append(canvas);
  const begun = performance.now();
  const plot = createScatterplot.default({ canvas, width: 580, height: 580, pointSize: 2.5,
    colorBy: "valueA", pointColor: COLORS, opacity: 0.6, backgroundColor: "#ffffff" });
  await plot.draw(data, { zDataType: "categorical" });
  const drawing = plot.get("renderer").canvas; // what is drawn there is copied to the page
  sync(drawing);
  const first = performance.now() - begun;
  const drawn = () => new Promise((done) => plot.subscribe("draw", done, 1));
  const move = async (i) => {
    const done = drawn();
    const [dx, dy] = [0.2 * Math.sin(i / 9), 0.2 * Math.cos(i / 9)];
    plot.view([1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, dx, dy, 0, 1]);
    await done;
    sync(drawing);
  };
  return { first_ms: first, fps: await timed(move, seconds) };
}
"""

THEIRS = """
async ([n, seconds]) => {
  const data = points(n), box = document.createElement("div");
  document.body.append(box);
  const begun = performance.now();
  const colorscale = COLORS.map((color, i) => [i / 9, color]);
  const axis = { visible: false, range: [-1, 1] };
  const color = Array.from(data.z);
  const marker = { size: 2.5, color, colorscale, cmin: 0, cmax: 9, opacity: 0.6 };
  const margin = { l: 0, r: 0, t: 0, b: 0 };
  await Plotly.newPlot(box,
    [{ type: "scattergl", mode: "markers", x: data.x, y: data.y, hoverinfo: "none", marker }],
    { width: 580, height: 580, margin, xaxis: axis, yaxis: { ...axis } },
    { displayModeBar: false });
  const canvases = [...box.querySelectorAll("canvas")].filter((c) => c.getContext("webgl"));
  canvases.forEach(sync);
  const first = performance.now() - begun;
  const move = async (i) => {
    const [dx, dy] = [0.2 * Math.sin(i / 9), 0.2 * Math.cos(i / 9)];
    const ranges = { "xaxis.range": [dx - 1, dx + 1], "yaxis.range": [dy - 1, dy + 1] };
    await Plotly.relayout(box, ranges);
    canvases.forEach(sync);
  };
  return { first_ms: first, fps: await timed(move, seconds) };
}
"""


def measure(
    browser: Browser, scripts: list[Path], body: str, points: int, seconds: float
) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        tags = "".join(f'<script src="{file.resolve().as_uri()}"></script>' for file in scripts)
        (Path(folder) / "index.html").write_text(
            f"<!doctype html><body>{tags}<script>{POINTS}</script>"
        )
        page = browser.new_page(viewport={"width": 800, "height": 700})
        page.goto((Path(folder) / "index.html").as_uri())
        found: dict[str, float] = page.evaluate(body, [points, seconds])
        page.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("plotly", type=Path)
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0)
    options = parser.parse_args()
    found = re.search(r"plotly\.js v(\S+)", options.plotly.read_text()[:2000])
    cases = {
        "ours": ([VENDOR / name for name in SCRIPTS], OURS),
        "plotly": ([options.plotly], THEIRS),
    }
    load = [os.getloadavg()[0]]
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in cases}
    chromium = (
        shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    )
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=FLAGS)
        for turn in range(options.turns):
            for name, (scripts, body) in cases.items():
                turns[name].append(measure(browser, scripts, body, options.points, options.seconds))
                print(turn, name, turns[name][-1])
        load.append(os.getloadavg()[0])
        version = browser.version
        browser.close()
    best: dict[str, Any] = {
        name: {
            "fps": round(max(turn["fps"] for turn in rows), 1),
            "fps_of_turns": [round(turn["fps"], 1) for turn in rows],
            "first_ms": round(min(turn["first_ms"] for turn in rows)),
        }
        for name, rows in turns.items()
    }
    report = {
        "about": about("playwright"),
        "chromium": version,
        "plotly.js": found[1] if found else "",
        "regl-scatterplot": "1.16.0",
        "renderer": "SwiftShader (software)",
        "load_before_and_after": [round(value, 1) for value in load],
        "points": options.points,
        "pixels": "580×580",
        **best,
        "ratio": round(best["ours"]["fps"] / best["plotly"]["fps"], 2),
    }
    RESULT.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    print(f"ours is {report['ratio']} times as fast")


if __name__ == "__main__":
    main()
