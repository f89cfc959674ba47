"""A job as Kubernetes objects, and the manifests of deploy/kubernetes against the schemas of Kubernetes and KubeRay."""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from foldstream.cluster.api.job_file import load_job_file
from foldstream.cluster.submit.kubectl import apply_job, job_manifests
from foldstream.cluster.submit.kubernetes import (
    Manifest,
    RayJobOptions,
    base_manifests,
    job_name,
    parse_manifests,
    ray_job,
    render,
)
from foldstream.storage.errors import RunError, UsageError

from .. import kuberay
from ..programs import find_program, run

FOLDER = Path(__file__).parents[2] / "deploy/kubernetes"
KUBERNETES = "1.33"
JOB = '[train]\ndataset = "s3://bucket/digits.zarr"\nrun = "s3://bucket/run"\nmodel = "model.py:factory"\n'
MOUNT = {"name": "job", "mountPath": "/shared"}
OPTIONS = RayJobOptions("digits", "registry/foldstream:1", 1, 4, "keys")


def kustomized(folder: str) -> list[Manifest]:
    return parse_manifests(run(find_program("kubectl"), "kustomize", FOLDER / folder))


def cluster_spec(manifest: Manifest) -> Manifest:
    spec: Manifest = manifest["spec"].get("rayClusterSpec", manifest["spec"])
    return spec


def pod_templates(manifest: Manifest) -> Iterator[Manifest]:
    spec = cluster_spec(manifest)
    yield spec["headGroupSpec"]["template"]
    yield from (group["template"] for group in spec["workerGroupSpecs"])


def validate(manifest: Manifest) -> None:
    """Hold a manifest against Kubernetes' schemas, closed to other fields; KubeRay's against its fields, and what is
    Kubernetes' own within against Kubernetes'."""
    if manifest["kind"] not in kuberay.SPECS:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
        return
    assert manifest["apiVersion"] == "ray.io/v1"
    jsonschema.validate(manifest["spec"], kuberay.SPECS[manifest["kind"]])
    options = cluster_spec(manifest)["autoscalerOptions"]
    sidecar = {"name": "autoscaler", "resources": options["resources"], "securityContext": options["securityContext"]}
    for template in [*pod_templates(manifest), {"spec": {"containers": [sidecar]}}]:
        pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": manifest["metadata"], "template": template}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def at(manifest: Manifest, place: str, value: object) -> None:
    """Put a value at a dotted place of a manifest."""
    *way, last = place.split(".")
    part: Any = manifest
    for step in way:
        part = part[int(step) if step.isdecimal() else step]
    part[last] = value


def by_kind(manifests: list[Manifest]) -> dict[str, Manifest]:
    return {manifest["kind"]: manifest for manifest in manifests}


def test_the_job_file_and_its_files_are_in_a_config_map() -> None:
    config = ray_job(JOB, {"model.py": b"def factory(): ..."}, OPTIONS, base_manifests())[0]
    assert config["metadata"]["name"] == "digits-job"
    assert config["data"] == {"job.toml": JOB, "model.py": "def factory(): ..."}


def test_files_in_folders_and_files_that_are_no_text_reach_the_pods() -> None:
    files = {"parts/head.py": b"", "parts/pre trained.pt": b"\xff\xfe"}
    config, *rest = ray_job(JOB, files, OPTIONS, base_manifests())
    assert config["data"] == {"job.toml": JOB, "parts_head.py": ""}
    assert config["binaryData"] == {"parts_pre_trained.pt": "//4="}
    for template in pod_templates(by_kind(rest)["RayJob"]):
        (volume,) = template["spec"]["volumes"]
        paths = {item["path"]: item["key"] for item in volume["configMap"]["items"]}
        assert paths.pop("job.toml") == "job.toml"
        assert paths == {"parts/head.py": "parts_head.py", "parts/pre trained.pt": "parts_pre_trained.pt"}
    for manifest in [config, *rest]:
        validate(manifest)


def test_every_pod_of_the_job_has_its_image_files_secret_and_label() -> None:
    spec = by_kind(ray_job(JOB, {}, OPTIONS, base_manifests()))["RayJob"]["spec"]["rayClusterSpec"]
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    for template in (group["template"] for group in groups):
        container = template["spec"]["containers"][0]
        assert template["metadata"]["labels"] == {"foldstream": "digits"}
        assert template["spec"]["volumes"] == [{"name": "job", "configMap": {"name": "digits-job"}}]
        assert container["image"] == "registry/foldstream:1"
        assert container["envFrom"] == [{"secretRef": {"name": "keys"}}]


