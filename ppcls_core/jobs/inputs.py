"""Digests of what a job reads, so that a folder of results knows what it was made of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_catalog.base.files import digest_of, sha256_file
from data_catalog.images.columns import Images
from ppcls_core.jobs.job import Job
from ppcls_core.models.weights.files import find_weights


def inputs_of(job: Job, images: Images, val: Images) -> dict[str, str]:
    """sha256 (hex) by input: images with their labels, and the weights that the job starts from.

    Raises:
        UserError: there are no such weights.
    """
    found = {"training images": content_digest(images), "validation images": content_digest(val)}
    if job.weights is not None:
        found["weights"] = _weights_digest(Path(job.weights))
    if job.teacher and job.teacher.weights is not None:
        found["teacher's weights"] = _weights_digest(Path(job.teacher.weights))
    return found


def differences(recorded: Any, wanted: Mapping[str, Any]) -> list[str]:
    """What of a job's settings and `inputs` is not as it was recorded, by name."""
    if not isinstance(recorded, dict):
        return ["settings (its record is damaged)"]
    names = [n for n in wanted if n != "inputs" and wanted[n] != recorded.get(n)]
    before = recorded.get("inputs", {})
    return names + [n for n, digest in wanted["inputs"].items() if digest != before.get(n)]


def content_digest(images: Images) -> str:
    """sha256 (hex) over ids, labels, sizes and classes of a set."""
    columns = [images.table[name].to_pylist() for name in ("image_id", "label", "size")]
    return digest_of([list(images.classes), *columns])


def _weights_digest(path: Path) -> str:
    found = find_weights(path)
    if found.is_file():
        return sha256_file(found)
    files = sorted(p for p in found.rglob("*") if p.is_file())
    return digest_of([[str(p.relative_to(found)), sha256_file(p)] for p in files])
