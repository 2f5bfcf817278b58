"""The cluster files, as far as goes without an account: by Ray's schema and bootstrap, and the clouds'."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from machines import CHECKOUT
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.tags import TAG_RAY_LAUNCH_CONFIG, TAG_RAY_NODE_KIND

CLUSTERS = CHECKOUT / "clusters"
ALL = [CHECKOUT / "cluster.yaml", CLUSTERS / "aws.yaml", CLUSTERS / "gcp.yaml"]


def _read(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _prepared(path: Path) -> dict[str, Any]:
    config = prepare_config(_read(path))
    validate_config(config)
    return config


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_ray_takes_the_file_and_the_code_reaches_the_nodes(path: Path) -> None:
    config = _prepared(path)
    for there, here in config["file_mounts"].items():
        assert (CHECKOUT / here).exists(), here
        assert there == f"~/.raylab/code/{here}"
    # All that an installation needs, and that the package consists of.
    assert {"pyproject.toml", "constraints.txt", "README.md", "LICENSE", "raylab", "analysis", "search_spaces"} <= set(
        config["file_mounts"].values()
    )
    assert config["cluster_synced_files"] == ["~/.ray/auth_token"]
    starts = [line for name in ("head", "worker") for line in config[f"{name}_start_ray_commands"]]
    assert sum("ray start" in line for line in starts) == 2
    assert not any("0.0.0.0" in line for line in starts)


@pytest.mark.parametrize("path", [CLUSTERS / "aws.yaml", CLUSTERS / "gcp.yaml"], ids=lambda path: path.stem)
def test_a_cloud_starts_with_no_worker_and_grows_to_forty(path: Path) -> None:
    config = _prepared(path)
    workers = config["available_node_types"]["gpu"]
    assert (workers["min_workers"], workers["max_workers"], config["max_workers"]) == (0, 40, 40)
    assert workers["resources"]["GPU"] == 1
    assert config["idle_timeout_minutes"] > 0
    for image in (config["docker"]["image"], config["docker"]["head_image"]):
        assert f":{version('ray')}-py311" in image


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Amazon's API as moto gives it, with nothing of an account but the instance profile that the file names."""
    moto = pytest.importorskip("moto")
    import boto3

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # the key pair is kept in ~/.ssh
    (tmp_path / ".ssh").mkdir()
    with moto.mock_aws():
        boto3.client("iam").create_instance_profile(InstanceProfileName="raylab")
        yield


@pytest.mark.slow
def test_amazon_takes_what_ray_makes_of_the_file(aws: None) -> None:
    import boto3
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    logging.getLogger("botocore").setLevel(logging.CRITICAL)
    config = _prepared(CLUSTERS / "aws.yaml")
    filled = AWSNodeProvider.fillout_available_node_types_resources(config)
    assert filled["available_node_types"]["gpu"]["resources"]["GPU"] == 1
    ready = AWSNodeProvider.bootstrap_config(filled)
    ec2 = boto3.client("ec2", region_name=ready["provider"]["region"])
    (group,) = ec2.describe_security_groups(Filters=[{"Name": "group-name", "Values": ["raylab"]}])["SecurityGroups"]
    from_outside = [rule for rule in group["IpPermissions"] if rule["IpRanges"]]
    assert [(rule["FromPort"], rule["ToPort"]) for rule in from_outside] == [(22, 22)]
    for kind in ready["available_node_types"].values():
        node = kind["node_config"]
        assert node["IamInstanceProfile"] == {"Name": "raylab"}
        assert node["SecurityGroupIds"] == [group["GroupId"]]
        assert node["SubnetIds"]
        assert node["KeyName"]

    provider = AWSNodeProvider(ready["provider"], ready["cluster_name"])
    for name, lifecycle in (("head", None), ("gpu", "spot")):
        node = {**ready["available_node_types"][name]["node_config"], "ImageId": _image(ec2)}
        provider.create_node(node, {TAG_RAY_NODE_KIND: name, TAG_RAY_LAUNCH_CONFIG: "any"}, 1)
        started = [found for reserved in ec2.describe_instances()["Reservations"] for found in reserved["Instances"]]
        (instance,) = (found for found in started if found["InstanceType"] == node["InstanceType"])
        assert instance.get("InstanceLifecycle") == lifecycle
        assert instance["IamInstanceProfile"]["Arn"].endswith("/raylab")