def test_workers_stay_within_the_bounds_asked_for() -> None:
    spec = by_kind(ray_job(JOB, {}, OPTIONS, base_manifests()))["RayJob"]["spec"]["rayClusterSpec"]
    assert [(group["minReplicas"], group["maxReplicas"]) for group in spec["workerGroupSpecs"]] == [(1, 4)]


def test_the_network_policy_lets_in_the_pods_of_this_job_alone() -> None:
    policy = by_kind(ray_job(JOB, {}, OPTIONS, base_manifests()))["NetworkPolicy"]["spec"]
    own = {"podSelector": {"matchLabels": {"foldstream": "digits"}}}
    assert policy["podSelector"] == own["podSelector"]
    assert policy["ingress"][0] == {"from": [own]}


def test_the_rest_is_the_base_as_it_stands() -> None:
    name = base_manifests()[0]["metadata"]["name"]
    same = RayJobOptions(name, "foldstream")
    assert ray_job(JOB, {}, same, base_manifests())[1:] == base_manifests()


def test_the_text_is_yaml_without_anchors_that_reads_as_the_manifests() -> None:
    manifests = ray_job(JOB, {}, OPTIONS, base_manifests())
    text = render(manifests)
    assert list(yaml.safe_load_all(text)) == manifests
    assert "&id" not in text


def test_an_overlay_that_was_built_is_filled_in_as_the_base_is() -> None:
    overlay = parse_manifests(render(base_manifests()).replace("foldstream\n", "foldstream:0.1.0-gpu\n", 1))
    assert by_kind(ray_job(JOB, {}, OPTIONS, overlay))["RayJob"]["metadata"]["name"] == "digits"


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    (tmp_path / "model.py").write_text("def factory(): ...")
    (tmp_path / "job.toml").write_text(JOB)
    return tmp_path / "job.toml"


@pytest.mark.parametrize("folder", [None, "overlays/gpu"])
def test_a_job_file_becomes_manifests_with_its_model_beside_it(folder: str | None, job_file: Path) -> None:
    config, *rest = job_manifests(load_job_file(job_file), OPTIONS, folder and str(FOLDER / folder))
    job = tomllib.loads(config["data"]["job.toml"])
    assert job["train"]["model"] == "model.py:factory"
    assert config["data"]["model.py"] == "def factory(): ..."
    for template in pod_templates(by_kind(rest)["RayJob"]):
        assert template["spec"]["containers"][0]["image"] == OPTIONS.image


def test_a_path_that_the_pods_cannot_see_is_refused(job_file: Path, tmp_path: Path) -> None:
    job_file.write_text(JOB.replace("s3://bucket/run", "/shared/run"))
    with pytest.raises(UsageError, match="/shared/run is on this machine"):
        job_manifests(load_job_file(job_file), OPTIONS)
    mounted = base_manifests()
    for template in pod_templates(mounted[0]):
        template["spec"]["containers"][0]["volumeMounts"] = [MOUNT]
    (tmp_path / "all.yaml").write_text(render(mounted))
    (tmp_path / "kustomization.yaml").write_text("resources: [all.yaml]")
    assert job_manifests(load_job_file(job_file), OPTIONS, str(tmp_path))


def test_errors_of_kubectl_are_shown(job_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    manifests = job_manifests(load_job_file(job_file), OPTIONS)
    with pytest.raises(RunError, match=r"rayjobs\.ray\.io digits .*' failed: The connection"):
        apply_job(manifests, "digits")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="kubectl is not installed"):
        apply_job(manifests, "digits")


def test_a_job_is_named_as_its_run() -> None:
    assert job_name("s3://bucket/runs/My_Digits.2/") == "my-digits-2"
    assert len(job_name("s3://bucket/" + "long-" * 20)) <= 47


