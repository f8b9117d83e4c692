import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_catalog.base.errors import UserError
from data_catalog.base.files import (
    LockHeld,
    atomic_path,
    digest_of,
    locked,
    read_json,
    sha256_file,
    user_folder,
    write_bytes,
    write_json,
)
from tests.conftest import PROJECT

JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


def test_whole_or_absent(tmp_path):
    path = tmp_path / "deep" / "er" / "file"
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError
    assert list(path.parent.iterdir()) == []
    write_bytes(path, b"whole")
    assert path.read_bytes() == b"whole"


def test_old_content_stays_until_the_new_is_complete(tmp_path):
    path = tmp_path / "file"
    write_bytes(path, b"old")
    with pytest.raises(KeyboardInterrupt), atomic_path(path) as temporary:
        temporary.write_bytes(b"new")
        assert path.read_bytes() == b"old"
        assert temporary.name.startswith(".tmp-")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_json_round_trip_and_readable_text(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"name": "Müller", "n": [1, 2.5, None]})
    assert read_json(path) == {"name": "Müller", "n": [1, 2.5, None]}
    assert "Müller" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff\xfe"])
def test_unreadable_json_is_none(tmp_path, content):
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    assert read_json(path) is None


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=4), JSON, max_size=5))
def test_digest_ignores_key_order_and_survives_json(value):
    backwards = dict(reversed(value.items()))
    assert digest_of(value) == digest_of(backwards) == digest_of(json.loads(json.dumps(value)))


def test_digest_tells_values_apart():
    values = [1, "1", [1], {"a": 1}, {"a": [1]}, None, "ä", True]
    assert len({digest_of(v) for v in values}) == len(values)


def test_sha256_file(tmp_path):
    data = bytes(range(256)) * 5000
    (tmp_path / "f").write_bytes(data)
    assert sha256_file(tmp_path / "f") == hashlib.sha256(data).hexdigest()


HOLDER = """
import sys, time
from pathlib import Path
from data_catalog.base.files import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(100)
"""


def test_a_lock_is_its_holders_until_it_is_killed(tmp_path):
    path = tmp_path / "folder" / "lock"
    command = [sys.executable, "-c", HOLDER, str(path)]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as holder:
        assert holder.stdout.readline() == b"locked\n"
        for _ in range(2):
            with pytest.raises(LockHeld, match=f"^{holder.pid}$"), locked(path):
                pass
        holder.kill()
    with locked(path), pytest.raises(LockHeld, match=f"^{os.getpid()}$"), locked(path):
        pass
    with locked(path, wait=True):
        pass


def test_a_folder_of_the_users_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert user_folder("XDG_DATA_HOME", ".local/share") == tmp_path / "ssld"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_folder("XDG_DATA_HOME", ".local/share") == tmp_path / ".local" / "share" / "ssld"


def test_without_a_home_the_remedy_is_told(monkeypatch):
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setattr(Path, "home", nowhere)
    with pytest.raises(UserError, match="set SSLD_HOME"):
        user_folder("XDG_DATA_HOME", ".local/share")
