"""Selection equals sorting everything, in little memory, however the labels come."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_catalog.base.config import UserError, parse
from ppcls_core.labels.select import SELECTION, SelectConfig, select, select_store
from ppcls_core.labels.shard import Header, Origin, label_table, open_shards, write_labels
from ppcls_core.runtime.monitor import Interrupted, SilentMonitor

ORIGIN = Origin("teacher", "preprocessing")


def write(folder, parts, encoding="int8", k=16):
    """Shards of (ids, logits)."""
    folder.mkdir(exist_ok=True)
    for number, (ids, logits) in enumerate(parts):
        table = label_table(ids, logits, Header(ORIGIN, logits.shape[1], encoding, k=k))
        write_labels(table, folder / f"shard-{number:05}.labels.parquet")
    return folder


def scores_of(logits):
    """(class, float32 probability) of each image, best first, equal ones by class."""
    z = np.asarray(logits, np.float64)
    z = z - z.max(-1, keepdims=True)
    exact = (z - np.log(np.exp(z).sum(-1, keepdims=True))).astype(np.float32)
    scores = np.exp(exact.astype(np.float64)).astype(np.float32)
    return [sorted(enumerate(row), key=lambda item: (-item[1], item[0])) for row in scores]


def full_sort(ids, logits, config):
    """(image_id, class, score) by class, -score, id: each class cut at k."""
    own, others = [], []
    for image_id, ranked in zip(ids, scores_of(logits), strict=True):
        rows = [(image_id, c, score) for c, score in ranked[:16] if score >= config.min_score]
        own += rows[: config.p]
        others += rows[config.p :]
    chosen = []
    for c in range(logits.shape[1]):
        best, more = (
            sorted((row for row in rows if row[1] == c), key=lambda row: (-row[2], row[0]))
            for rows in (own, others)
        )
        best = (best + more if config.fill else best)[: config.k]
        chosen += sorted(best, key=lambda row: (-row[2], row[0]))
    return chosen


def rows_of(selection):
    assert selection.table.schema.equals(SELECTION)
    columns = [selection.table[name].to_pylist() for name in SELECTION.names]
    return [(i, c, np.float32(s)) for i, c, s in zip(*columns, strict=True)]


@st.composite
def labels(draw):
    """(ids, logits) with many ties within an image and among images."""
    num, classes = draw(st.integers(0, 40)), draw(st.integers(1, 20))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    levels = draw(st.sampled_from([1, 2, 4, 1000]))
    logits = rng.integers(0, levels, (num, classes)).astype(np.float32) * (8 / levels)
    ids = [f"{draw(st.sampled_from('aZä'))}{number}" for number in rng.permutation(num)]
    return ids, logits


CONFIGS = st.builds(
    SelectConfig,
    k=st.integers(1, 12),
    p=st.integers(1, 16),
    min_score=st.sampled_from([0.0, 0.05, 0.2, 0.9]),
    fill=st.booleans(),
)


@settings(max_examples=120, deadline=None)
@given(labels(), CONFIGS, st.data())
def test_equals_a_full_sort_whatever_the_shards(tmp_path_factory, labels, config, data):
    ids, logits = labels
    order = np.array(data.draw(st.permutations(range(len(ids)))), np.int64)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(ids)), max_size=5)))
    parts = [([ids[row] for row in part], logits[part]) for part in np.split(order, cuts)]
    shards = open_shards(write(tmp_path_factory.mktemp("labels"), parts))
    found = select(shards, config, SilentMonitor())
    rows = rows_of(found)
    assert rows == full_sort(ids, logits, config)
    assert found.num_offered == len(ids)
    assert found.num_chosen == len({image_id for image_id, _, _ in rows})
    assert found.per_class.tolist() == [
        sum(c == n for _, n, _ in rows) for c in range(logits.shape[1])
    ]


@pytest.mark.parametrize("levels", [1, 3, 10**6])  # heavy ties, some, none
@pytest.mark.parametrize("fill", [False, True])
def test_pruning_many_times_equals_a_full_sort(tmp_path, monkeypatch, levels, fill):
    monkeypatch.setattr("ppcls_core.labels.shard._BATCH_ROWS", 50)
    rng = np.random.default_rng(1)
    logits = rng.integers(0, levels, (3000, 10)).astype(np.float32) * (8 / levels)
    ids = [f"{number:05}" for number in rng.permutation(3000)]
    config = SelectConfig(k=20, p=3, fill=fill)
    found = select(open_shards(write(tmp_path, [(ids, logits)])), config, SilentMonitor())
    assert rows_of(found) == full_sort(ids, logits, config)


def test_memory_is_bounded_also_by_equal_scores(tmp_path, monkeypatch):
    monkeypatch.setattr("ppcls_core.labels.shard._BATCH_ROWS", 50)
    held = []

    def counting(self):
        held.append(sum(part.images.num_rows for part in self._parts))
        return prune(self)

    from ppcls_core.labels.topk import TopK

    prune = TopK._prune
    monkeypatch.setattr(TopK, "_prune", counting)
    ids = [f"{number:05}" for number in range(5000)][::-1]  # each better than all before
    write(tmp_path, [(ids, np.zeros((5000, 4), np.float32))])
    found = select(open_shards(tmp_path), SelectConfig(k=20, p=4), SilentMonitor())
    assert max(held) <= 1.25 * 20 * 4 + 50
    assert rows_of(found) == [(f"{n:05}", c, 0.25) for c in range(4) for n in range(20)]


def test_an_image_may_serve_p_classes_and_no_more(tmp_path):
    write(tmp_path, [(["x"], np.array([[3, 2, 1, 0]], np.float32))])
    for p, classes in ((1, [0]), (2, [0, 1]), (10, [0, 1, 2, 3])):
        found = select(open_shards(tmp_path), SelectConfig(k=9, p=p), SilentMonitor())
        assert found.table["class_id"].to_pylist() == classes


@pytest.mark.parametrize(("min_score", "kept"), [(0.0, 2), (0.49, 2), (0.5, 2), (0.51, 0)])
@pytest.mark.parametrize("fill", [False, True])
def test_least_score_is_kept(tmp_path, min_score, kept, fill):
    write(tmp_path, [(["x"], np.zeros((1, 2), np.float32))])
    config = SelectConfig(k=9, p=1 if fill else 2, min_score=min_score, fill=fill)
    found = select(open_shards(tmp_path), config, SilentMonitor())
    assert found.table["score"].to_pylist() == [0.5] * kept


def test_filling_adds_to_poor_classes_alone(tmp_path):
    """Class 1 is nobody's best; class 0 has enough of its own."""
    rng = np.random.default_rng(0)
    logits = np.stack([np.full(50, 4.0), rng.uniform(0, 3, 50), np.full(50, -9)], 1)
    ids = [f"{n:02}" for n in range(50)]
    shards = open_shards(write(tmp_path, [(ids, logits.astype(np.float32))]))
    plain = select(shards, SelectConfig(k=5, p=1), SilentMonitor())
    filled = select(shards, SelectConfig(k=5, p=1, fill=True), SilentMonitor())
    assert plain.per_class.tolist() == [5, 0, 0]
    assert filled.per_class.tolist() == [5, 5, 5]
    assert rows_of(filled)[:5] == rows_of(plain)
    best = np.argsort(-logits[:, 1])[:5]
    assert filled.table["image_id"].to_pylist()[5:10] == [ids[row] for row in best]


