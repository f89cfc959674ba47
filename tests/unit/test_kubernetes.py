"""A job as Kubernetes objects, filled into the manifests of deploy/kubernetes/base."""

import pytest
import yaml

from foldstream.cluster.kubernetes import Manifest, RayJobOptions, base_manifests, parse_manifests, ray_job, render
from foldstream.storage.errors import UsageError

JOB = '[train]\ndataset = "s3://bucket/digits.zarr"\nrun = "s3://bucket/run"\nmodel = "model.py:factory"\n'
OPTIONS = RayJobOptions("digits", "registry/foldstream:1", 1, 4, "keys")


def by_kind(manifests: list[Manifest]) -> dict[str, Manifest]:
    return {manifest["kind"]: manifest for manifest in manifests}


def test_the_job_file_and_what_it_names_travel_in_a_config_map() -> None:
    config = ray_job(JOB, {"model.py": "def factory(): ..."}, OPTIONS)[0]
    assert config["metadata"]["name"] == "digits-job"
    assert config["data"] == {"job.toml": JOB, "model.py": "def factory(): ..."}


def test_every_pod_of_the_job_has_its_image_files_secret_and_label() -> None:
    spec = by_kind(ray_job(JOB, {}, OPTIONS))["RayJob"]["spec"]["rayClusterSpec"]
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    for template in (group["template"] for group in groups):
        container = template["spec"]["containers"][0]
        assert template["metadata"]["labels"] == {"foldstream": "digits"}
        assert template["spec"]["volumes"] == [{"name": "job", "configMap": {"name": "digits-job"}}]
        assert container["image"] == "registry/foldstream:1"
        assert container["envFrom"] == [{"secretRef": {"name": "keys"}}]


def test_workers_stay_within_the_bounds_asked_for() -> None:
    spec = by_kind(ray_job(JOB, {}, OPTIONS))["RayJob"]["spec"]["rayClusterSpec"]
    assert [(group["minReplicas"], group["maxReplicas"]) for group in spec["workerGroupSpecs"]] == [(1, 4)]


def test_the_network_policy_lets_in_the_pods_of_this_job_alone() -> None:
    policy = by_kind(ray_job(JOB, {}, OPTIONS))["NetworkPolicy"]["spec"]
    own = {"podSelector": {"matchLabels": {"foldstream": "digits"}}}
    assert policy["podSelector"] == own["podSelector"]
    assert policy["ingress"][0] == {"from": [own]}


def test_the_rest_is_the_base_as_it_stands() -> None:
    name = base_manifests()[0]["metadata"]["name"]
    same = RayJobOptions(name, "foldstream")
    assert ray_job(JOB, {}, same)[1:] == base_manifests()


def test_the_text_is_yaml_without_anchors_that_reads_as_the_manifests() -> None:
    manifests = ray_job(JOB, {}, OPTIONS)
    text = render(manifests)
    assert list(yaml.safe_load_all(text)) == manifests
    assert "&id" not in text


def test_an_overlay_that_was_built_is_filled_in_as_the_base_is() -> None:
    overlay = parse_manifests(render(base_manifests()).replace("foldstream\n", "foldstream:0.1.0-gpu\n", 1))
    assert by_kind(ray_job(JOB, {}, OPTIONS, overlay))["RayJob"]["metadata"]["name"] == "digits"


@pytest.mark.parametrize(
    ("job", "files", "options", "said"),
    [
        pytest.param(JOB, {}, RayJobOptions("Digits", "i"), "cannot name a RayJob", id="capital"),
        pytest.param(JOB, {}, RayJobOptions("d" * 48, "i"), "47 small letters", id="long"),
        pytest.param(JOB, {}, RayJobOptions("d", "i", 3, 2), "from 3 to 2 workers", id="bounds"),
        pytest.param(JOB, {}, RayJobOptions("d", "i", 0, 0), "from 0 to 0 workers", id="none"),
        pytest.param(JOB, {"../model.py": ""}, RayJobOptions("d", "i"), "beside the job file", id="folder"),
        pytest.param(JOB, {"job.toml": ""}, RayJobOptions("d", "i"), "beside the job file", id="taken"),
        pytest.param("#" * (1 << 20), {}, RayJobOptions("d", "i"), "a ConfigMap holds 1,048,576", id="large"),
    ],
)
def test_what_kubernetes_would_refuse_is_refused(
    job: str, files: dict[str, str], options: RayJobOptions, said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        ray_job(job, files, options)


def test_manifests_without_a_ray_job_are_refused() -> None:
    with pytest.raises(UsageError, match="no RayJob"):
        ray_job(JOB, {}, OPTIONS, [])
    with pytest.raises(UsageError, match="not valid YAML"):
        parse_manifests("a: [")
