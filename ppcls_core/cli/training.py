"""One model by itself: training, evaluation, pictures of the augmentation."""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

import typer

from data_catalog.base.config import UserError
from data_catalog.recipes import newest_images
from ppcls_core.cli.common import late, log, tell
from ppcls_core.cli.lazy import OVERRIDE
from ppcls_core.data.augment.gallery import draw_gallery
from ppcls_core.jobs.job import load_job
from ppcls_core.jobs.paddleclas.recipes import near_recipes, recipe_name, recipe_rows, recipe_text
from ppcls_core.jobs.trained import Choice, find_student


@dataclass(frozen=True)
class ConfigOptions:
    """The file, or the recipe's name, of what a command trains or measures."""

    given: Annotated[
        Path | None,
        typer.Argument(
            metavar="CONFIG",
            show_default=False,
            help="YAML, ours or PaddleClas's of 2020, or a name of `ppcls recipe`; for eval also a "
            "recipe of `ssld run`.",
        ),
    ] = None
    config: Annotated[
        Path | None, typer.Option("-c", "--config", help="The same, as PaddleClas is given it.")
    ] = None

    @property
    def path(self) -> Path:
        """The one that was given. Raises UserError: none, or two."""
        if self.given and self.config:
            raise UserError(
                f"got {self.given} and -c {self.config}: give one of them; settings follow -o"
            )
        if found := self.given or self.config:
            return found
        raise UserError("give one CONFIG, a YAML file or the name of a recipe")


Overrides = Annotated[
    list[str] | None, typer.Option(*OVERRIDE, help="a.b=value over it, one or several.")
]


def train(
    config: ConfigOptions,
    overrides: Overrides = None,
    vdl_dir: Annotated[
        Path | None,
        # The second is PaddleClas's spelling.
        typer.Option("--vdl-dir", "--vdl_dir", help="Scalars for VisualDL go here."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="One step on synthetic images; reads no data.")
    ] = False,
) -> None:
    """Train a model; the same command again goes on where a training stopped.

    On several devices: python -m paddle.distributed.launch --nproc_per_node N $(which ppcls) train
    """
    job = load_job(config.path, overrides or [])
    if vdl_dir:
        job = job.model_copy(update={"vdl_dir": str(vdl_dir)})
    late(f"ppcls_core.jobs.train:{'try_out' if dry_run else 'train'}")(job, log)


def evaluate(
    config: ConfigOptions,
    overrides: Overrides = None,
    per_class: Annotated[
        Path | None, typer.Option(help="The accuracy of each class goes here (CSV).")
    ] = None,
) -> None:
    """Measure the accuracy of weights on the validation images of a configuration.

    Of a recipe of `ssld run` those of the student that it exported last.
    """
    if per_class and per_class.is_dir():
        raise UserError(f"--per-class {per_class}: is a folder; give the name of a file")
    choice = Choice(settings=tuple(overrides or ()))
    if student := find_student(str(config.path), choice, tell):
        val = newest_images(student.recipe, "val")
        return late("ppcls_core.jobs.train:evaluate_student")(student, val, log, per_class)
    job = load_job(config.path, overrides or [])
    return late("ppcls_core.jobs.train:evaluate_job")(job, log, per_class)


def recipe(
    name: Annotated[
        str | None, typer.Argument(help="Such as ResNet/ResNet50_vd, or a pattern: 'ResNet/*'.")
    ] = None,
    is_list: Annotated[bool, typer.Option("--list", help="Name the recipes.")] = False,
) -> None:
    """Print one of PaddleClas's training files of 2020, or name them all.

    ppcls recipe ResNet/ResNet50_vd > my.yaml
    ppcls train ResNet/ResNet50_vd
    """
    if name and not is_list and not set(name) & set("*?["):
        return log(recipe_text(recipe_name(name)).rstrip())
    pattern = recipe_name(name or "*").lower()
    names = [known for known in recipe_rows() if fnmatchcase(known.lower(), pattern)]
    if not names:
        raise UserError(f"no recipe matches '{name}'{near_recipes(pattern.strip('*'))}")
    log("\n".join(names))


def augment_gallery(
    image: Annotated[Path, typer.Argument(help="A photograph.")],
    out: Annotated[Path, typer.Option(help="The picture (.png or .jpg).")] = Path("gallery.png"),
    seed: Annotated[int, typer.Option(help="Of the random draws.")] = 0,
) -> None:
    """Draw what each augmentation does to a photograph."""
    draw_gallery(image, out, seed)
    log(f"drawn: {out}")
