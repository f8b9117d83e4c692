"""The int8 model that `quantize` leaves in an exported folder, beside the float one.

int8.pdmodel (program) and int8.pdiparams (weights), both of Paddle 2's format: of Paddle 3's the
engine overlooks the quantisation. int8.json says what they belong to.
"""

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from data_catalog.base.config import Config, UserError
from data_catalog.base.files import digest_of, sha256_file, write_bytes
from ppcls_core.inference import sidecar
from ppcls_core.runtime.processor import processor_words

PROGRAM, WEIGHTS, RECORD = "int8.pdmodel", "int8.pdiparams", "int8.json"
COMPARED = "compared.csv"  # its accuracy, size and latency beside those of the float model
AWARE = "trained"  # folder in the exported one: the model after quantisation-aware training
OPERATORS = frozenset({"conv2d", "depthwise_conv2d", "fused_conv2d", "fc"})
"""Operations that the engine computes in int8. Of its others oneDNN cannot pool small maps, and the
rest gain nothing."""


def lacks_vnni() -> bool:
    """Whether oneDNN computes int8 less exactly on this processor, one with AVX2 and without VNNI,
    where that is known: sums of two products are then cut off at 16 bits."""
    words = processor_words()
    return "avx2" in words and not any(word.endswith("vnni") for word in words)


class Record(Config):
    """Where an int8 model comes from."""

    digest: str
    """Digest of its own two files and of the float model's two."""
    num_images: int
    """That it was calibrated with."""


def write_record(directory: Path, num_images: int) -> None:
    """Write RECORD into `directory`, beside the files that it is of, atomically."""
    record = Record(digest=_digest(directory), num_images=num_images)
    write_bytes(directory / RECORD, record.model_dump_json(indent=1).encode())


def int8_files(directory: Path) -> tuple[Path, Path]:
    """Program and weights of the int8 model in `directory`. Raises UserError: there is none, or it
    is not that of the exported model there."""
    missing = [x for x in (RECORD, PROGRAM, WEIGHTS) if not (directory / x).is_file()]
    if missing:
        raise UserError(
            f"{directory}: has no {missing[0]}; expected a folder written by `ppcls quantize`: "
            "`ppcls quantize NAME --out int8`, of a model's or recipe's name, then `ppcls predict "
            "int8 IMAGES --precision int8`"
        )
    try:
        record = Record.model_validate_json((directory / RECORD).read_bytes())
    except ValidationError:
        record = None
    if record is None or record.digest != _digest(directory):
        raise UserError(
            f"{directory}: {PROGRAM} and {WEIGHTS} do not belong to the exported model there; "
            "quantise it again"
        )
    return directory / PROGRAM, directory / WEIGHTS


def _digest(directory: Path) -> str:
    names = (PROGRAM, WEIGHTS, sidecar.PROGRAM, sidecar.WEIGHTS)
    return digest_of([sha256_file(directory / name) for name in names])


@contextmanager
def quiet() -> Generator[None]:
    """Hide what is written to standard error: Paddle reports each pass there, partly from C++."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
