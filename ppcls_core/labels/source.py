"""The record of how a store of soft labels was made, beside its shards: enough to repeat it."""

from __future__ import annotations

from pathlib import Path

from data_catalog.base.config import Config, UserError, parse
from data_catalog.base.files import digest_of, read_json, sha256_file, write_json
from ppcls_core.data.augment import VERSION
from ppcls_core.data.views import Views
from ppcls_core.labels.shard import Origin
from ppcls_core.labels.teacher import Teacher

FILE = "source.json"


class Source(Config):
    """The teacher, the images (a manifest and where its roots lie) and their views."""

    teacher: Teacher
    views: Views
    images: Path
    roots: dict[str, str]

    def origin(self) -> Origin:
        """The fingerprints of what the labels depend on, as it is now."""
        return fingerprints(self.teacher, sha256_file(self.teacher.weights), self.views)


def fingerprints(teacher: Teacher, weights: str, views: Views) -> Origin:
    """The origin of labels of `views`; `weights` is the sha256 of the teacher's weights."""
    made_by = [teacher.model.model_dump(mode="json"), teacher.num_classes, weights]
    current = views.model_dump(mode="json") | {"version": VERSION}
    return Origin(digest_of(made_by), digest_of(current))


def write_source(folder: Path, source: Source) -> None:
    """Write `source` beside the shards of `folder`."""
    write_json(folder / FILE, source.model_dump(mode="json"))


def read_source(folder: Path) -> Source:
    """The Source of the shards of `folder`. Raises UserError if it is not there, or damaged."""
    data = read_json(folder / FILE) if (folder / FILE).is_file() else None  # a FIFO would wait
    if not isinstance(data, dict):
        raise UserError(
            f"{folder / FILE}: missing or damaged; give the folder that the label stage (or views) "
            "has written"
        )
    return parse(Source, data, str(folder / FILE))
