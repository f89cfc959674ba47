"""Run jobs on Kubernetes with the user's own kubectl, which knows the address and credentials of the cluster."""

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from ...storage.errors import ConflictError, RunError, UsageError
from ...storage.places.locate import locate
from ..api.job_file import job_places
from .kubernetes import Manifest, RayJobOptions, base_manifests, check_places, parse_manifests, ray_job, render
from .submission import JOB, pack_job

ENDED = ("Complete", "Failed")
KUBECTL_SECONDS = 120


def job_manifests(
    tables: dict[str, dict[str, Any]], options: RayJobOptions, folder: str | None = None
) -> list[Manifest]:
    """The manifests of a job, given the tables of its file: deploy/kubernetes/base, or the kustomization in `folder`,
    filled in. Raises UsageError if the job uses paths that are not accessible from the pods.
    """
    manifests = parse_manifests(_kubectl("kustomize", folder)) if folder else base_manifests()
    check_places(job_places(tables), manifests)
    with tempfile.TemporaryDirectory(prefix="foldstream-job-") as name:
        pack_job(tables, Path(name))
        files = {entry.name: Path(name, entry.name).read_bytes() for entry in locate(name).walk()}
    return ray_job(files.pop(JOB).decode(), files, options, manifests)


def apply_job(manifests: list[Manifest], name: str) -> None:
    """Submit a job. A finished job of the same name is deleted first, so that the new one resumes it.

    Raises ConflictError if a job of that name is still running, and RunError if kubectl fails.
    """
    found = _kubectl("get", "rayjobs.ray.io", name, "--ignore-not-found", "-o", "json")
    if found.strip():
        status = json.loads(found).get("status", {}).get("jobDeploymentStatus", "")
        if status not in ENDED:
            raise ConflictError(
                f"RayJob '{name}' is still running ({status or 'just started'}); wait for it, stop it with 'kubectl "
                f"delete rayjob {name}', or choose another --name"
            )
        _kubectl("delete", "rayjobs.ray.io", name)
    _kubectl("apply", "-f", "-", text=render(manifests))


def _kubectl(*arguments: str, text: str | None = None) -> str:
    command = ["kubectl", *arguments]
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=KUBECTL_SECONDS)
    except FileNotFoundError:
        raise UsageError("kubectl is not installed; install it, or print the manifests with --dry-run") from None
    except subprocess.TimeoutExpired:
        raise RunError(f"'{' '.join(command)}' did not finish within {KUBECTL_SECONDS} s") from None
    if done.returncode:
        raise RunError(f"'{' '.join(command)}' failed: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout
