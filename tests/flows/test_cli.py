"""What a user types and reads: mistakes are told with file, key and remedy, never a traceback."""

from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from data_catalog.base.config import UserError
from data_catalog.recipes import remember_recipe
from flows import commands
from flows.cli import main
from tasks.recipe import digest_of_recipes, load_recipes
from tasks.run.store import Store
from tests.conftest import TINY


def ssld(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str
) -> tuple[int, str]:
    """(exit status, everything printed) of `ssld words...`."""
    monkeypatch.setattr("sys.argv", ["ssld", *words])
    with pytest.raises(SystemExit) as end:
        main()
    printed = capsys.readouterr()
    return int(end.value.code or 0), printed.out + printed.err


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(TINY.read_text())
    return path


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["selct.k=3"], ["mine.yaml", "unknown setting 'selct'", "did you mean 'select'"]),
        (["select.kk=3"], ["mine.yaml", "unknown setting 'select.kk'", "'select.k'"]),
        (["select.k=0"], ["mine.yaml", "select.k", "greater than 0"]),
        (["distill.batch_size=0"], ["mine.yaml", "distill.batch_size", "greater than 0"]),
        (["distill.lr=fast"], ["mine.yaml", "distill.lr", "'fast'"]),
        (["distill.loss=hinton"], ["mine.yaml", "distill.loss", "'ssld'"]),
        (["student.name=ResNet51_vd"], ["mine.yaml", "student", "ResNet51_vd", "ResNet50_vd"]),
        (["student.spec.widht=8"], ["mine.yaml", "student", "widht", "'width'"]),
        (["data.labelled=clothe"], ["clothe", "clothes"]),
        (["data.labelled=clothes", "data.options.trian=1"], ["clothes", "trian", "'train'"]),
        (["data.labelled=no/such.yaml"], ["data.labelled: ", "such.yaml: no such file"]),
        (["data.labelled=clothing", "data.options={}"], ["clothing", "SSLD_CLOTHING_DIR"]),
        (["teacher.train=null"], ["mine.yaml", "teacher", "weights", "train"]),
        (
            ["teacher.weights=no/such", "teacher.train=null"],
            ["mine.yaml", "teacher.weights", "no/such", "give the path"],
        ),
        (["name"], ["'name'", "a.b=value"]),
        (["name=a/b"], ["mine.yaml", "name"]),
    ],
)
def test_wrong_settings(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    recipe: Path,
    settings: list[str],
    told: list[str],
) -> None:
    monkeypatch.setenv("SSLD_HOME", str(recipe.parent))
    monkeypatch.delenv("SSLD_CLOTHING_DIR", raising=False)
    words = [word for setting in settings for word in ("--set", setting)]
    code, printed = ssld(monkeypatch, capsys, "status", str(recipe), *words)
    assert code == 2
    assert "Traceback" not in printed
    assert all(part in printed for part in told), printed


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["run", "dmo"], ["dmo", "did you mean 'demo'"]),
        (["run", "no/such.yaml"], ["no/such.yaml", "no such file; give the path"]),
        (["run", "demo", "--until", "fix"], ["--until", "--only"]),
        (["run", "demo", "--only", "destill"], ["destill", "did you mean 'distill'"]),
        (["run", "demo", "--only", "fix", "--from", "fix"], ["--only", "--from", "give one"]),
    ],
)
def test_wrong_commands(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    told: list[str],
) -> None:
    code, printed = ssld(monkeypatch, capsys, *words)
    assert code == 2
    assert "Traceback" not in printed
    assert all(part in printed for part in told), printed


def test_a_duplicate_key_in_a_recipe_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], recipe: Path
) -> None:
    recipe.write_text(recipe.read_text() + "\nselect: {k: 9}\n")
    code, printed = ssld(monkeypatch, capsys, "status", str(recipe))
    assert code == 2
    assert "select" in printed
    assert "twice" in printed


def test_status_tells_done_and_stale(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], finished: Path
) -> None:
    home = finished.parent / f"home-of-{finished.name}"
    home.mkdir(exist_ok=True)
    if not (home / "store").exists():
        (home / "store").symlink_to(finished)
    monkeypatch.setenv("SSLD_HOME", str(home))
    code, printed = ssld(monkeypatch, capsys, "status", str(TINY))
    assert code == 0
    assert printed.count("done") == 13
    assert "nothing to do" in printed  # views: no teacher is replayed
    code, printed = ssld(monkeypatch, capsys, "status", str(TINY), "--set", "select.k=2")
    assert code == 0
    assert "select.k: 4 -> 2" in printed
    assert printed.count("stale") == 8  # select and what follows


