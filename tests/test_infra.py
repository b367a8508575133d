"""The files of infra/ are what KubeRay's and Compose's own definitions allow, and their jobs are jobs."""

import json
import os
import shlex
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from musicgen.job import Job
from musicgen.version import package_version

ROOT = Path(__file__).parents[1]
KUBERNETES = ROOT / "infra" / "kubernetes"
OVERLAYS = sorted(folder.name for folder in (KUBERNETES / "overlays").iterdir())
# KubeRay's released CustomResourceDefinitions are too large to be vendored.
DEFINITIONS = Path(os.environ.get("KUBERAY_DEFINITIONS", ROOT.parent / "shared" / "data" / "kuberay"))


@cache
def build_overlay(name: str) -> dict[str, dict[str, Any]]:
    """The objects of an overlay, by kind."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    command = ["kubectl", "kustomize", str(KUBERNETES / "overlays" / name)]
    text = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


@cache
def make_job_validator() -> jsonschema.Draft202012Validator:
    """Checks a RayJob by its schema; a field that it does not name is an error, as for `kubectl apply --validate`."""
    path = DEFINITIONS / "ray.io_rayjobs.yaml"
    if not path.exists():
        pytest.skip("KubeRay's definitions are not there (KUBERAY_DEFINITIONS names their folder)")
    versions = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)["spec"]["versions"]
    (schema,) = [version["schema"]["openAPIV3Schema"] for version in versions if version["name"] == "v1"]
    schema["properties"]["metadata"]["x-kubernetes-preserve-unknown-fields"] = True
    _forbid_unknown_fields(schema)
    return jsonschema.Draft202012Validator(schema)


def _forbid_unknown_fields(schema: dict[str, Any]) -> None:
    properties = schema.get("properties", {})
    if properties and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema.setdefault("additionalProperties", False)
    for below in (*properties.values(), schema.get("items"), schema.get("additionalProperties")):
        if isinstance(below, dict):
            _forbid_unknown_fields(below)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_is_what_kuberay_allows(overlay: str) -> None:
    make_job_validator().validate(build_overlay(overlay)["RayJob"])


def test_a_field_that_kuberay_does_not_know_is_refused() -> None:
    document = build_overlay("gpu")["RayJob"]
    wrong = {**document, "spec": {**document["spec"], "shutdownAfterJobFinish": True}}
    with pytest.raises(jsonschema.ValidationError, match="shutdownAfterJobFinish"):
        make_job_validator().validate(wrong)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_job_of_an_overlay_is_one(overlay: str, tmp_path: Path) -> None:
    objects = build_overlay(overlay)
    program, command, path, *flags = shlex.split(objects["RayJob"]["spec"]["entrypoint"])
    assert (program, command, path) == ("musicgen", "run", "/etc/musicgen/job.yaml")
    (tmp_path / "job.yaml").write_text(objects["ConfigMap"]["data"]["job.yaml"])
    assert set(flags[::2]) == {"--set"}
    job = Job.load(tmp_path / "job.yaml", flags[1::2])
    cluster = objects["RayJob"]["spec"]["rayClusterSpec"]
    groups = cluster["workerGroupSpecs"]
    assert job.cluster.resolve_actors(0) == (1, max(group["maxReplicas"] for group in groups))
    for group in groups:
        (container,) = group["template"]["spec"]["containers"]
        gpus = float(container["resources"]["limits"].get("nvidia.com/gpu", 0))
        assert gpus == job.cluster.gpus_per_actor
        assert container["image"].startswith(f"musicgen-batch:{package_version().partition('.dev')[0]}-")
    labels = [group.get("labels", {}) for group in groups]
    assert job.cluster.preferred_labels.items() <= labels[0].items()


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_need_a_token_and_no_root(overlay: str) -> None:
    objects = build_overlay(overlay)
    cluster = objects["RayJob"]["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    selected = objects["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        template = group["template"]
        assert selected.items() <= template["metadata"]["labels"].items()
        assert template["spec"]["securityContext"]["runAsNonRoot"]
        for container in template["spec"]["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"]


FAKE_KUBECTL = """#!/bin/sh
echo "$*" >> {log}
case "$*" in *jsonpath*) printf '%s' "$STATE" ;; esac
"""


@pytest.mark.parametrize(("state", "begun"), [("Complete", True), ("Failed", True), ("Running", False), ("", False)])
def test_a_night_begins_when_the_last_one_is_over(state: str, begun: bool, tmp_path: Path) -> None:
    pod = build_overlay("../nightly")["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    (container,) = pod["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    log = tmp_path / "calls"
    (tmp_path / "kubectl").write_text(FAKE_KUBECTL.format(log=log))
    (tmp_path / "kubectl").chmod(0o755)
    script = container["args"][0].replace("/tmp/", f"{tmp_path}/")
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "STATE": state}
    subprocess.run([*container["command"], script], env=env, check=True, timeout=60, capture_output=True)
    assert ("replace" in log.read_text()) is begun


def test_the_image_has_what_kuberays_probes_call() -> None:
    assert " wget" in (ROOT / "infra" / "Dockerfile").read_text()


def test_rays_version_is_the_installed_one() -> None:
    (pinned,) = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("ray==")]
    assert build_overlay("cpu")["RayJob"]["spec"]["rayClusterSpec"]["rayVersion"] == pinned.removeprefix("ray==")


COMPOSE = ROOT / "infra" / "compose.yaml"
# The images bring these programs, and their flags are tried by tests/conftest.py and tests/flows/conftest.py.
PROGRAMS = {"mini", "python", "prefect", "ray", "sh"}


def test_the_compose_file_is_one_and_listens_on_this_machine_alone() -> None:
    document = yaml.safe_load(COMPOSE.read_text())
    schema = json.loads((ROOT / "tests/fixtures/compose-spec/compose-spec.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(document)
    wrong = {**document, "services": {"ray": {"image": "x", "comand": []}}}
    with pytest.raises(jsonschema.ValidationError, match="comand"):
        jsonschema.Draft202012Validator(schema).validate(wrong)
    services = document["services"]
    ports = [port for service in services.values() for port in service.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    for name, service in services.items():
        assert service["command"][0] in PROGRAMS
        assert set(service.get("depends_on", ())) <= services.keys()
        if name == "seaweedfs":
            continue
        assert service["image"] == f"musicgen-batch:{package_version().partition('.dev')[0]}-cpu"
        assert service["read_only"]
        assert service["environment"]["RAY_AUTH_MODE"] == "token"
    json.loads(os.path.expandvars(document["configs"]["s3"]["content"]))
