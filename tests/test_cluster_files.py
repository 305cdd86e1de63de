"""The files that start clusters, by the validation of those who read them, and what those miss."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import boto3
import botocore.session
import botocore.validate
import jsonschema
import pytest
import yaml
from googleapiclient import discovery_cache
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.tags import TAG_RAY_USER_NODE_TYPE
from ray.scripts import scripts

from pipeline.runtime import spot

ROOT = Path(__file__).resolve().parents[1]
LAUNCHED = {"aws": "cluster.yaml", "gcp": "cluster-gcp.yaml"}
TOOLS = Path(sys.executable).parent


@pytest.fixture(params=LAUNCHED)
def cluster(request: pytest.FixtureRequest) -> dict[str, Any]:
    return yaml.safe_load((ROOT / LAUNCHED[request.param]).read_text())


def is_spot(node_type: dict[str, Any]) -> bool:
    config = node_type["node_config"]
    aws = config.get("InstanceMarketOptions", {}).get("MarketType") == "spot"
    return aws or config.get("scheduling", {}).get("provisioningModel") == "SPOT"


def workers_of(cluster: dict[str, Any]) -> dict[str, Any]:
    types = cluster["available_node_types"]
    return {name: kind for name, kind in types.items() if name != cluster["head_node_type"]}


def test_ray_accepts_it(cluster: dict[str, Any]) -> None:
    validate_config(prepare_config(cluster))


def test_the_head_does_no_work_and_stays(cluster: dict[str, Any]) -> None:
    head = cluster["available_node_types"][cluster["head_node_type"]]
    assert head["resources"]["CPU"] == 0
    assert not is_spot(head)


def test_the_rest_scales_from_nothing_and_fits_the_limit(cluster: dict[str, Any]) -> None:
    """Ray itself does not notice a minimum above a maximum."""
    workers = workers_of(cluster)
    types = cluster["available_node_types"].values()
    assert all(kind["labels"].keys() == {"role"} for kind in types)
    assert all(0 == kind["min_workers"] < kind["max_workers"] for kind in workers.values())
    assert sum(kind["max_workers"] for kind in workers.values()) <= cluster["max_workers"]
    assert {name for name, kind in workers.items() if is_spot(kind)} == {"decode", "gpu-spot"}
    assert workers["gpu-spot"]["priority"] > workers["gpu"]["priority"]


def test_both_clouds_have_the_same_shape() -> None:
    shapes = []
    for file in LAUNCHED.values():
        config = yaml.safe_load((ROOT / file).read_text())
        for kind in config["available_node_types"].values():
            kind.pop("node_config")
        same = ("max_workers", "idle_timeout_minutes", "docker", "file_mounts")
        same += ("available_node_types", "head_start_ray_commands", "worker_start_ray_commands")
        shapes.append({name: config[name] for name in same})
    assert shapes[0] == shapes[1]


def test_it_is_locked(cluster: dict[str, Any]) -> None:
    """With RAY_AUTH_MODE=token and no token, `ray start` refuses: every node needs the file."""
    assert cluster["file_mounts"] == {"/home/ray/.ray/auth_token": "~/.ray/auth_token"}
    for commands in (cluster["head_start_ray_commands"], cluster["worker_start_ray_commands"]):
        assert all("RAY_AUTH_MODE=token" in command for command in commands[1:])
    assert "--dashboard-host=127.0.0.1" in cluster["head_start_ray_commands"][-1]


def test_the_start_commands_are_ones_that_ray_and_the_watcher_know(
    cluster: dict[str, Any],
) -> None:
    for command in [*cluster["head_start_ray_commands"], *cluster["worker_start_ray_commands"]]:
        assert subprocess.run(["bash", "-n", "-c", command]).returncode == 0, command
        words = [word for word in shlex.split(command) if "=" not in word or word[0] == "-"]
        if "ray" in words:
            name, *options = words[words.index("ray") + 1 :]
            known = {option for p in scripts.cli.commands[name].params for option in p.opts}
            assert {option.partition("=")[0] for option in options} <= known
        else:
            assert words[words.index("-m") + 1] == spot.__name__
    assert any(spot.__name__ in command for command in cluster["worker_start_ray_commands"])


def test_every_worker_may_read_the_bucket(cluster: dict[str, Any]) -> None:
    """Ray gives an account of its own to the head alone."""
    for kind in workers_of(cluster).values():
        config = kind["node_config"]
        if cluster["provider"]["type"] == "aws":
            assert config["IamInstanceProfile"] == {"Name": "xdc-ray-worker"}
        else:
            (account,) = config["serviceAccounts"]
            assert cluster["provider"]["project_id"] in account["email"]
            assert account["scopes"] == ["https://www.googleapis.com/auth/cloud-platform"]


def test_ec2_takes_the_node_configs() -> None:
    """Ray hands node_config on as it is; botocore knows what EC2 takes."""
    ec2 = botocore.session.get_session().get_service_model("ec2")
    shape = ec2.operation_model("RunInstances").input_shape
    cluster = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    for kind in cluster["available_node_types"].values():
        call = {**kind["node_config"], "MinCount": 1, "MaxCount": 1}
        report = botocore.validate.ParamValidator().validate(call, shape)
        assert not report.has_errors(), report.generate_report()


def test_ray_launches_every_node_type_on_aws(
    s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands of the README against a server that speaks AWS: roles first, then Ray's own
    preparation (key, network, profiles) and one node of each type."""
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    for name, value in {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "HOME": str(tmp_path),  # Ray writes the key there
    }.items():
        monkeypatch.setenv(name, value)
    boto3.client("cloudformation").create_stack(
        StackName="xdc-ray",
        TemplateBody=(ROOT / "cluster-aws-roles.yaml").read_text(),
        Capabilities=["CAPABILITY_NAMED_IAM"],
    )
    cluster = bootstrap_aws(prepare_config(yaml.safe_load((ROOT / "cluster.yaml").read_text())))
    provider = AWSNodeProvider(cluster["provider"], cluster["cluster_name"])
    for name, kind in cluster["available_node_types"].items():
        provider.create_node(kind["node_config"], {TAG_RAY_USER_NODE_TYPE: name}, 1)
    launched = {}
    for reservation in boto3.client("ec2").describe_instances()["Reservations"]:
        for node in reservation["Instances"]:
            tags = {tag["Key"]: tag["Value"] for tag in node["Tags"]}
            profile = node["IamInstanceProfile"]["Arn"].rpartition("/")[2]
            lifecycle = node.get("InstanceLifecycle", "on demand")
            launched[tags[TAG_RAY_USER_NODE_TYPE]] = (profile, lifecycle)
    assert launched == {
        "head": ("xdc-ray-head", "on demand"),
        "memory": ("xdc-ray-worker", "on demand"),
        "decode": ("xdc-ray-worker", "spot"),
        "gpu-spot": ("xdc-ray-worker", "spot"),
        "gpu": ("xdc-ray-worker", "on demand"),
    }


