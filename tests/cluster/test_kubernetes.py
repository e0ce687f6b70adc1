"""The manifests in deploy/kubernetes. Rendering needs kubectl, schemas need the extra `cluster`, the rest neither."""

import copy
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from classifier import __version__
from service.settings import Settings
from tests.cluster.manifests import (
    BASE,
    GPU,
    KUBECTL,
    PROBES,
    Object,
    compose_service,
    faults,
    find,
    read,
    render,
    rules,
)
from tests.service.conftest import serving

SCHEMAS = ("newest", "newest less three")
COMMENTED_CODE = re.compile(r"^#(?! \S)(.+)$", re.MULTILINE)
PATCHES = 3  # commented: a volume, an OCI image, an API key
DELETE = object()

needs_kubectl = pytest.mark.skipif(not KUBECTL, reason="there is no kubectl")

POD = "Deployment.spec.template.spec"
MUTANTS: dict[str, tuple[str, Any, str]] = {  # where, the new value, the fault
    "wrong port name": ("Service.spec.ports.0.targetPort", "https", "the Service's target is a port"),
    "missing volume": (f"{POD}.volumes", [], "the mounted volumes"),
    "memory of 1Gb": (f"{POD}.containers.0.resources.requests.memory", "1Gb", 'memory is "1Gb"'),
    "no failure allowed": (f"{POD}.containers.0.livenessProbe.failureThreshold", 0, "failureThreshold is 0"),
    "wrong enum": (f"{POD}.topologySpreadConstraints.0.whenUnsatisfiable", "Ignore", 'whenUnsatisfiable is "Ignore"'),
    "maximum below minimum": ("HorizontalPodAutoscaler.spec.maxReplicas", 1, "the autoscaler's maximum"),
    "unknown key": (f"{POD}.containers.0.readynessProbe", {}, "readynessProbe is not a known key"),
    "integer variable": (f"{POD}.containers.0.env.1.value", 15, "value is 15"),
    "unknown apiVersion": ("HorizontalPodAutoscaler.apiVersion", "autoscaling/v2beta2", "is not a known kind"),
    "empty selector": ("PodDisruptionBudget.spec.selector", {}, "the budget's selector"),
    "empty selector of the Deployment": ("Deployment.spec.selector", {}, "the Deployment selects its own pods"),
    "empty selector of the Service": ("Service.spec.selector", {}, "the Service selects"),
    "empty selector of a constraint": (
        f"{POD}.topologySpreadConstraints.0.labelSelector", {}, "each topology constraint",
    ),
    "other labels": (
        "Deployment.spec.template.metadata.labels", {"app.kubernetes.io/name": "x"}, "the Deployment selects its own",
    ),
    "other target": ("HorizontalPodAutoscaler.spec.scaleTargetRef.name", "x", "the autoscaler's target"),
    "no CPU request": (f"{POD}.containers.0.resources.requests.cpu", DELETE, "the autoscaler's metric"),
    "wrong port of a probe": (f"{POD}.containers.0.startupProbe.httpGet.port", "https", "each probe's port"),
    "no readiness probe": (f"{POD}.containers.0.readinessProbe", DELETE, "each probe's port"),
    "other port": (f"{POD}.containers.0.ports.0.containerPort", 8080, "the container's port is the image's"),
    "unknown setting": (f"{POD}.containers.0.env.1.name", "SERVICE_DRAIN", "each variable is a setting"),
    "two workers": (f"{POD}.containers.0.env.0.value", "2", "there is one worker a pod"),
    "short grace": (f"{POD}.terminationGracePeriodSeconds", 37, "the termination grace"),
    "other user": (f"{POD}.securityContext.runAsUser", 1001, "the security contexts"),
    "all capabilities": (f"{POD}.containers.0.securityContext.capabilities", DELETE, "the security contexts"),
    "no security context": (f"{POD}.containers.0.securityContext", DELETE, "the security contexts"),
    "service links": (f"{POD}.enableServiceLinks", DELETE, "there are no links"),
    "fixed replicas": ("Deployment.spec.replicas", 2, "replicas is not a known key"),
    "preStop hook": (f"{POD}.containers.0.lifecycle", {}, "lifecycle is not a known key"),
}  # fmt: skip


def mutated(objects: list[Object], where: str, value: Any) -> list[Object]:
    """A copy with `value` at the path `where`, which begins with the kind."""
    objects = copy.deepcopy(objects)
    kind, *path, last = (int(part) if part.isdigit() else part for part in where.split("."))
    part: Any
    [part] = [each for each in objects if each["kind"] == kind]
    for key in path:
        part = part[key]
    if value is DELETE:
        del part[last]
    else:
        part[last] = value
    return objects


def test_the_manifests_have_no_fault() -> None:
    assert faults(read(BASE)) == []


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_refused_for_its_one_fault(name: str) -> None:
    where, value, fault = MUTANTS[name]
    found = faults(mutated(read(BASE), where, value))
    assert fault in found[0]
    assert len(found) == 1 or where == "Deployment.spec.selector", found  # with which the others are compared


