"""One assembly of a training: every image is accounted for, and too few readable ones stop it."""

import shutil

import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_catalog.base.config import UserError
from data_catalog.base.files import read_json
from data_catalog.images.columns import Images
from ppcls_core.data.transforms import Preprocess
from ppcls_core.engine.config import FixTraining, LabelTraining
from ppcls_core.engine.evaluator import EvalData
from ppcls_core.engine.objectives import cross_entropy
from ppcls_core.engine.run import HISTORY, Run, train
from ppcls_core.engine.trainer import BEST
from ppcls_core.models.registry import build_model, classifier_parameters
from ppcls_core.models.weights.files import load_state
from ppcls_core.models.weights.state import state_of
from ppcls_core.runtime.monitor import SilentMonitor
from tests.support.images import image_set

SETTINGS = {"epochs": 2, "batch_size": 4, "image_size": 32, "lr": 0.05, "eval_every": 2}
NUM = 12


class Listener(SilentMonitor):
    """Keeps the notes."""

    def __init__(self):
        self.notes = []

    def note(self, message):
        self.notes.append(message)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return image_set(tmp_path_factory.mktemp("good"), NUM)


def network():
    paddle.seed(1)
    return build_model("ResNet18_vd", num_classes=3, spec={"depths": [1, 1, 1, 1], "width": 4})


def run_of(images, val, directory, max_lost=0.1, config=None):
    directory.mkdir(exist_ok=True)
    data = EvalData(val, Preprocess(size=32), 1, max_lost)
    return Run(
        images, data, config or LabelTraining(**SETTINGS), 0, directory, Listener(), save_seconds=0
    )


ROWS = st.sets(st.integers(0, NUM - 1), max_size=NUM)


@settings(max_examples=12, deadline=None)
@given(bad=ROWS, bad_val=ROWS, max_lost=st.sampled_from([0.0, 0.1, 0.5, 1.0]))
def test_every_image_is_read_or_counted_or_stops_the_training(
    tmp_path_factory, bad, bad_val, max_lost
):
    folder = tmp_path_factory.mktemp("some")
    sets = {}
    for name, rows in (("train", bad), ("val", bad_val)):
        (folder / name).mkdir()
        sets[name] = image_set(folder / name, NUM, bad=tuple(rows))
    run = run_of(sets["train"], sets["val"], folder / "out", max_lost)
    few = all(len(r) < NUM and len(r) <= max_lost * NUM for r in (bad, bad_val))
    if not few:
        with pytest.raises(UserError, match=r"could not be used|cannot be read"):
            train(network(), cross_entropy(0.0), run)
        assert not (run.directory / HISTORY).exists()
        return
    trained = train(network(), cross_entropy(0.0), run)
    counts = trained.counts
    # The images of the last, partial batch of an epoch are another few in the next one.
    assert counts["in"] == counts["out"] + counts.get("rejected: truncated", 0) == NUM
    assert counts.get("rejected: truncated", 0) == len(bad)
    assert counts.get("val rejected: truncated", 0) == len(bad_val)
    assert read_json(run.directory / HISTORY) == trained.history
    told = [note for note in run.monitor.notes if "could not be used" in note]
    assert len(told) == bool(bad) + bool(bad_val)
    shutil.rmtree(folder)


def test_files_hold_the_weights_and_the_history(good: Images, tmp_path):
    model, run = network(), run_of(good, good, tmp_path)
    trained = train(model, cross_entropy(0.0), run)
    assert trained.counts == {"in": NUM, "out": NUM}
    assert run.monitor.notes == []
    saved, best = load_state(tmp_path / run.weights), load_state(tmp_path / BEST)
    for name, value in state_of(model).items():
        assert saved[name].tobytes() == best[name].tobytes() == value.tobytes()
    again = train(network(), cross_entropy(0.0), run_of(good, good, tmp_path))
    assert again == trained  # from the checkpoint of its last step


def test_what_is_frozen_does_not_learn(good: Images, tmp_path):
    model = network()
    model.eval()
    learning = {id(parameter) for parameter in classifier_parameters(model)}
    for parameter in model.parameters():
        parameter.stop_gradient = id(parameter) not in learning
    before = state_of(model)
    train(model, cross_entropy(0.0), run_of(good, good, tmp_path, config=FixTraining(**SETTINGS)))
    after = state_of(model)
    changed = [name for name in after if after[name].tobytes() != before[name].tobytes()]
    assert sorted(changed) == ["fc.bias", "fc.weight"]


@pytest.mark.parametrize(
    ("which", "message"),
    [("training", "there are no training images"), ("validation", "there are no validation")],
)
def test_empty_sets_are_errors(good: Images, tmp_path, which, message):
    empty = good.part(0, 0)
    run = run_of(*((empty, good) if which == "training" else (good, empty)), tmp_path)
    with pytest.raises(UserError, match=message):
        train(network(), cross_entropy(0.0), run)