@pytest.mark.parametrize(
    ("job", "files", "options", "said"),
    [
        pytest.param(JOB, {}, RayJobOptions("Digits", "i"), "is not a valid RayJob name", id="capital"),
        pytest.param(JOB, {}, RayJobOptions("d" * 48, "i"), "47 lowercase letters", id="long"),
        pytest.param(JOB, {}, RayJobOptions("d", "i", 3, 2), "--nodes 3:2: invalid range", id="bounds"),
        pytest.param(JOB, {}, RayJobOptions("d", "i", 0, 0), "--nodes 0:0: invalid range", id="none"),
        pytest.param(JOB, {"a/b": b"", "a_b": b""}, RayJobOptions("d", "i"), "called a_b there too", id="same"),
        pytest.param(JOB, {"job.toml": b""}, RayJobOptions("d", "i"), "called job.toml there too", id="taken"),
        pytest.param("#" * (1 << 20), {}, RayJobOptions("d", "i"), "a ConfigMap is limited to 1,048,576", id="large"),
    ],
)
def test_what_kubernetes_would_reject_is_refused(
    job: str, files: dict[str, bytes], options: RayJobOptions, said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        ray_job(job, files, options, base_manifests())


def test_manifests_without_a_ray_job_are_refused() -> None:
    with pytest.raises(UsageError, match="no RayJob"):
        ray_job(JOB, {}, OPTIONS, [])
    with pytest.raises(UsageError, match="not valid YAML"):
        parse_manifests("a: [")


@pytest.mark.parametrize("folder", ["base", "overlays/cpu", "overlays/gpu", "overlays/spot", "cluster"])
def test_every_kustomization_builds_into_what_the_schemas_allow(folder: str) -> None:
    manifests = kustomized(folder)
    own = "RayCluster" if folder == "cluster" else "RayJob"
    assert sorted(manifest["kind"] for manifest in manifests) == sorted([own, "NetworkPolicy"])
    for manifest in manifests:
        validate(manifest)


def test_submitted_manifests_are_valid() -> None:
    for manifest in ray_job(
        "[train]", {"model.py": b""}, RayJobOptions("digits", "registry/foldstream:1"), base_manifests()
    ):
        validate(manifest)


@pytest.mark.parametrize(
    "place",
    [
        pytest.param("spec.backofLimit", id="of the job"),
        pytest.param("spec.rayClusterSpec.enableAutoscaling", id="of the cluster"),
        pytest.param("spec.rayClusterSpec.authOptions.token", id="of its authentication"),
        pytest.param("spec.rayClusterSpec.workerGroupSpecs.0.minimum", id="of a worker group"),
        pytest.param("spec.rayClusterSpec.workerGroupSpecs.0.template.spec.containers.0.imagePolicy", id="of a pod"),
        pytest.param("spec.rayClusterSpec.headGroupSpec.template.spec.securityContext.root", id="of its security"),
        pytest.param("spec.rayClusterSpec.autoscalerOptions.securityContext.root", id="of the autoscaler's"),
    ],
)
def test_an_unknown_field_fails(place: str) -> None:
    job = base_manifests()[0]
    validate(job)
    at(job, place, "wrong")
    with pytest.raises(jsonschema.ValidationError):
        validate(job)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        pytest.param("spec.backoffLimit", "three", id="text for a number"),
        pytest.param("spec.submissionMode", "Http", id="an unknown mode"),
        pytest.param("spec.rayClusterSpec.authOptions.mode", "none", id="no token"),
        pytest.param("spec.rayClusterSpec.headGroupSpec.rayStartParams.num-cpus", 0, id="a number for text"),
    ],
)
def test_a_value_of_the_wrong_type_fails(place: str, value: object) -> None:
    job = base_manifests()[0]
    at(job, place, value)
    with pytest.raises(jsonschema.ValidationError):
        validate(job)


def test_a_wrong_field_of_the_network_policy_fails() -> None:
    policy = base_manifests()[1]
    at(policy, "spec.ingres", [])
    with pytest.raises(jsonschema.ValidationError):
        validate(policy)


def test_the_cluster_that_stays_has_the_jobs_spec_but_for_its_file() -> None:
    (cluster,) = (one for one in kustomized("cluster") if one["kind"] == "RayCluster")
    (job,) = (one for one in kustomized("overlays/cpu") if one["kind"] == "RayJob")
    for template in pod_templates(job):
        del template["spec"]["volumes"]
        del template["spec"]["containers"][0]["volumeMounts"]
    assert cluster["spec"] == job["spec"]["rayClusterSpec"]


def test_no_pod_runs_as_root_or_holds_a_key() -> None:
    for folder in ("overlays/gpu", "overlays/spot", "cluster"):
        (manifest,) = (one for one in kustomized(folder) if one["kind"] in kuberay.SPECS)
        assert cluster_spec(manifest)["authOptions"] == {"mode": "token"}
        for pod in (template["spec"] for template in pod_templates(manifest)):
            assert pod["securityContext"]["runAsNonRoot"] is True
            for container in pod["containers"]:
                assert container["securityContext"]["allowPrivilegeEscalation"] is False
                assert "env" not in container
                assert container["resources"].keys() == {"requests", "limits"}