def test_only_the_test_time_view_is_scored(tmp_path):
    header, logits = Header(ORIGIN, 3), np.eye(3, dtype=np.float32)
    table = label_table(["a", "a", "b"], logits, header, ([1, 0, 0], [7, 0, 0]))
    write_labels(table, tmp_path / "shard-00000.labels.parquet")
    found = select(open_shards(tmp_path), SelectConfig(k=1, p=1), SilentMonitor())
    assert [(i, c) for i, c, _ in rows_of(found)] == [("a", 1), ("b", 2)]
    assert found.num_offered == 2


class TestRandom:
    def pool(self, folder, num=400, cuts=(100, 250)):
        rng = np.random.default_rng(5)
        ids = [f"{n:04}" for n in range(num)]
        logits = rng.normal(0, 2, (num, 8)).astype(np.float32)
        order = np.arange(num)
        parts = [([ids[r] for r in part], logits[part]) for part in np.split(order, cuts)]
        return open_shards(write(folder, parts)), ids, logits

    def test_it_takes_as_many_images_each_for_its_best_class(self, tmp_path):
        shards, ids, logits = self.pool(tmp_path)
        best = select(shards, SelectConfig(k=10, p=3), SilentMonitor())
        config = SelectConfig(k=10, p=3, policy="random")
        found = select(shards, config, SilentMonitor())
        rows = rows_of(found)
        assert len(rows) == found.num_chosen == best.num_chosen < len(ids)
        assert len({image_id for image_id, _, _ in rows}) == len(rows)
        ranked = dict(zip(ids, scores_of(logits), strict=True))
        assert all(ranked[image_id][0] == (c, score) for image_id, c, score in rows)
        assert rows == sorted(rows, key=lambda row: (row[1], -row[2], row[0]))
        assert {i for i, _, _ in rows} != {i for i, _, _ in rows_of(best)}
        assert found.described(config) == f"{len(rows)} of 400 images chosen at random"

    def test_the_order_of_shards_does_not_matter_the_seed_does(self, tmp_path):
        shards, _, _ = self.pool(tmp_path)
        configs = [SelectConfig(k=10, policy="random", seed=seed) for seed in (0, 1)]
        first, second = (rows_of(select(shards, c, SilentMonitor())) for c in configs)
        assert rows_of(select(shards[::-1], configs[0], SilentMonitor())) == first
        assert first != second

    def test_every_image_is_equally_likely(self, tmp_path):
        shards, ids, _ = self.pool(tmp_path, 60, (20,))
        drawn: Counter[str] = Counter()
        for seed in range(200):
            config = SelectConfig(k=2, p=1, policy="random", seed=seed)
            found = select(shards, config, SilentMonitor())
            drawn.update(found.table["image_id"].to_pylist())
        share = found.num_chosen / len(ids)
        deviations = [(drawn[i] - 200 * share) / np.sqrt(200 * share * (1 - share)) for i in ids]
        assert np.abs(deviations).max() < 4
        assert np.std(deviations) == pytest.approx(1, abs=0.35)

    def test_the_least_score_counts(self, tmp_path):
        shards, _, logits = self.pool(tmp_path)
        config = SelectConfig(k=400, p=1, min_score=0.8, policy="random")
        found = select(shards, config, SilentMonitor())
        assert found.num_chosen == sum(row[0][1] >= 0.8 for row in scores_of(logits)) > 0
        assert min(found.table["score"].to_pylist()) >= np.float32(0.8)


