"""Where a file comes from: the stages of the store that led to it, each with all that decided it.

A file is known by its sha256, wherever it lies now: which result of the store has it among its
files. The results that a stage has read are known in the same way, by the digests of its inputs; of
several with the same files that is taken whose key it has recorded. Neither names nor times of
files decide anything.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from data_catalog.base.config import UserError
from data_catalog.base.files import read_json, sha256_file
from data_catalog.images.formats import IMAGE_SUFFIXES
from data_catalog.recipes import near_recipe
from ppcls_core.inference import int8
from ppcls_core.inference.exported import Exported
from ppcls_core.inference.sidecar import FILES, ONNX, WEIGHTS
from tasks.dag import STAGES
from tasks.run.store import MANIFEST, Result, Store, read_result

DERIVED = {*FILES, ONNX, int8.PROGRAM, int8.WEIGHTS, int8.RECORD, int8.COMPARED}
_NUM_NAMED = 3  # files that a message names
_Read = dict[str, dict[str, set[str]]]  # stage -> pattern -> digests that others have read of it


@dataclass(frozen=True)
class Trail:
    """The results that led to some files, in the order of the stages; the last has the files.

    `missing`: stages that some of them have read and whose results the store no longer has.
    `equal`: how many other results of the last stage, or of later ones, have the same files.
    `beside`: files that the last result does not have and that lie with its exported model.
    """

    results: tuple[Result, ...]
    missing: tuple[str, ...]
    equal: int
    beside: tuple[Path, ...] = ()

    @property
    def made_by(self) -> Result:
        """The result that has the files."""
        return self.results[-1]


def trail_of(path: Path, store: Store) -> Trail:
    """The trail of a file, or of a folder whose files are all of one result.

    Where the store does not have the result, a manifest beside the file says what it was made of.
    What was converted or quantised from an exported model (`is_derived`) leads to that model, which
    lies beside it; other files of its folder may be anyone's.
    Of several results with these files that in whose folder they lie is taken, else of the first
    stage that has them the one finished last. Raises UserError: there is no such file, or nothing
    says where it is from.
    """
    files = _files(path)
    try:
        digests = {file: sha256_file(file) for file in files}
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error}); give a file that can") from error
    found = [read_result(files[0].parent), *store.results()]  # the store's of the same key stays
    known = list({result.key: result for result in found if result}.values())
    known = [result for result in known if result.stage in STAGES]
    having = [result for result in known if _has(result, set(digests.values()))]
    having = having or _exported_by(path, known)
    if not having:
        raise UserError(_foreign(path, digests, known, store))
    own = [result for result in having if files[0].resolve().is_relative_to(result.directory)]
    first = min(having, key=lambda result: list(STAGES).index(result.stage))
    made_by = max(own or [one for one in having if one.stage == first.stage], key=_finished)
    results, missing = _upstream(made_by, known)
    beside = tuple(file for file, digest in digests.items() if not _has(made_by, {digest}))
    return Trail((*results, made_by), missing, len(having) - 1, beside)


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    found = sorted(one for one in path.rglob("*") if one.is_file() and one.name != MANIFEST)
    if not found:
        raise UserError(
            f"{path}: no such file or recipe, nor a folder of files; correct the path"
            f"{near_recipe(path)}"
        )
    return found


def _exported_by(path: Path, known: list[Result]) -> list[Result]:
    """The results that have the exported model that lies in the folder of `path`; those that have
    its weights alone where none has all of it, as after another image size."""
    if path.is_file() and not is_derived(path):
        return []
    folder = path.absolute() if path.is_dir() else path.absolute().parent
    for directory in (folder, *[folder.parent] * (folder.name == int8.AWARE)):
        try:
            Exported(directory)  # whole, so that what it was made of is what its digest says
        except (UserError, OSError):
            continue
        digests = {name: sha256_file(directory / name) for name in FILES}
        for wanted in (set(digests.values()), {digests[WEIGHTS]}):
            if having := [result for result in known if _has(result, wanted)]:
                return having
    return []


def is_derived(file: Path) -> bool:
    """Whether commands write a file of this name from an exported model, beside it."""
    return file.name in DERIVED


def _has(result: Result, digests: set[str]) -> bool:
    return digests <= {entry.sha256 for entry in result.files.values()}


def _finished(result: Result) -> str:
    return result.record["finished"]


def _foreign(path: Path, digests: Mapping[Path, str], known: list[Result], store: Store) -> str:
    """A sentence about files of which no one result has all."""
    if not known:
        return f"{store.root}: holds no result; set SSLD_HOME to the folder that has them"
    if path.name.lower().endswith(IMAGE_SUFFIXES):
        return (
            f"{path}: no stage has made this photograph; give what one has made: weights, an "
            "exported model, a list of images"
        )
    strange = [
        file for file, digest in digests.items() if not any(_has(r, {digest}) for r in known)
    ]
    if not strange:
        return f"{path}: its files are of several results; give one of them, or the folder of one"
    names = ", ".join(file.name for file in strange[:_NUM_NAMED])
    first = digests[strange[0]]
    return (
        f"{path}: no result of {store.root} has {names} (sha256 {first[:12]}...): it was made "
        "elsewhere, altered, its result was removed, or it is an exported baseline, which no stage "
        "makes; set SSLD_HOME to the folder of the store that made it"
    )


def _upstream(made_by: Result, known: list[Result]) -> tuple[list[Result], tuple[str, ...]]:
    """(the results that led to `made_by`, by stage; stages whose results are not there)."""
    by_stage = defaultdict[str, list[Result]](list)
    for result in known:
        by_stage[result.stage].append(result)
    read, found, missing = _Read(), list[Result](), list[str]()
    keys = set(_keys_read(made_by))
    _note_inputs(made_by, read)
    for stage in reversed(STAGES):
        if stage not in read:
            continue
        fitting = [result for result in by_stage[stage] if _gives(result, read[stage])]
        if fitting:  # of equal ones that which was read, else one made of what others have read
            own = [r for r in fitting if r.key in keys]
            equal = own or [r for r in fitting if _agrees(r, read)] or fitting
            found.append(min(equal, key=_finished) if own else max(equal, key=_finished))
            _note_inputs(found[-1], read)
            keys.update(_keys_read(found[-1]))
        else:
            missing.append(stage)
    return found[::-1], tuple(missing[::-1])


def _keys_read(result: Result) -> Iterable[str]:
    return result.record.get("read", {}).values()  # which results did not always record


def _note_inputs(result: Result, read: _Read) -> None:
    for name, digest in _inside(result).items():
        stage, _, pattern = name.partition("/")
        read.setdefault(stage, {}).setdefault(pattern, set()).add(digest)


def _gives(result: Result, wanted: Mapping[str, set[str]]) -> bool:
    """Whether the files of `result` have the digests that others have read."""
    has_them = all("*" in pattern or pattern in result.files for pattern in wanted)
    return has_them and all({result.digest_of(p)} == digests for p, digests in wanted.items())


def _agrees(result: Result, read: _Read) -> bool:
    """Whether `result` was made of nothing else than what others have read of the same stages."""
    for name, digest in _inside(result).items():
        stage, _, pattern = name.partition("/")
        if not read.get(stage, {}).get(pattern, {digest}) <= {digest}:
            return False
    return True


def _inside(result: Result) -> dict[str, str]:
    return {n: d for n, d in result.inputs.items() if n.partition("/")[0] in STAGES}


def outside(result: Result) -> dict[str, str]:
    """Digests of what the result was made of that is in no store: data sets, given weights."""
    return {n: d for n, d in result.inputs.items() if n not in _inside(result)}


def damages(trail: Trail) -> Iterator[tuple[str, str]]:
    """(stage, a sentence) of each file of the trail that is not as it was when it was made."""
    for result in trail.results:
        manifest = read_json(result.path(MANIFEST))
        if manifest["digest"] != result.digest:
            yield result.stage, f"{MANIFEST} was altered"
        yield from ((result.stage, damage) for damage in result.damages(deep=True))