def test_compute_engine_takes_the_node_configs() -> None:
    """The same of Google's description of its interface, which names other files' parts in $ref."""
    described = json.loads(discovery_cache.get_static_doc("compute", "v1"))["schemas"]
    schemas = json.loads(json.dumps(described).replace('"$ref": "', '"$ref": "#/$defs/'))
    for schema in schemas.values():
        schema["additionalProperties"] = False
    instance = jsonschema.Draft7Validator({"$defs": schemas, "$ref": "#/$defs/Instance"})
    cluster = yaml.safe_load((ROOT / "cluster-gcp.yaml").read_text())
    for kind in cluster["available_node_types"].values():
        config = kind["node_config"]
        config["disks"][0]["initializeParams"]["diskSizeGb"] = "200"  # a string of 64 bits there
        instance.validate(config)
    config["scheduling"] = {"provisioningmodel": "SPOT"}
    assert not instance.is_valid(config)


def test_cloudformation_accepts_the_roles_and_they_are_those_of_the_cluster() -> None:
    place = ROOT / "cluster-aws-roles.yaml"
    ended = subprocess.run([TOOLS / "cfn-lint", place], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    made = set(re.findall(r"InstanceProfileName: ([\w-]+)", place.read_text()))
    types = yaml.safe_load((ROOT / "cluster.yaml").read_text())["available_node_types"]
    assert {kind["node_config"]["IamInstanceProfile"]["Name"] for kind in types.values()} == made


def test_a_wrong_file_is_refused(cluster: dict[str, Any]) -> None:
    """What the tests above rely on: Ray reads what it is given."""
    cluster["available_node_types"]["decode"]["labels"] = "role: decode"
    with pytest.raises(Exception, match=r"is not of type|role"):
        validate_config(prepare_config(json.loads(json.dumps(cluster))))
