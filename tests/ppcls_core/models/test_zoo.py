"""Choosing among the published models."""

from __future__ import annotations

import pytest

from data_catalog.base.config import UserError
from data_catalog.published import find_published, published_weights
from ppcls_core.models.registry import known_models
from ppcls_core.models.zoo import devices_like, figure, in_order, matching, where
from ppcls_core.report.pareto import COSTS, draw_pareto, pareto_front

UNPUBLISHED = {"CSPResNet50_leaky", "ResNeSt101", "ResNet50_ACNet"}


def names(rows):
    return [row.name for row in rows]


def test_the_table_is_whole():
    rows = published_weights()
    assert len(rows) == 137
    assert {row.arch for row in rows.values()} | UNPUBLISHED == set(known_models())
    assert all(0.4 < row.top1 < 0.9 for row in rows.values() if row.num_classes == 1000)
    assert [row.name for row in rows.values() if row.top1 is None] == ["ResNet50_vd_10w"]
    assert all(row.file.endswith((".pdparams", ".tar")) or row.package for row in rows.values())


def test_what_a_name_stands_for():
    row = published_weights()["MobileNetV3_large_x1_0_ssld"]
    assert (row.arch, row.crop, row.resize_short) == ("MobileNetV3_large_x1_0", 224, 256)
    assert row.interpolation == "linear"
    assert row.url.endswith("/legendary_models/MobileNetV3_large_x1_0_ssld_pretrained.pdparams")
    fix = published_weights()["Fix_ResNet50_vd_ssld_v2"]
    assert (fix.arch, fix.crop, fix.resize_short) == ("ResNet50_vd", 320, 320)
    assert fix.file == "Fix_ResNet50_vd_ssld_v2_pretrained.tar"
    with pytest.raises(UserError, match=r"published as 'ResNet50_ssld': .*did you mean 'ResNet50_"):
        find_published("ResNet50_ssld")
    b5 = published_weights()["EfficientNetB5"]
    assert (b5.crop, b5.resize_short, b5.interpolation) == (456, 488, "cubic")


def test_patterns():
    assert names(matching(["AlexNet", "VGG1?"])) == ["AlexNet", "VGG11", "VGG13", "VGG16", "VGG19"]
    assert len(matching([])) == 137
    with pytest.raises(UserError, match="no model 'resnet50'; did you mean 'ResNet50'"):
        matching(["resnet50"])


def test_series():
    assert len(matching([], ["ResNet"])) == 19
    assert names(matching(["*Net1*"], ["DPN_DenseNet", "Others"]))[0] == "DenseNet121"
    assert sum(len(matching([], [row.series])) > 0 for row in matching([])) == 137
    with pytest.raises(UserError, match="no series 'resnet'; the series are ResNet, Mobile, "):
        matching([], ["resnet"])


def test_latencies_of_a_t4():
    row = find_published("ResNet50_vd")
    latencies = [figure(row, "latency", device) for device in devices_like("t4_fp16")]
    assert latencies == [2.65164, 4.84109, 7.46225, 3.53131, 8.09057, 14.45965]  # the manual's
    assert devices_like("sd855") == ["sd855"]
    known = [row for row in matching([]) if row.t4_fp16_bs8_ms]
    assert len(known) > 120
    assert all((row.t4_fp16_ms or 0) < row.t4_fp16_bs8_ms for row in known)


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
    rows = [row for row in matching([]) if row.top1 and getattr(row, cost) is not None]
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


@pytest.mark.slow
def test_the_picture_is_drawn(tmp_path):
    for suffix, magic in ((".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")):
        draw_pareto(tmp_path / f"p{suffix}", matching([], ["ResNet"]), list(COSTS)[:5])
        assert (tmp_path / f"p{suffix}").read_bytes().startswith(magic)
