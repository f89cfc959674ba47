"""The files of deploy/vm, deploy/slurm and deploy/docker against the schemas of those who read them."""

import json
import re
from importlib.resources import files
from pathlib import Path

import jsonschema
import promql_parser
import pytest
import ray
import yaml
from ray.autoscaler.sdk import fillout_defaults

from ..programs import find_program, run

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
VM_FILES = sorted((DEPLOY / "vm").glob("*.yaml"))
RAY_DASHBOARDS = Path(ray.__file__).parent / "dashboard/modules/metrics/dashboards"
RAY_SCHEMA = json.loads((Path(ray.__file__).parent / "autoscaler/ray-schema.json").read_text())
"""What Ray checks a file against before it starts a cluster."""
JOBS = {"ray_running_jobs", "ray_finished_jobs_total"}
"""Ray has these, and no panel for them."""


@pytest.mark.parametrize("path", VM_FILES, ids=lambda path: path.stem)
def test_ray_accepts_the_file(path: Path) -> None:
    config = fillout_defaults(yaml.safe_load(path.read_text()))
    jsonschema.validate(config, RAY_SCHEMA)
    if "available_node_types" in config:
        types = config["available_node_types"]
        assert config["head_node_type"] in types
        assert sum(one.get("min_workers", 0) for one in types.values()) <= config["max_workers"]


@pytest.mark.parametrize("path", VM_FILES, ids=lambda path: path.stem)
def test_a_wrong_field_fails(path: Path) -> None:
    config = fillout_defaults(yaml.safe_load(path.read_text())) | {"max_worker": 3}
    with pytest.raises(jsonschema.ValidationError, match="max_worker"):
        jsonschema.validate(config, RAY_SCHEMA)


@pytest.mark.parametrize("path", VM_FILES, ids=lambda path: path.stem)
def test_ray_asks_for_a_token_and_shows_its_dashboard_to_the_head_alone(path: Path) -> None:
    config = yaml.safe_load(path.read_text())
    (head,) = (one for one in config["head_start_ray_commands"] if "ray start" in one)
    (worker,) = (one for one in config["worker_start_ray_commands"] if "ray start" in one)
    assert "RAY_AUTH_MODE=token ray start" in head
    assert "RAY_AUTH_MODE=token ray start" in worker
    assert "--dashboard-host=127.0.0.1" in head
    assert "~/.ray/auth_token" in config["file_mounts"]


def test_the_script_is_intact() -> None:
    run(find_program("shellcheck"), DEPLOY / "slurm/foldstream.sbatch")


def test_the_dockerfile_is_intact() -> None:
    run(find_program("hadolint"), DEPLOY / "docker/Dockerfile")


def test_every_target_ends_as_a_user_without_rights() -> None:
    stages = re.split(r"(?m)^FROM ", (DEPLOY / "docker/Dockerfile").read_text())
    for target in ("cpu", "gpu"):
        (stage,) = (one for one in stages if one.splitlines()[0].endswith(f" AS {target}"))
        assert re.findall(r"(?m)^USER (.*)$", stage) == ["1000:1000"]


@pytest.mark.parametrize("path", [DEPLOY / "docker/Dockerfile", *VM_FILES], ids=lambda path: path.name)
def test_torch_is_the_one_of_the_makefile(path: Path) -> None:
    (pin,) = set(re.findall(r"torch==\S+", (ROOT / "Makefile").read_text()))
    assert set(re.findall(r"torch==\S+", path.read_text())) == {pin}


def test_compose_is_what_its_schema_allows() -> None:
    compose = yaml.safe_load((DEPLOY / "docker/compose.yaml").read_text())
    schema = json.loads((files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json").read_text())
    jsonschema.validate(compose, schema)
    compose["services"]["head"]["port"] = 8265
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(compose, schema)


def test_every_published_port_is_on_loopback() -> None:
    services = yaml.safe_load((DEPLOY / "docker/compose.yaml").read_text())["services"]
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert len(ports) == 4
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_every_query_of_the_dashboard_asks_for_a_metric_of_ray() -> None:
    known = set(re.findall(r"\bray_[a-z_]+", "".join(p.read_text() for p in RAY_DASHBOARDS.glob("*_panels.py"))))
    board = json.loads((DEPLOY / "docker/grafana/dashboards/foldstream.json").read_text())
    for target in (target for panel in board["panels"] for target in panel["targets"]):
        promql_parser.parse(target["expr"])
        assert set(re.findall(r"\bray_[a-z_]+", target["expr"])) <= known | JOBS, target["expr"]


def test_prometheus_accepts_its_file() -> None:
    run(find_program("promtool"), "check", "config", DEPLOY / "docker/prometheus.yaml")