@pytest.mark.parametrize("policy", ["best", "random"])
def test_nothing_offered_gives_an_empty_table(tmp_path, policy):
    shards = open_shards(write(tmp_path, [([], np.empty((0, 3), np.float32))]))
    found = select(shards, SelectConfig(policy=policy), SilentMonitor())
    assert rows_of(found) == []
    assert found.per_class.tolist() == [0, 0, 0]


def test_the_control_without_the_pool_chooses_nothing(tmp_path):
    write(tmp_path, [(["a", "b"], np.eye(2, 3, dtype=np.float32))])
    found = select(open_shards(tmp_path), SelectConfig(policy="none"), SilentMonitor())
    assert (found.table.num_rows, found.num_chosen, found.num_offered) == (0, 0, 2)


def test_an_image_that_is_labelled_twice_is_told(tmp_path):
    logits = np.eye(3, dtype=np.float32)[:2]
    write(tmp_path, [(["a", "b"], logits), (["b", "c"], logits[::-1])])
    with pytest.raises(UserError, match="image b is labelled twice"):
        select(open_shards(tmp_path), SelectConfig(), SilentMonitor())


def test_p_over_what_the_store_keeps_is_told(tmp_path):
    write(tmp_path, [(["a"], np.zeros((1, 20), np.float32))], "topk", 5)
    with pytest.raises(UserError, match=r"p is 10, but .*only the 5 best"):
        select(open_shards(tmp_path), SelectConfig(), SilentMonitor())
    found = select(open_shards(tmp_path), SelectConfig(p=5), SilentMonitor())
    assert found.table["class_id"].to_pylist() == [0, 1, 2, 3, 4]


