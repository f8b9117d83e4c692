"""The hashes of the code of all stages, as they were acknowledged, beside the stages' versions.

python -m tests.support.stage_sources    acknowledges the code as it is (make acknowledge)
"""

from pathlib import Path

from data_catalog.base.files import read_json, write_json
from tasks.dag import STAGES
from tasks.run.source import source_hash

FILE = Path(__file__).resolve().parents[1] / "golden" / "stage_sources.json"


def current() -> dict[str, dict[str, object]]:
    """{stage: {version, hash}} of the code as it is."""
    return {
        name: {"version": stage.version, "hash": source_hash(stage.module)}
        for name, stage in STAGES.items()
    }


def recorded() -> dict[str, dict[str, object]]:
    """{stage: {version, hash}} as acknowledged."""
    return read_json(FILE) or {}


if __name__ == "__main__":
    write_json(FILE, current())
