"""A job as Kubernetes objects: the manifests of deploy/kubernetes/base, filled in. Pure: nothing talks to a cluster."""

import json
import re
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ...storage.errors import UsageError

Manifest = dict[str, Any]
BASE = Path(__file__).parents[2] / "deploy/kubernetes/base"
JOB_FILE = "job.toml"
LONGEST_NAME = 47  # of a RayJob; KubeRay derives the names of other objects from it
CONFIG_MAP_BYTES = 1 << 20


@dataclass(frozen=True)
class RayJobOptions:
    """Options of a job in addition to its file. `secret` is the name of the Secret with the environment variables for
    storage, e.g. AWS_ACCESS_KEY_ID."""

    name: str
    image: str
    min_workers: int = 0
    max_workers: int = 8
    secret: str = "foldstream-storage"


def base_manifests() -> list[Manifest]:
    """The RayJob and the NetworkPolicy of deploy/kubernetes/base."""
    return parse_manifests("\n---\n".join((BASE / name).read_text() for name in ("job.yaml", "network-policy.yaml")))


def parse_manifests(text: str) -> list[Manifest]:
    """Parse the documents of a YAML text, e.g. the output of 'kubectl kustomize'. Raises UsageError."""
    try:
        return [document for document in yaml.safe_load_all(text) if document]
    except yaml.YAMLError as error:
        raise UsageError(f"the manifests are not valid YAML: {error}") from None


def render(manifests: Sequence[Manifest]) -> str:
    """Render manifests as YAML text for 'kubectl apply -f -'."""
    return yaml.dump_all(_copied(manifests), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


class _Dumper(yaml.SafeDumper):
    """Writes multi-line strings in block style."""


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def ray_job(
    job: str, files: Mapping[str, bytes], options: RayJobOptions, manifests: Sequence[Manifest]
) -> list[Manifest]:
    """Fill in the manifests for a job, and add a ConfigMap with the job file and the files that it refers to.

    `job` is the text of the job file, `files` are those next to it and in folders there (code and its assets), by
    path. `manifests` are base_manifests(), or an overlay built with 'kubectl kustomize'. Raises UsageError.
    """
    _check(options)
    filled = _copied(manifests)
    if not any(manifest["kind"] == "RayJob" for manifest in filled):
        raise UsageError(
            "the manifests have no RayJob; build them with 'kubectl kustomize deploy/kubernetes/overlays/gpu'"
        )
    label, keys = {"foldstream": options.name}, _keys_of(files)
    for manifest in filled:
        manifest["metadata"] |= {"name": options.name, "labels": label}
        if manifest["kind"] == "RayJob":
            _fill_cluster(manifest["spec"]["rayClusterSpec"], options, label, keys)
        elif manifest["kind"] == "NetworkPolicy":
            manifest["spec"]["podSelector"]["matchLabels"] = label
            manifest["spec"]["ingress"][0]["from"][0]["podSelector"]["matchLabels"] = label
    contents = {keys[name]: content for name, content in {JOB_FILE: job.encode(), **files}.items()}
    return [_config_map(contents, options, label), *filled]


def check_places(places: Iterable[str], manifests: Sequence[Manifest]) -> None:
    """Raise UsageError for a path that is not accessible from the pods: neither a URL nor in a mounted volume."""
    specs = [manifest["spec"]["rayClusterSpec"] for manifest in manifests if manifest["kind"] == "RayJob"]
    containers = [template["spec"]["containers"][0] for spec in specs for template in _pod_templates(spec)]
    mounted = {mount["mountPath"] for ray in containers for mount in ray.get("volumeMounts", ())}
    for place in places:
        if "://" not in place and not any(Path(place).is_relative_to(folder) for folder in mounted):
            raise UsageError(
                f"{place} is on this machine and not accessible from the pods; upload it to a bucket and use its URL "
                "in the job file, or use --manifests that mount a volume there"
            )


def job_name(run: str) -> str:
    """A RayJob name for a run: the last part of its path, in characters that Kubernetes allows."""
    return re.sub(r"[^a-z0-9]+", "-", run.rstrip("/").rpartition("/")[2].lower()).strip("-")[:LONGEST_NAME].rstrip("-")


def _fill_cluster(spec: Manifest, options: RayJobOptions, label: dict[str, str], keys: Mapping[str, str]) -> None:
    items = [{"key": key, "path": name} for name, key in keys.items()]
    mounted = {"items": items} if any(name != key for name, key in keys.items()) else {}
    for group in spec["workerGroupSpecs"]:
        group |= {"minReplicas": options.min_workers, "maxReplicas": options.max_workers}
    for template in _pod_templates(spec):
        template["metadata"]["labels"] = label
        for volume in template["spec"]["volumes"]:
            if volume["name"] == "job":
                volume["configMap"] |= {"name": _config_name(options), **mounted}
        ray = template["spec"]["containers"][0]
        ray |= {"image": options.image, "envFrom": [{"secretRef": {"name": options.secret}}]}


def _pod_templates(spec: Manifest) -> Iterator[Manifest]:
    yield spec["headGroupSpec"]["template"]
    yield from (group["template"] for group in spec["workerGroupSpecs"])


def _copied(manifests: Sequence[Manifest]) -> list[Manifest]:
    """A deep copy without shared parts, which YAML would render as anchors."""
    copied: list[Manifest] = json.loads(json.dumps(list(manifests)))
    return copied


def _keys_of(files: Iterable[str]) -> dict[str, str]:
    """The keys of the job file and of files in a ConfigMap, by their paths. Raises UsageError if two have the same."""
    keys = {JOB_FILE: JOB_FILE}
    for name in files:
        key = re.sub(r"[^-._a-zA-Z0-9]", "_", name)  # a key is no path
        if key in keys.values():
            raise UsageError(f"cannot send {name} to Kubernetes: another file is called {key} there too; rename it")
        keys[name] = key
    return keys


def _config_map(contents: Mapping[str, bytes], options: RayJobOptions, label: dict[str, str]) -> Manifest:
    size = sum(map(len, contents.values()))
    if size >= CONFIG_MAP_BYTES:
        raise UsageError(
            f"the job file and the files it refers to take {size:,} bytes, but a ConfigMap is limited to "
            f"{CONFIG_MAP_BYTES:,}; move the larger files into the image or to storage"
        )
    made: Manifest = {"apiVersion": "v1", "kind": "ConfigMap"}
    made |= {"metadata": {"name": _config_name(options), "labels": label}, "data": {}, "binaryData": {}}
    for key, content in contents.items():
        try:
            made["data"][key] = content.decode()
        except UnicodeDecodeError:
            made["binaryData"][key] = b64encode(content).decode()
    return made


def _config_name(options: RayJobOptions) -> str:
    return f"{options.name}-job"


def _check(options: RayJobOptions) -> None:
    if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", options.name) or len(options.name) > LONGEST_NAME:
        raise UsageError(
            f"'{options.name}' is not a valid RayJob name; use up to {LONGEST_NAME} lowercase letters, digits and "
            "dashes, starting with a letter"
        )
    if not 0 <= options.min_workers <= options.max_workers or options.max_workers < 1:
        raise UsageError(f"--nodes {options.min_workers}:{options.max_workers}: invalid range of workers; use e.g. 0:8")