def test_a_teachers_file_is_opened_only_where_something_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], store: Path
) -> None:
    def check(*_: object) -> None:
        raise UserError("is no ONNX file")

    monkeypatch.setenv("SSLD_HOME", str(store.parent))
    monkeypatch.setattr(commands, "check_teachers", check)
    code, printed = ssld(monkeypatch, capsys, "run", str(TINY))
    assert (code, "nothing was run again" in printed) == (0, True)
    monkeypatch.setattr(commands, "_run_flow", lambda *_: pytest.fail("Prefect has started"))
    code, printed = ssld(monkeypatch, capsys, "run", str(TINY), "--from", "teacher")
    assert (code, "is no ONNX file" in printed) == (2, True)


def test_every_recipe_of_the_project_resolves(monkeypatch: pytest.MonkeyPatch) -> None:
    from data_catalog.recipes import RECIPES
    from tasks.recipe import load_recipe

    paths = sorted(RECIPES.glob("*.yaml"))
    assert {"demo", "clothing"} <= {path.stem for path in paths}
    for path in paths:
        assert load_recipe(path.stem).name == path.stem
        assert yaml.safe_load(path.read_text())


def test_weights_of_other_classes_are_told(tmp_path: Path) -> None:
    from ppcls_core.models.registry import build_model
    from ppcls_core.models.weights.files import save_state
    from ppcls_core.models.weights.state import state_of
    from tests.flows.conftest import run_stages

    spec = {"depths": [1, 1, 1, 1], "width": 4}
    save_state(tmp_path / "w.pdparams", state_of(build_model("ResNet18_vd", spec=spec)))
    settings = [f"teacher.weights={tmp_path / 'w'}", "teacher.train=null"]
    with pytest.raises(UserError, match=r"10 classes of the data set"):
        run_stages(tmp_path / "store", settings, until="teacher")


@pytest.mark.slow
def test_given_weights_are_taken_as_they_are(tmp_path: Path, finished: Path) -> None:
    from tests.flows.conftest import run_stages

    weights = run_stages(finished)[0]["teacher"].path("model.pdparams")
    settings = [f"teacher.weights={weights}", "teacher.train=null"]
    done, _ = run_stages(tmp_path / "store", settings, until="teacher")
    assert done["teacher"].path("model.pdparams").read_bytes() == weights.read_bytes()


def test_batch_larger_than_the_data_is_told(tmp_path: Path) -> None:
    from tests.flows.conftest import run_stages

    with pytest.raises(UserError, match=r"`batch_size` is 64, but there are only 30 images"):
        run_stages(tmp_path, ["teacher.train.batch_size=64"], until="teacher")


def test_a_students_name_leads_to_its_recipe(
    tmp_path: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSLD_HOME", str(tmp_path))
    remember_recipe(str(recipe))
    Store.default().remember("mine-thin", "data", "0" * 64)
    with pytest.raises(UserError, match="is a student of mine; give mine"):
        load_recipes("mine-thin")


def test_a_recipe_that_was_edited_as_its_run_began_is_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    ran = digest_of_recipes(load_recipes(str(TINY), ["seed=1"]))
    (found,) = commands._edited(str(TINY), ["seed=1"], ran)
    assert found.seed == 1
    assert "was edited as this began" in capsys.readouterr().out
    with pytest.raises(UserError, match="was edited again: run again"):
        commands._edited(str(TINY), [], ran)


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("ssld st", {"status"}),
        ("ssld run de", {"demo"}),
        ("ssld run demo --only di", {"distill"}),
        ("ssld run --se", {"--set"}),
    ],
)
def test_shells_complete(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: str,
    offered: set[str],
) -> None:
    monkeypatch.setenv("_SSLD_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
    _, printed = ssld(monkeypatch, capsys)
    assert set(printed.split()) == offered


def test_the_version_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, printed = ssld(monkeypatch, capsys, "--version")
    assert code == 0
    assert printed == f"ssld {version('ssld')}\n"
