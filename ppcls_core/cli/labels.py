"""Stored soft labels: the selection from them, and whether they still hold."""

import os
from pathlib import Path
from typing import Annotated

import typer

from data_catalog.base.config import UserError, override, parse
from data_catalog.base.words import counted
from ppcls_core.cli.common import late, log
from ppcls_core.cli.lazy import OVERRIDE
from ppcls_core.labels.select import SelectConfig, select_store
from ppcls_core.labels.shard import open_shards
from ppcls_core.report.model import percent
from ppcls_core.runtime.monitor import SilentMonitor

Folder = Annotated[
    Path, typer.Argument(metavar="STORE", help="Folder of a stage `label` or `views`.")
]


def select(
    store: Folder,
    k: Annotated[int, typer.Option("-k", help="Images a class.")],
    out: Annotated[Path, typer.Option(help="Where the selection goes (Parquet).")],
    p: Annotated[int, typer.Option("-p", help="Classes that an image may serve, its best.")] = 10,
    overrides: Annotated[
        list[str] | None,
        typer.Option(*OVERRIDE, help="min_score=0.1, policy=random, seed=1, fill=true."),
    ] = None,
) -> None:
    """Select the K best images of each class by their soft labels: image_id, class_id, score."""
    if out.suffix != ".parquet":
        raise UserError(f"--out {out}: expected a name that ends in .parquet")
    if (store / "source.json").exists() and not (store / "manifest.json").exists():
        raise UserError(f"{store}: its stage has not finished; run it to the end (ssld run)")
    config = parse(SelectConfig, override({"k": k, "p": p}, overrides or []), "ppcls select")
    found = select_store(store, config, out, SilentMonitor())
    log(f"{found.described(config)}: {out}")


def labels(
    store: Folder,
    check: Annotated[
        bool, typer.Option("--check", help="Label a sample again and compare.")
    ] = False,
    num: Annotated[int, typer.Option(min=1, help="Views in the sample.")] = 256,
) -> None:
    """Say what a store of soft labels holds, and with --check whether the teacher still says so.

    Labels of other weights, preprocessing or augmentation code are refused. Exit status 1 if the
    teacher's class differs in more than 2 % of the sample or the mean KL is above 0.001.
    """
    shards = open_shards(store)
    header, rows = shards[0].header, sum(shard.metadata.num_rows for shard in shards)
    log(
        f"{counted(rows, 'label')} of {counted(header.num_classes, 'class')} in "
        f"{counted(len(shards), 'shard')}; "
        f"encoding {header.encoding}, teacher in {header.precision}"
    )
    if not check:
        return
    drift = late("ppcls_core.labels.labeller:check_labels")(
        store, num, len(os.sched_getaffinity(0))
    )
    log(
        f"{drift.num:,} labelled again: same class {percent(drift.agreement.top1, drift.num)} %, "
        f"mean KL {drift.agreement.kl:.1e}, largest difference of a log-probability "
        f"{drift.largest:.3f}"
    )
    if drift.unreadable:
        log(f"{drift.unreadable:,} of the sample cannot be read any more")
    if not drift.agreement.is_close:
        raise UserError(f"{store}: the teacher answers otherwise now; label again")
