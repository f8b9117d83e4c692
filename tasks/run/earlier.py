"""Earlier results of a stage, whose work a run under another key need not do again."""

from collections.abc import Iterator

from data_catalog.recipes import MANIFEST
from tasks.run.source import source_hash
from tasks.run.stage import Work
from tasks.run.store import Result, read_result


def earlier_results(work: Work, module: str) -> Iterator[Result]:
    """The undamaged results of the stage, which `module` defines, under other keys, made by the
    code as it is now."""
    for manifest in sorted(work.directory.parent.glob(f"*/{MANIFEST}")):
        other = read_result(manifest.parent)
        if other is None or other.key == work.key or not is_current(other, module):
            continue
        if not any(other.damages()):
            yield other


def is_current(result: Result, module: str) -> bool:
    """Whether `module`, which defines its stage, and all that it reaches are as they were."""
    return result.record["source"] == source_hash(module)