def test_it_stops_on_request_and_leaves_no_file(tmp_path):
    write(tmp_path / "labels", [([str(n)], np.zeros((1, 2), np.float32)) for n in range(3)])

    class Stopping(SilentMonitor):
        def progress(self, done, total, unit):
            self.stop_requested = (done, total, unit) == (2, 3, "shards")

    with pytest.raises(Interrupted):
        select_store(tmp_path / "labels", SelectConfig(), tmp_path / "out.parquet", Stopping())
    assert [path.name for path in tmp_path.iterdir()] == ["labels"]


def test_select_store_writes_the_selection(tmp_path):
    ids, logits = ["b", "a"], np.array([[1, 0], [0, 1]], np.float32)
    write(tmp_path / "labels", [(ids, logits)])
    out = tmp_path / "new" / "selection.parquet"
    for _ in range(2):
        found = select_store(tmp_path / "labels", SelectConfig(p=1), out, SilentMonitor())
        assert pq.read_table(out).equals(found.table)
        assert found.described(SelectConfig()) == (
            "2 of 2 images chosen, for 2 places in 2 classes; 2 classes have fewer than 4,000"
        )
    assert [path.name for path in out.parent.iterdir()] == ["selection.parquet"]


def test_a_selection_is_written_as_parquet_alone(tmp_path, ppcls):
    told = ppcls("select", tmp_path, "-k", "3", "--out", tmp_path / "chosen.csv")
    assert told.returncode == 2
    assert "expected a name that ends in .parquet" in told.stderr


def test_what_select_store_cannot_use_is_told(tmp_path):
    out = tmp_path / "out.parquet"
    with pytest.raises(UserError, match="no such folder"):
        select_store(tmp_path / "missing", SelectConfig(), out, SilentMonitor())
    (tmp_path / "other").mkdir()
    pq.write_table(pa.table({"x": [1]}), tmp_path / "other" / "rejected.parquet")
    with pytest.raises(UserError, match="holds no soft labels"):
        select_store(tmp_path / "other", SelectConfig(), out, SilentMonitor())
    folder = write(tmp_path / "labels", [(["a"], np.zeros((1, 2), np.float32))])
    with pytest.raises(UserError, match="is a folder; give the name of a file"):
        select_store(folder, SelectConfig(), tmp_path, SilentMonitor())
    path = folder / "shard-00000.labels.parquet"
    data = bytearray(path.read_bytes())
    data[4:200] = bytes(196)
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"shard-00000.*cannot be read"):
        select_store(folder, SelectConfig(), out, SilentMonitor())
    assert not out.exists()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"k": 0}, "k: .*greater than 0"),
        ({"p": 17}, "p: .*less than or equal to 16"),
        ({"min_score": 1.0}, "min_score"),
        ({"policy": "worst"}, "policy: .*'best', 'random' or 'none'"),
        ({"polcy": "best"}, "did you mean 'policy'"),
    ],
)
def test_settings_out_of_range_are_told(settings, said):
    with pytest.raises(UserError, match=said):
        parse(SelectConfig, settings, "select")
