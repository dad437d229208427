"""`put`: which file goes where."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dugong.cli.errors import UsageError
from dugong.cli.put import put, url_below
from dugong.cli.settings import Settings
from tests.cli.test_uploads import Store, made
from tests.support.server import ScriptedServer

SETTINGS = Settings(timeout=10)


def test_a_file_goes_to_the_url(tmp_path: Path) -> None:
    store = Store()
    with ScriptedServer(store, repeat=True) as server:
        url = "http://{}:{}/x/y?z".format(*server.address)
        assert put([str(made(tmp_path, "a", 5))], url, SETTINGS) == 0
    assert store.objects == {"/x/y?z": b"aaaaa"}


def test_files_go_below_a_url_that_ends_with_a_slash(tmp_path: Path) -> None:
    store = Store()
    files = [str(made(tmp_path, name, 2)) for name in ("a b", "c%?#ä")]
    with ScriptedServer(store, repeat=True) as server:
        assert put(files, "http://{}:{}/x/".format(*server.address), SETTINGS) == 0
    assert store.objects == {"/x/a%20b": b"aa", "/x/c%25%3F%23%C3%A4": b"cc"}


def test_a_query_stays_behind_the_names(tmp_path: Path) -> None:
    store = Store()
    files = [str(made(tmp_path, name, 2)) for name in ("a", "b")]
    with ScriptedServer(store, repeat=True) as server:
        assert put(files, "http://{}:{}/x/?key=1".format(*server.address), SETTINGS) == 0
        assert put(files[:1], "http://{}:{}/y?dir=z/".format(*server.address), SETTINGS) == 0
    assert store.objects == {"/x/a?key=1": b"aa", "/x/b?key=1": b"bb", "/y?dir=z/": b"aa"}


def test_a_failure_is_status_1(tmp_path: Path) -> None:
    with ScriptedServer(Store({"/a": "500 No"}), repeat=True) as server:
        url = "http://{}:{}/a".format(*server.address)
        settings = SETTINGS._replace(retries=0)
        assert put([str(made(tmp_path, "a", 5))], url, settings) == 1


@pytest.mark.parametrize(
    ("files", "url"),
    [
        (["a", "b"], "http://h/x"),
        (["-"], "http://h/x/"),
        (["a"], "gopher://h/"),
        (["a/x", "b/y", "c/x"], "http://h/x/"),
    ],
)
def test_what_makes_no_sense_is_refused(files: list[str], url: str) -> None:
    with pytest.raises(UsageError):
        put(files, url, SETTINGS)


def test_a_name_that_is_no_text_can_be_in_a_url() -> None:
    assert url_below("http://h/?b", os.fsdecode(b"a/\xff")) == "http://h/a/%FF?b"
