"""Digests of what a job reads, so that a folder of results knows what it was made of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_catalog.images.columns import Images
from data_catalog.images.identity import content_digest
from ppcls_core.jobs.job import Job
from ppcls_core.models.weights.files import weights_digest


def inputs_of(job: Job, images: Images, val: Images) -> dict[str, str]:
    """sha256 (hex) by input: images with labels and contents, and the weights it starts from.

    Raises:
        UserError: there are no such weights.
    """
    found = {"training images": content_digest(images), "validation images": content_digest(val)}
    if job.weights is not None:
        found["weights"] = weights_digest(Path(job.weights))
    if job.teacher and job.teacher.weights is not None:
        found["teacher's weights"] = weights_digest(Path(job.teacher.weights))
    return found


def differences(recorded: Any, wanted: Mapping[str, Any]) -> list[str]:
    """Names of the settings and `inputs` of a job that are not as they were recorded."""
    before = recorded.get("inputs") if isinstance(recorded, dict) else None
    if not isinstance(before, dict):
        return ["they are not on record"]
    names = [n for n in wanted if n != "inputs" and wanted[n] != recorded.get(n)]
    return names + [n for n, digest in wanted["inputs"].items() if digest != before.get(n)]