def test_each_rule_refuses_a_mutant() -> None:
    for rule in rules(read(BASE)):
        assert any(rule.startswith(fault) for _, _, fault in MUTANTS.values()), rule


def test_the_service_answers_each_probe(tiny_checkpoint: Path) -> None:
    [container] = find(read(BASE), "Deployment")["template"]["spec"]["containers"]
    paths = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in PROBES}
    assert paths == {"startup": "/health/live", "readiness": "/health", "liveness": "/health/live"}
    with serving(Settings(model=tiny_checkpoint, photo_model=None)) as client:
        assert {client.get(path).status_code for path in paths.values()} == {200}


def test_a_pod_may_take_what_a_container_of_compose_may() -> None:
    pod = find(read(BASE), "Deployment")["template"]["spec"]
    service = compose_service()
    limits = pod["containers"][0]["resources"]["limits"]
    assert service["mem_limit"] == f"${{MEMORY:-{limits['memory'].removesuffix('Gi')}g}}"
    assert service["cpus"] == f"${{CPUS:-{limits['cpu']}}}"
    [tmp] = pod["volumes"]
    [mount] = pod["containers"][0]["volumeMounts"]
    assert service["tmpfs"] == f"{mount['mountPath']}:size={tmp['emptyDir']['sizeLimit'].removesuffix('Mi')}m"


def test_the_image_has_the_version_of_the_package() -> None:
    [container] = find(read(BASE), "Deployment")["template"]["spec"]["containers"]
    assert container["image"] == f"fashion-mnist-service:{__version__}"
    [image] = yaml.safe_load((GPU / "kustomization.yaml").read_text())["images"]
    assert image == {"name": "fashion-mnist-service", "newTag": f"{__version__}-cuda"}


@needs_kubectl
def test_kustomize_renders_the_base_as_it_is_written() -> None:
    def by_kind(objects: list[Object]) -> list[Object]:
        return sorted(objects, key=lambda each: str(each["kind"]))

    assert by_kind(render(BASE)) == by_kind(read(BASE))


@needs_kubectl
def test_the_gpu_overlay_has_no_fault() -> None:
    objects = render(GPU)
    assert faults(objects) == []
    [container] = find(objects, "Deployment")["template"]["spec"]["containers"]
    assert container["resources"]["limits"] == {"cpu": "1", "memory": "8Gi", "nvidia.com/gpu": "1"}
    assert {"name": "SERVICE_DEVICE", "value": "cuda"} in container["env"]


@needs_kubectl
@pytest.mark.parametrize("number", range(PATCHES))
def test_a_commented_patch_has_no_fault(tmp_path: Path, number: int) -> None:
    objects = render(with_patch(tmp_path / "base", number))
    assert faults(objects) == []
    assert objects != render(BASE)


def with_patch(folder: Path, number: int) -> Path:
    """A copy of the base with this one of the commented patches."""
    shutil.copytree(BASE, folder)
    file = folder / "kustomization.yaml"
    patches = yaml.safe_load("\n".join(COMMENTED_CODE.findall(file.read_text())))["patches"]
    assert len(patches) == PATCHES
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), "patches": [patches[number]]}))
    return folder


def schema_findings(path: Path, objects: list[Object], schema: str) -> list[str]:
    """Errors and warnings of kubernetes-validate; a warning is a kind without a schema, for which it exits with 0."""
    utils = pytest.importorskip(
        "kubernetes_validate.utils", reason="kubernetes-validate, of the extra cluster, is missing"
    )
    newest = utils.major_minor(utils.latest_version())
    major, minor = map(int, newest.split("."))
    version = f"{major}.{minor - 3 * (schema != 'newest')}"
    path.write_text(yaml.safe_dump_all(objects))
    command = [sys.executable, "-m", "kubernetes_validate", "--strict", "-k", version, str(path)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = process.stdout.splitlines()
    assert len(lines) == len(objects), process.stdout + process.stderr
    findings = [line for line in lines if not line.startswith("INFO")]
    assert all(line.endswith(f"against version {version}") for line in lines if line not in findings), lines
    return findings


@pytest.mark.parametrize("schema", SCHEMAS)
def test_schemas_find_nothing(tmp_path: Path, schema: str) -> None:
    assert schema_findings(tmp_path / "base.yaml", read(BASE), schema) == []


@needs_kubectl
@pytest.mark.parametrize("schema", SCHEMAS)
def test_schemas_find_nothing_in_what_is_rendered(tmp_path: Path, schema: str) -> None:
    patched = [with_patch(tmp_path / str(number), number) for number in range(PATCHES)]
    objects = [each for folder in (GPU, *patched) for each in render(folder)]
    assert schema_findings(tmp_path / "rendered.yaml", objects, schema) == []


@pytest.mark.parametrize("name", ["unknown key", "integer variable", "unknown apiVersion"])
def test_schemas_find_what_they_can(tmp_path: Path, name: str) -> None:
    where, value, _ = MUTANTS[name]
    assert len(schema_findings(tmp_path / "base.yaml", mutated(read(BASE), where, value), "newest")) == 1
