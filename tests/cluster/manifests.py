"""Checks Kubernetes manifests for mistakes that schemas let pass: references, selectors, quantities, our own rules.

`faults(read(BASE))` needs PyYAML only. `render(folder)` needs kubectl.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from math import ceil
from pathlib import Path
from typing import Any

import yaml

from service.settings import PREFIX, Settings, SettingsError, load_settings

ROOT = Path(__file__).parents[2]
BASE = ROOT / "deploy/kubernetes/base"
GPU = ROOT / "deploy/kubernetes/gpu"
PROBES = ("startup", "readiness", "liveness")
SPARE_SECONDS = 10  # between the end of the last request and SIGKILL
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kubectl-1.37"  # an unpacked kubectl
KUBECTL = shutil.which("kubectl", path=f"{os.environ.get('PATH', os.defpath)}:{CACHE}")

Object = dict[str, Any]

# The part of the API that the manifests use. A leaf is a pattern for the value as JSON.
COUNT = r"[1-9]\d*"
NUMBER = r"\d+"
TEXT = r'".*"'
NAME = r'"[a-z0-9]([-a-z0-9]*[a-z0-9])?"'
NAMES = {"name": NAME}
LABELS = {"app.kubernetes.io/name": NAME}
SELECTOR = {"matchLabels": LABELS}
QUANTITIES = {"cpu": r'"\d+m?"', "memory": r'"\d+[KMG]i"', "nvidia.com/gpu": r'"\d+"'}
PROBE = {
    "httpGet": {"path": r'"/[a-z/]+"', "port": NAME},
    **dict.fromkeys(("periodSeconds", "timeoutSeconds", "failureThreshold"), COUNT),
}
CONTAINER = {
    **NAMES, "image": TEXT, **{f"{name}Probe": PROBE for name in PROBES},
    "ports": [{**NAMES, "containerPort": COUNT}],
    "env": [{"name": r'"[A-Z0-9_]+"', "value": TEXT, "valueFrom": {"secretKeyRef": {**NAMES, "key": NAME}}}],
    "resources": {"requests": QUANTITIES, "limits": QUANTITIES},
    "securityContext": {
        "readOnlyRootFilesystem": "true", "allowPrivilegeEscalation": "false",
        "capabilities": {"drop": ['"ALL"'], "add": [r'"[A-Z_]+"']},
    },
    "volumeMounts": [{**NAMES, "mountPath": r'"/[a-z/]+"', "readOnly": "true"}],
}  # fmt: skip
POD = {
    "enableServiceLinks": "false", "automountServiceAccountToken": "false", "terminationGracePeriodSeconds": COUNT,
    "securityContext": {
        "runAsNonRoot": "true", "runAsUser": COUNT, "runAsGroup": COUNT, "seccompProfile": {"type": '"RuntimeDefault"'},
    },
    "topologySpreadConstraints": [{
        "topologyKey": r'"(kubernetes\.io/hostname|topology\.kubernetes\.io/zone)"', "maxSkew": COUNT,
        "whenUnsatisfiable": '"(DoNotSchedule|ScheduleAnyway)"', "labelSelector": SELECTOR, "matchLabelKeys": [TEXT],
    }],
    "tolerations": [{"key": TEXT, "operator": '"(Exists|Equal)"', "effect": '"(NoSchedule|NoExecute)"'}],
    "containers": [CONTAINER],
    "volumes": [{
        **NAMES, "emptyDir": {"medium": '"Memory"', "sizeLimit": QUANTITIES["memory"]},
        "persistentVolumeClaim": {"claimName": NAME, "readOnly": "true"},
        "image": {"reference": TEXT, "pullPolicy": '"(Always|IfNotPresent|Never)"'},
    }],
}  # fmt: skip
TARGET = {"apiVersion": '"apps/v1"', "kind": '"Deployment"', **NAMES}
METRIC = {**NAMES, "target": {"type": '"Utilization"', "averageUtilization": COUNT}}
SPECS: dict[tuple[str, str], object] = {
    ("apps/v1", "Deployment"): {
        "selector": SELECTOR,
        "strategy": {"rollingUpdate": {"maxSurge": NUMBER, "maxUnavailable": NUMBER}},
        "template": {"metadata": {"labels": LABELS}, "spec": POD},
    },
    ("v1", "Service"): {"selector": LABELS, "ports": [{**NAMES, "port": COUNT, "targetPort": NAME}]},
    ("autoscaling/v2", "HorizontalPodAutoscaler"): {
        "scaleTargetRef": TARGET, "minReplicas": COUNT, "maxReplicas": COUNT,
        "metrics": [{"type": '"Resource"', "resource": METRIC}],
    },
    ("policy/v1", "PodDisruptionBudget"): {
        "maxUnavailable": COUNT, "unhealthyPodEvictionPolicy": '"AlwaysAllow"', "selector": SELECTOR,
    },
}  # fmt: skip


def read(folder: Path) -> list[Object]:
    """The objects of a base as they stand in its files. kustomize renders them so, since the base lists files only."""
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert kustomization.keys() == {"apiVersion", "kind", "resources"}, kustomization.keys()
    return [each for name in kustomization["resources"] for each in yaml.safe_load_all((folder / name).read_text())]


def render(folder: Path) -> list[Object]:
    """The objects as `kubectl kustomize` renders them."""
    assert KUBECTL
    process = subprocess.run([KUBECTL, "kustomize", folder], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    return list(yaml.safe_load_all(process.stdout))


def find(objects: list[Object], kind: str) -> Object:
    """The `spec` of the only object of this kind."""
    [spec] = [each["spec"] for each in objects if each["kind"] == kind]
    return dict(spec)


def faults(objects: list[Object]) -> list[str]:
    """One sentence for each fault, in the order of the objects; rules come after the forms that they rely on."""
    return [fault for each in objects for fault in malformed(each)] or [
        f"It does not hold that {rule}." for rule, holds in rules(objects).items() if not holds
    ]


def malformed(each: Object) -> Iterator[str]:
    kind = (each.get("apiVersion"), each.get("kind"))
    if kind not in SPECS:
        yield f"{kind} is not a known kind."
        return
    shape = {"apiVersion": TEXT, "kind": TEXT, "metadata": {**NAMES, "labels": LABELS}, "spec": SPECS[kind]}
    yield from deviations(each, shape, str(each["kind"]))


def deviations(value: Any, shape: Any, where: str) -> Iterator[str]:
    """Where `value` has an unknown key, or a leaf that does not match its pattern in `shape`."""
    if isinstance(shape, dict) and isinstance(value, dict):
        for key, child in value.items():
            if key in shape:
                yield from deviations(child, shape[key], f"{where}.{key}")
            else:
                yield f"{where}.{key} is not a known key."
    elif isinstance(shape, list) and isinstance(value, list):
        for number, child in enumerate(value):
            yield from deviations(child, shape[0], f"{where}.{number}")
    elif not isinstance(shape, str) or not re.fullmatch(shape, json.dumps(value)):
        yield f"{where} is {json.dumps(value)}."


def rules(objects: list[Object]) -> dict[str, bool]:
    """What must hold between the parts of the manifests, and between them and the service."""
    deployment, service, scaler, budget = (find(objects, kind) for _, kind in SPECS)
    labels, pod = deployment["template"]["metadata"]["labels"], deployment["template"]["spec"]
    [container] = pod["containers"]
    selector, security = deployment["selector"], (pod.get("securityContext"), container.get("securityContext"))
    wanted = selector.get("matchLabels")
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    targeted = {port["targetPort"] for port in service["ports"]}
    probed = {container.get(f"{name}Probe", {}).get("httpGet", {}).get("port") for name in PROBES}
    volumes, mounts = (
        {each["name"] for each in part} for part in (pod.get("volumes", []), container.get("volumeMounts", []))
    )
    try:
        settings, valid = settings_of(container), True
    except SettingsError:
        settings, valid = Settings(), False
    request_seconds = ceil(settings.request_seconds + settings.max_wait_seconds) + 1  # as service/server/run.py
    names = {each["metadata"]["name"] for each in objects if each["kind"] == "Deployment"}
    resources = container["resources"]
    return {
        "the Deployment selects its own pods": bool(wanted) and wanted.items() <= labels.items(),
        "the Service selects the Deployment's pods": service.get("selector") == wanted,
        "the budget's selector is the Deployment's": budget.get("selector") == selector,
        "each topology constraint selects the Deployment's pods": all(
            each["labelSelector"] == selector for each in pod["topologySpreadConstraints"]
        ),
        "the autoscaler's target is the Deployment": {scaler["scaleTargetRef"]["name"]} == names,
        "the autoscaler's maximum is at least its minimum": scaler["maxReplicas"] >= scaler["minReplicas"],
        "the autoscaler's metric is CPU, which the container requests": resources["requests"].keys()
        >= {each["resource"]["name"] for each in scaler["metrics"]} == {"cpu"},
        "the Service's target is a port of the container": targeted <= ports.keys(),
        "each probe's port is a port of the container": probed <= ports.keys(),
        "the container's port is the image's": list(ports.values()) == [int(dockerfile(r"SERVICE_PORT=(\d+)"))],
        "the mounted volumes are those of the pod": mounts == volumes,
        "each variable is a setting with a valid value": valid,
        "there is one worker a pod": settings.workers == 1,
        "the termination grace covers drain, requests and a spare": pod["terminationGracePeriodSeconds"]
        >= settings.drain_seconds + request_seconds + SPARE_SECONDS,
        "the security contexts are Compose's": security == compose_security(),
        "there are no links to services": pod.get("enableServiceLinks") is False,
    }  # fmt: skip


def settings_of(container: Object) -> Settings:
    """The settings that the container's variables make. Raises SettingsError for a variable that is none."""
    names = [each["name"] for each in container["env"] if not each["name"].startswith(PREFIX)]
    if names:
        raise SettingsError(f"{names[0]} is no setting.")
    return load_settings(
        **{each["name"].removeprefix(PREFIX).lower(): each.get("value", "secret") for each in container["env"]}
    )


def dockerfile(pattern: str) -> str:
    """The last match in the Dockerfile, whose last stage is the service."""
    found: str = re.findall(pattern, (ROOT / "Dockerfile").read_text())[-1]
    return found


def compose_service() -> Object:
    service: Object = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["service"]
    return service


def compose_security() -> tuple[Object, Object]:
    """The security contexts of pod and container that do what docker-compose.yml and the image do."""
    service = compose_service()
    user, group = map(int, str(service.get("user", dockerfile(r"(?m)^USER (\d+:\d+)$"))).split(":"))
    options = set(service["security_opt"])
    assert options <= {"no-new-privileges:true"}, options  # so Docker's default seccomp profile holds: RuntimeDefault
    assert not service.keys() & {"privileged", "group_add", "userns_mode", "sysctls"}
    capabilities = {"drop": service["cap_drop"], "add": service.get("cap_add")}
    return (
        {
            "runAsNonRoot": user != 0,
            "runAsUser": user,
            "runAsGroup": group,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        {
            "readOnlyRootFilesystem": service["read_only"],
            "allowPrivilegeEscalation": not options,
            "capabilities": {name: value for name, value in capabilities.items() if value},
        },
    )
