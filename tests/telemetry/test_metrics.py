"""The metrics, from the code that sets them to a Prometheus that scrapes and judges them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

from pipeline.rounds import pretrain
from pipeline.storage import Location
from pipeline.telemetry import metrics
from tests.conftest import free_port, tiny, wait_for_port

OBSERVE = Path(__file__).resolve().parents[2] / "observe"
DASHBOARD = json.loads((OBSERVE / "dashboard.json").read_text())
RULES = yaml.safe_load((OBSERVE / "rules.yml").read_text())["groups"][0]["rules"]
EXPORTED = {f"ray_{name}_total": labels for name, (_, labels) in metrics.COUNTERS.items()}
EXPORTED |= {f"ray_{name}": labels for name, (_, labels) in metrics.GAUGES.items()}

needs_prometheus = pytest.mark.skipif(
    shutil.which("promtool") is None or shutil.which("prometheus") is None,
    reason="needs prometheus and promtool (apt-get install prometheus)",
)


def panels() -> list[tuple[str, str]]:
    """Expression and legend of everything on the dashboard."""
    targets = [target for panel in DASHBOARD["panels"] for target in panel["targets"]]
    return [(target["expr"], target["legendFormat"]) for target in targets]


def names_in(expression: str) -> set[str]:
    return set(re.findall(r"\bray_\w+", expression))


def test_dashboard_and_rules_name_what_the_code_exports() -> None:
    used = [expression for expression, _ in panels()] + [rule["expr"] for rule in RULES]
    assert {name for expression in used for name in names_in(expression)} <= set(EXPORTED)
    assert {name for expression, _ in panels() for name in names_in(expression)} == set(EXPORTED)


def test_legends_show_labels_that_are_there() -> None:
    for expression, legend in panels():
        (name,) = names_in(expression)
        labels = {*EXPORTED[name], "instance"}
        assert set(re.findall(r"{{(\w+)}}", legend)) <= labels, legend


def test_the_dashboard_is_laid_out() -> None:
    places = [tuple(panel["gridPos"][key] for key in "xy") for panel in DASHBOARD["panels"]]
    assert len(set(places)) == len(places)
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(places)
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    used = re.findall(r"\$\{(\w+)\}", json.dumps(DASHBOARD["panels"]))
    assert set(used) == variables


@needs_prometheus
@pytest.mark.parametrize(
    "check", [("check", "config", "prometheus.yml"), ("test", "rules", "rules_test.yml")]
)
def test_prometheus_accepts_the_rules_and_they_fire_when_they_should(
    check: tuple[str, ...],
) -> None:
    ended = subprocess.run(["promtool", *check], cwd=OBSERVE, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_every_alert_is_shown_at_work() -> None:
    tests = yaml.safe_load((OBSERVE / "rules_test.yml").read_text())["tests"]
    shown = {
        case["alertname"]
        for test in tests
        for case in test["alert_rule_test"]
        if case.get("exp_alerts")
    }
    assert shown == {rule["alert"] for rule in RULES if "alert" in rule}


@pytest.fixture
def prometheus(local_ray: None, tmp_path: Path) -> Iterator[Callable[[str], list[Any]]]:
    """A Prometheus that scrapes the tests' Ray every second; yields a way to ask it."""
    (node,) = [node for node in ray.nodes() if node["Alive"]]
    target = f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}"
    settings = yaml.safe_load((OBSERVE / "prometheus.yml").read_text())
    settings["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    settings["rule_files"] = [str(OBSERVE / "rules.yml")]
    settings["scrape_configs"][0] = {"job_name": "ray", "static_configs": [{"targets": [target]}]}
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(settings))
    port = free_port()
    command = ["prometheus", f"--config.file={tmp_path / 'prometheus.yml'}"]
    command += [f"--storage.tsdb.path={tmp_path / 'data'}"]
    command += [f"--web.listen-address=127.0.0.1:{port}"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def ask(expression: str) -> list[Any]:
        query = urllib.parse.urlencode({"query": expression})
        url = f"http://127.0.0.1:{port}/api/v1/query?{query}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            said = json.load(answer)
        assert said["status"] == "success"
        return said["data"]["result"]

    try:
        wait_for_port(port)
        yield ask
    finally:
        process.terminate()
        process.wait(timeout=30)


@needs_prometheus
@pytest.mark.cluster
def test_prometheus_sees_a_run(
    prometheus: Callable[[str], list[Any]], indexed: Location, new_run: Callable[[], Location]
) -> None:
    place = new_run()
    pretrain(tiny(f"run={place}"))
    metrics.rejects(["corrupt", "corrupt", "timeout"])
    wanted = set(EXPORTED) - {"ray_xdc_gpu_memory_bytes"}  # there may be no GPU
    deadline = time.monotonic() + 60
    while missing := {name for name in wanted if not prometheus(f"last_over_time({name}[1h])")}:
        assert time.monotonic() < deadline, missing
        time.sleep(1)
    stages = {}
    for series in prometheus("max_over_time(ray_xdc_done_total[1h])"):
        stage, value = series["metric"]["stage"], float(series["value"][1])
        stages[stage] = stages.get(stage, 0) + value
    assert stages["embed"] == 2 * 48, "before the first round and after it"
    assert stages["decode"] >= stages["embed"] + stages["learn"]
    assert stages["learn"] > 0
    rejected = prometheus("last_over_time(ray_xdc_rejects_total[1h])")
    assert {series["metric"]["reason"] for series in rejected} >= {"corrupt", "timeout"}
    (effective,) = prometheus('last_over_time(ray_xdc_effective_clusters{clustering="audio"}[1h])')
    assert 0 < float(effective["value"][1]) <= 1
    for expression, _ in panels():
        prometheus(expression.replace("$__rate_interval", "1m"))
    for rule in RULES:
        prometheus(rule["expr"])
