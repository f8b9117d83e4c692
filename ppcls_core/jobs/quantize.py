"""A model quantised to int8, also by training with int8's rounding, beside its other precisions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from data_catalog.base.config import UserError
from data_catalog.images.columns import Images
from ppcls_core.inference.export import export
from ppcls_core.inference.inputs import given_images
from ppcls_core.inference.quantize import Calibration, quantize, read_calibration
from ppcls_core.inference.variants import Compared, compare, variants_of, write_compared
from ppcls_core.jobs.job import Job
from ppcls_core.jobs.qat import qat_training, train_aware
from ppcls_core.jobs.train import images_of
from ppcls_core.jobs.trained import Trained
from ppcls_core.runtime.monitor import Monitor

TABLE = "compared.csv"
AWARE = "trained"  # folder of the model after quantisation-aware training


@dataclass(frozen=True)
class Quantization:
    """A model to quantise into the folder `out`, and with which images."""

    trained: Trained
    job: Job | None  # whose images calibrate and compare, unless `calibration` names others
    out: Path
    calibration: Path | None
    num_images: int  # to calibrate with
    epochs: int | None  # of quantisation-aware training, if any
    threads: int


def run(asked: Quantization, monitor: Monitor) -> list[Compared]:
    """Write the exported and the int8 model, and TABLE: the rows returned, one a variant.

    Raises:
        UserError: no images to calibrate with, or a training asked for that the job does not have.
    """
    job, trained = asked.job, asked.trained
    if asked.epochs:
        if job is None:
            raise UserError("--qat: needs a YAML file with a training, and the model given is none")
        qat_training(job, asked.epochs)
    val = images_of(job.val, job.num_classes) if job and job.val else None
    found = _images(asked.calibration, job, monitor)
    images = read_calibration(found, trained.preprocess, asked.num_images, asked.threads)
    monitor.note(_described(images, asked.num_images))
    aware = asked.out / AWARE if asked.epochs else None
    models = {asked.out: trained.network()}
    if aware and job and asked.epochs:
        # Before the inference engine has run, which gives trainings other bits.
        models[aware] = train_aware(trained.network(), job, asked.epochs, monitor)
    for directory, network in models.items():
        export(network, trained.sidecar(), directory)
        quantize(network, images, directory)
    rows = compare(variants_of(asked.out, aware), val, asked.threads)
    write_compared(asked.out / TABLE, rows)
    return rows


def _images(calibration: Path | None, job: Job | None, monitor: Monitor) -> Images:
    """The images to choose from. Raises UserError if there are none."""
    if calibration:
        given = given_images([str(calibration)])
        if given.lost:
            monitor.note(given.lost)
        return given.sets[0][1]
    if job is None or job.train is None:
        raise UserError(
            "no calibration images: give --calibration with a folder or a list of some hundred "
            "images such as the model will see"
        )
    return images_of(job.train, job.num_classes)


def _described(images: Calibration, asked: int) -> str:
    few = f", fewer than the {asked:,} asked for" if images.num_images < asked else ""
    bad = f"; {images.unreadable:,} more could not be read" if images.unreadable else ""
    return f"calibrates with {images.num_images:,} images{few}{bad}"