def _image(ec2: Any) -> str:
    """Any image of moto's: it does not resolve the parameter that names Amazon's newest."""
    return str(ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"])


def test_google_knows_every_field_of_the_nodes() -> None:
    discovery = pytest.importorskip("googleapiclient.discovery_cache.base").__file__
    path = Path(discovery).parent / "documents" / "compute.v1.json"
    schemas = json.loads(path.read_text(encoding="utf-8"))["schemas"]
    types = _read(CLUSTERS / "gcp.yaml")["available_node_types"]
    for kind in types.values():
        _check(kind["node_config"], {"$ref": "Instance"}, schemas, "node_config")
    assert types["gpu"]["node_config"]["scheduling"]["provisioningModel"] == "SPOT"
    with pytest.raises(AssertionError, match="machinetype"):
        _check({"machinetype": "x"}, {"$ref": "Instance"}, schemas, "node_config")


def _check(value: Any, schema: dict[str, Any], schemas: dict[str, Any], place: str) -> None:
    """Whether a request's body is one of Google's, by the description that its client library brings along."""
    schema = schemas[schema["$ref"]] if "$ref" in schema else schema
    if isinstance(value, dict):
        for name, inside in value.items():
            assert name in schema["properties"], f"{place}.{name}: there is no such field"
            _check(inside, schema["properties"][name], schemas, f"{place}.{name}")
    elif isinstance(value, list):
        assert schema["type"] == "array", f"{place}: no list"
        for inside in value:
            _check(inside, schema["items"], schemas, place)
    else:
        types = {"string": str | int, "boolean": bool, "integer": int, "number": int | float}
        assert isinstance(value, types[schema["type"]]), f"{place}: found {value!r}, a {schema['type']} is needed"
        assert value in schema.get("enum", [value]), f"{place}: found {value!r}"


def _manifests() -> dict[str, dict[str, Any]]:
    documents = yaml.safe_load_all((CLUSTERS / "kuberay.yaml").read_text(encoding="utf-8"))
    return {document["kind"]: document for document in documents}


def test_kuberay_takes_the_job() -> None:
    import jsonschema

    schema = _read(Path(__file__).with_name("rayjob.schema.yaml"))
    job = _manifests()["RayJob"]
    jsonschema.validate(job, schema)
    for change in ({"entryPoint": "x"}, {"backoffLimit": "3"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**job, "spec": {**job["spec"], **change}}, schema)


def test_ray_makes_an_autoscaler_of_the_job() -> None:
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    job = _manifests()["RayJob"]
    spec = job["spec"]["rayClusterSpec"]
    config = _derive_autoscaling_config_from_ray_cr(
        {"metadata": {"name": "raylab", "namespace": "default"}, "spec": spec}
    )
    validate_config(config)
    types = config["available_node_types"]
    assert types["gpu"]["max_workers"] == 40
    assert {name: types["gpu"]["resources"][name] for name in ("CPU", "GPU")} == {"CPU": 4, "GPU": 1}
    assert types[config["head_node_type"]]["resources"]["CPU"] == 0
    # What the sweep is told that the autoscaler may start, and what one job is told to take, fit what it starts.
    head = spec["headGroupSpec"]["template"]["spec"]["containers"][0]
    told = next(entry["value"] for entry in head["env"] if entry["name"] == "RAYLAB_NODE_TYPES")
    assert json.loads(told) == [{"nodes": 40, "CPU": 4, "GPU": 1}]
    assert "scaling.cpus_per_worker=4" in job["spec"]["entrypoint"]
    assert spec["rayVersion"] == version("ray")


def test_the_mlflow_of_kubernetes_is_the_one_that_the_job_logs_to() -> None:
    manifests = _manifests()
    service, deployment = manifests["Service"], manifests["Deployment"]
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    head = manifests["RayJob"]["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    environment = {entry["name"]: entry for entry in head["env"]}
    assert service["spec"]["selector"] == deployment["spec"]["template"]["metadata"]["labels"]
    port = service["spec"]["ports"][0]["port"]
    assert environment["MLFLOW_TRACKING_URI"]["value"] == f"http://{service['metadata']['name']}:{port}"
    secrets = {entry["name"]: entry.get("valueFrom") for entry in container["env"]}
    assert environment["MLFLOW_TRACKING_PASSWORD"]["valueFrom"] == secrets["MLFLOW_AUTH_ADMIN_PASSWORD"]
    assert "--app-name basic-auth" in container["args"][0]
    claim = deployment["spec"]["template"]["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"]
    assert claim == manifests["PersistentVolumeClaim"]["metadata"]["name"]
