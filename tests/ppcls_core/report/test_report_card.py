"""The model card says what is known, whatever the names hold."""

import re

from ppcls_core.data.transforms import Preprocess
from ppcls_core.inference.sidecar import Sidecar
from ppcls_core.report.card import DataRow, ProvenanceRow, model_card
from ppcls_core.report.model import AccuracyRow, CountRow, Headline, PlantedRow, Report

ROWS = (
    AccuracyRow("baseline", "ResNet18_vd", 48, 0.5, 0.9, 200, None, 1_234_567),
    AccuracyRow("fix", "ResNet18_vd", 64, 0.6, 0.95, 200, 10.0, 1_234_567, (2.0, 18.0)),
)


def card(classes=("cat", "dog"), **fields):
    report = Report(title="demo", created_utc="2026-01-01 00:00", accuracies=ROWS, **fields)
    sidecar = Sidecar(
        architecture="ResNet18_vd", classes=classes, preprocess=Preprocess(size=64, short=73)
    )
    data = [DataRow("train", 1280, "ab" * 32)]
    stages = [ProvenanceRow("label", "k" * 20, "d" * 64, 1.25)]
    return model_card(report, sidecar, data, "The teacher was given.", stages)


def test_it_names_accuracy_data_teacher_and_provenance():
    text = card(
        headline=Headline(top1=0.6, gain=10.0),
        reconciliation=(CountRow("dedup", 1000, 900, 60, 40),),
        canaries=(PlantedRow("jpeg30", 9, 10), PlantedRow("mirror", 10, 10)),
        versions={"numpy": "2.4"},
        settings_yaml="seed: 0\n",
    )
    rows = [line for line in text.splitlines() if "ResNet18\\_vd |" in line]
    assert rows == [
        "| baseline | ResNet18\\_vd | 48 | 50.0 | 43.1 to 56.9 |  |  | 1,234,567 |",
        "| fix | ResNet18\\_vd | 64 | 60.0 | 53.1 to 66.5 | +10.0 | +2.0 to +18.0 | 1,234,567 |",
    ]
    assert "| train | 1,280 | `" + "ab" * 32 + "` |" in text
    assert "Of 1,000 pool images 60 showed a validation image and were removed" in text
    assert "to test the search, it found 19" in text
    assert "The teacher was given." in text
    assert f"| label | `{'k' * 20}` | `{'d' * 64}` | 1.2 |" in text
    assert text.endswith("```yaml\nseed: 0\n```")


def test_names_cannot_break_out_of_it():
    text = card(classes=("a|b", "<script>", "`x`\n# y", *map(str, range(100))))
    assert r"a\|b, \<script\>, \`x\` \# y, 0, 1" in text
    assert "…" in text
    assert "99" not in text


def test_a_top5_is_told_where_it_can_be_wrong():
    assert "top-5" not in card(classes=tuple("abcde"))
    assert "| 53.1 to 66.5 | 95.0 |" in card(classes=tuple("abcdef"))


def test_without_a_pool_it_speaks_of_none():
    text = card(headline=Headline(0.6, images_labelled=54, has_pool=False), too_few_features=3)
    assert "it learnt from 54 labelled images alone, without a pool" in text
    assert "There was no pool" in text
    assert "pool image" not in text
    assert "kept image" not in text


def test_every_table_row_has_as_many_cells_as_its_head():
    for table in re.findall(r"(?:^\|.*\n)+", card(tuple("abcdef")), re.MULTILINE):
        assert len({line.count(" | ") for line in table.splitlines() if "---" not in line}) == 1
