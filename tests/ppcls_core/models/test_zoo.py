"""Choosing among the published models."""

from __future__ import annotations

import pytest

from data_catalog.base.config import UserError
from data_catalog.published import published_weights
from ppcls_core.models.registry import known_models
from ppcls_core.models.zoo import figure, in_order, matching, where
from ppcls_core.report.pareto import COSTS, draw_pareto, pareto_front

UNPUBLISHED = {
    "CSPResNet50_leaky",
    "InceptionV3",
    "RegNetX_4GF",
    "ResNeSt101",
    "ResNeSt50",
    "ResNeSt50_fast_1s1x64d",
    "ResNet50_ACNet",
}


def names(rows):
    return [row.name for row in rows]


def test_the_table_is_whole():
    rows = published_weights()
    assert len(rows) == 132
    assert {row.arch for row in rows.values()} | UNPUBLISHED == set(known_models())
    assert all(0.4 < row.top1 < 0.9 for row in rows.values())
    assert sum(bool(row.url) for row in rows.values()) == 127


def test_what_a_name_stands_for():
    row = published_weights()["MobileNetV3_large_x1_0_ssld"]
    assert (row.arch, row.crop, row.resize_short) == ("MobileNetV3_large_x1_0", 224, 256)
    assert row.interpolation == "linear"
    assert row.url.endswith("/legendary_models/MobileNetV3_large_x1_0_ssld_pretrained.pdparams")
    fix = published_weights()["Fix_ResNet50_vd_ssld_v2"]
    assert (fix.arch, fix.crop, fix.resize_short, fix.url) == ("ResNet50_vd", 320, 320, "")
    b5 = published_weights()["EfficientNetB5"]
    assert (b5.crop, b5.resize_short, b5.interpolation) == (456, 488, "cubic")


def test_patterns():
    assert names(matching(["AlexNet", "VGG1?"])) == ["AlexNet", "VGG11", "VGG13", "VGG16", "VGG19"]
    assert len(matching([])) == 132
    with pytest.raises(UserError, match="no model 'resnet50'; did you mean 'ResNet50'"):
        matching(["resnet50"])


def test_conditions():
    rows = where(matching([]), ["top1>=79", "params < 8"], "t4_fp32")
    assert names(rows) == ["MobileNetV3_large_x1_0_ssld", "EfficientNetB1", "GhostNet_x1_3_ssld"]
    assert names(where(rows, ["latency<3"], "t4_fp32")) == ["MobileNetV3_large_x1_0_ssld"]
    assert "EfficientNetB1" not in names(where(rows, ["latency>0"], "sd855"))  # unknown there


@pytest.mark.parametrize(
    "text", ["top1", "top1=79", "top1>high", "name<3", "colour<3", "top1>1.2.3"]
)
def test_conditions_of_another_form(text):
    with pytest.raises(UserError, match="expected COLUMN<NUMBER"):
        where(matching([]), [text], "t4_fp32")


def test_order():
    assert names(in_order(matching([]), "top1", "t4_fp32"))[0] == "Fix_ResNeXt101_32x48d_wsl"
    by_latency = in_order(matching(["MobileNetV3*"]), "latency", "v100_fp32")
    figures = [figure(row, "latency", "v100_fp32") for row in by_latency]
    known = [value for value in figures if value is not None]
    assert known == sorted(known)
    assert None not in figures[: len(known)]
    assert names(in_order(matching(["VGG*"]), "name", "t4_fp32"))[0] == "VGG11"
    with pytest.raises(UserError, match="no column 'flop'; did you mean 'flops'"):
        in_order(matching([]), "flop", "t4_fp32")


@pytest.mark.parametrize("cost", COSTS)
def test_nothing_beats_the_front(cost):
    rows = [row for row in matching([]) if getattr(row, cost) is not None]
    front = pareto_front(rows, cost)
    for row in rows:
        beaten = any(
            other.top1 >= row.top1
            and getattr(other, cost) <= getattr(row, cost)
            and (other.top1, getattr(other, cost)) != (row.top1, getattr(row, cost))
            for other in rows
        )
        twins = [o for o in front if (o.top1, getattr(o, cost)) == (row.top1, getattr(row, cost))]
        assert beaten != bool(twins)


def test_the_picture_is_drawn(tmp_path):
    for suffix, magic in ((".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")):
        draw_pareto(tmp_path / f"p{suffix}", matching([]), ["mparams"])
        assert (tmp_path / f"p{suffix}").read_bytes().startswith(magic)
