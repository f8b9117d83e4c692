"""`ppcls`: the command line of the models."""

from ppcls_core.cli.lazy import lazy_app
from ppcls_core.runtime.terminal import run_app

COMMANDS = {
    "models": "ppcls_core.cli.zoo:models",
    "download": "ppcls_core.cli.zoo:download",
    "benchmark": "ppcls_core.cli.zoo:benchmark",
    "convert": "ppcls_core.cli.zoo:convert",
    "doctor": "ppcls_core.cli.doctor:doctor",
    "train": "ppcls_core.cli.training:train",
    "eval": "ppcls_core.cli.training:evaluate",
    "recipe": "ppcls_core.cli.training:recipe",
    "data": "ppcls_core.cli.data:data",
    "search": "ppcls_core.cli.search:search",
    "augment-gallery": "ppcls_core.cli.training:augment_gallery",
    "dedup": "ppcls_core.cli.dedup:dedup",
    "select": "ppcls_core.cli.labels:select",
    "labels": "ppcls_core.cli.labels:labels",
    "export": "ppcls_core.cli.export:export",
    "export-serving": "ppcls_core.cli.export:export_serving",
    "predict": "ppcls_core.cli.predict:predict",
    "infer": "ppcls_core.cli.predict:infer",
    "py-infer": "ppcls_core.cli.predict:py_infer",
    "serve": "ppcls_core.cli.serve:serve",
    "client": "ppcls_core.cli.serve:client",
    "quantize": "ppcls_core.cli.export:quantize",
    "export-lite": "ppcls_core.cli.export:export_lite",
    "lite-benchmark": "ppcls_core.cli.export:lite_benchmark",
}
HELP = "Models: what there is, what it costs, training, evaluation, duplicates, soft labels, use."

app = lazy_app(HELP, COMMANDS)


def main() -> None:
    """Entry point of `ppcls`."""
    run_app(app)


if __name__ == "__main__":
    main()
