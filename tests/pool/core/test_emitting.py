"""Events: where they are heard, and what becomes of a listener that fails."""

from __future__ import annotations

import logging
import threading

import pytest

from dugong import Event
from dugong.pool.core.core import PoolCore
from dugong.pool.core.emitting import emit, emit_of
from tests.support.parts import finish, make_core, make_host, make_job


def test_events_are_heard_in_a_thread_of_the_pool() -> None:
    heard: list[tuple[Event, str]] = []
    core = make_core(lambda event: heard.append((event, threading.current_thread().name)))
    host = make_host()
    job = make_job(host)
    with core.transaction():
        emit_of(core, "sent", job, "host:80-1", "why")
        emit(core, "closed", host)
        assert heard == []
    finish(core)
    (first, where), (second, _) = heard
    assert where == "dugong-callbacks"
    assert first[2:] == ("http://host", "host:80-1", job.request, "why", None, None, 0, None)
    assert second[2:] == ("http://host", "", None, "", None, None, 0, None)
    assert [first.kind, second.kind] == ["sent", "closed"]
    assert first.when > 1e9


def test_without_a_listener_there_are_no_events(core: PoolCore) -> None:
    with core.transaction():
        emit(core, "closed", make_host())
        assert not core.has_follow_ups


def test_a_thread_that_is_about_to_wait_has_to_see_to_events_first() -> None:
    core = make_core(lambda event: None)
    with core.transaction():
        emit(core, "closed", make_host())
        assert core.has_follow_ups
    finish(core)


@pytest.mark.parametrize("kind", [ValueError, SystemExit])
def test_a_listener_that_fails_is_logged_and_heard_again(
    kind: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[str] = []

    def listen(event: Event) -> None:
        heard.append(event.kind)
        raise kind("listener")

    core = make_core(listen)
    for event in ("opened", "closed"):
        with core.transaction():
            emit(core, event, make_host())  # type: ignore[arg-type]
    finish(core)
    assert heard == ["opened", "closed"]
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    assert caplog.records[0].getMessage() == "on_event has failed for: opened http://host"
