"""kuberay.yaml by the schemas of KubeRay and Kubernetes, and by Ray's own reading of it."""

from __future__ import annotations

import copy
import shlex
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import (
    _derive_autoscaling_config_from_ray_cr,
)
from ray.autoscaler._private.util import validate_config
from ray.scripts import scripts

from pipeline import settings
from pipeline.runtime import spot

ROOT = Path(__file__).resolve().parents[1]
SCHEMA = yaml.safe_load((ROOT / "tests" / "kuberay_schema.yaml").read_text())


@pytest.fixture
def job() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "kuberay.yaml").read_text())


def groups(job: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = job["spec"]["rayClusterSpec"]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def node_types(job: dict[str, Any]) -> dict[str, Any]:
    """What Ray's autoscaler makes of the job's cluster."""
    cluster = {"metadata": {"name": "x", "namespace": "y"}, "spec": job["spec"]["rayClusterSpec"]}
    derived = _derive_autoscaling_config_from_ray_cr(copy.deepcopy(cluster))
    validate_config(derived)
    return derived["available_node_types"]


def check(job: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(SCHEMA).validate(job)
    for group in groups(job):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}}
        pod |= {"spec": group["template"]["spec"]}
        kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)


def test_kuberay_and_kubernetes_accept_it(job: dict[str, Any]) -> None:
    check(job)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec.backofLimit", 3),
        ("spec.rayClusterSpec.authOptions.mode", "tokens"),
        ("spec.rayClusterSpec.headGroupSpec.rayStartParams.num-cpus", 0),
        ("spec.rayClusterSpec.headGroupSpec.template.spec.container", []),
        ("spec.rayClusterSpec.headGroupSpec.template.spec.containers", "ray"),
    ],
)
def test_mistakes_are_seen(job: dict[str, Any], path: str, value: Any) -> None:
    *folders, last = path.split(".")
    place = job
    for folder in folders:
        place = place[folder]
    place[last] = value
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        check(job)


def test_ray_reads_the_shape_of_the_cloud_files(job: dict[str, Any]) -> None:
    read = node_types(job)
    assert read.pop("headgroup")["resources"]["CPU"] == 0
    launched = yaml.safe_load((ROOT / "cluster.yaml").read_text())["available_node_types"]
    assert set(read) == {name for name in launched if name != "head"}
    for name, kind in read.items():
        there = launched[name]
        for key in ("min_workers", "max_workers", "labels"):
            assert kind[key] == there[key], name
        assert kind.get("priority") == there.get("priority")
        assert kind["resources"].get("GPU") == there["resources"].get("GPU")
        assert 0.8 < kind["resources"]["CPU"] / there["resources"]["CPU"] <= 1
        assert 0 == kind["min_workers"] < kind["max_workers"]


def test_a_lost_head_is_resumed_and_all_is_locked(job: dict[str, Any]) -> None:
    spec = job["spec"]
    assert spec["backoffLimit"] > 0
    assert spec["shutdownAfterJobFinishes"]
    cluster = spec["rayClusterSpec"]
    assert cluster["enableInTreeAutoscaling"]
    assert cluster["authOptions"]["mode"] == "token"
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert version("ray") == cluster["rayVersion"]
    (head,) = cluster["headGroupSpec"]["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in head["ports"]}
    assert ports == {"gcs-server": 6379, "dashboard": 8265, "client": 10001, "metrics": 8080}


def test_its_commands_exist(job: dict[str, Any]) -> None:
    python, script, *given = shlex.split(job["spec"]["entrypoint"])
    assert python == "python"
    assert (ROOT / Path(script).relative_to("/home/ray/xdc-ray")).is_file()
    assert settings.load(given).resources.device == "cuda"
    start = {option for p in scripts.cli.commands["start"].params for option in p.opts}
    for group in groups(job):
        assert {f"--{name}" for name in group["rayStartParams"]} <= start
    for group in groups(job)[1:]:
        spec = group["template"]["spec"]
        (container,) = spec["containers"]
        command = container["lifecycle"]["preStop"]["exec"]["command"]
        assert command[:3] == ["python", "-m", spot.__name__]
        assert command[3] == "--leaving-in"
        assert int(command[4]) < spec["terminationGracePeriodSeconds"]
