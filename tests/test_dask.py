"""Requests that the workers of a Dask cluster send."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from typing import Any

import pytest

# Not imported: that would change how exceptions are pickled in all tests.
if importlib.util.find_spec("distributed") is None:
    pytest.skip("distributed is not installed", allow_module_level=True)


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    """What `tests.support.dask_cluster` has seen on a cluster of two processes."""
    command = [sys.executable, "-c", "from tests.support.dask_cluster import main; main()"]
    ran = subprocess.run(command, check=False, capture_output=True, text=True, timeout=100)
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


pytestmark = pytest.mark.timeout(120)


def test_every_request_has_a_result_with_its_index(seen: dict[str, Any]) -> None:
    found = seen["every_request_has_a_result"]
    assert found["indexes"]
    assert found["bodies"]


def test_a_response_has_the_very_request_that_was_given(seen: dict[str, Any]) -> None:
    assert seen["every_request_has_a_result"]["requests"]


def test_one_worker_has_all_requests_of_a_host(seen: dict[str, Any]) -> None:
    assert seen["every_request_has_a_result"]["workers of each host"] == [1]


def test_a_request_that_fails_does_so_in_its_result(seen: dict[str, Any]) -> None:
    assert seen["a_failure_is_a_result"] == {
        "error": "ConnectError",
        "delivery": "UNSENT",
        "request": True,
        "other": 200,
    }


def test_what_another_process_cannot_send_is_refused_behind_what_came_before(
    seen: dict[str, Any],
) -> None:
    found = seen["what_cannot_be_sent_elsewhere"]
    assert found["seen"] == 4
    assert found["never"] == 0
    body, progress, headers, url = found["errors"]
    assert body.startswith("TypeError: the body of a request that a worker sends must be bytes")
    assert progress == "TypeError: a request that a worker sends cannot tell of its progress"
    assert headers.startswith("TypeError: a request that a worker sends must be pickled")
    assert url.startswith("ValueError: invalid URL 'nonsense'")


def test_a_response_that_cannot_be_pickled_is_an_error(seen: dict[str, Any]) -> None:
    assert seen["what_cannot_come_back"].endswith(
        "what has come, a Response, cannot be pickled: not to be pickled"
    )


def test_an_endless_source_is_taken_as_it_is_needed(seen: dict[str, Any]) -> None:
    assert seen["the_source_is_endless"]["some"]
    assert seen["the_source_is_endless"]["taken"]


def test_the_pools_go_with_the_iterator(seen: dict[str, Any]) -> None:
    assert seen["the_source_is_endless"]["plugins"] == 0


def test_what_keeps_a_worker_from_making_its_pool_leaves_none_in_the_others(
    seen: dict[str, Any],
) -> None:
    assert seen["a_worker_cannot_make_its_pool"] == 0


def test_what_is_not_idempotent_is_not_sent_again_when_a_worker_is_lost(
    seen: dict[str, Any],
) -> None:
    found = seen["a_worker_is_lost"]
    assert found["sent"] == 1
    assert found["error"] == "WorkerLost"
    assert found["text"].startswith("the worker that had the request was lost")
    assert found["delivery"] is None


def test_what_is_idempotent_is_sent_by_another_worker(seen: dict[str, Any]) -> None:
    assert seen["a_worker_is_lost"]["others"] == [200] * 7


def test_the_workers_crawl_what_a_frontier_gives_until_all_is_done(seen: dict[str, Any]) -> None:
    found = seen["a_frontier_is_crawled"]
    assert found["statuses"] == [200] * 8
    assert found["left"] == 0
    once = [f"GET /{number}" for number in range(4)]
    assert found["seen"] == {**dict.fromkeys(once, 2), "GET /robots.txt": 2}


def test_the_workers_keep_to_the_crawl_delays_of_the_sites(seen: dict[str, Any]) -> None:
    # Of one host four pages, one after the other; of both at the same time.
    assert seen["a_frontier_is_crawled"]["time"] > 3 * 0.2 * 0.95


def test_the_examples_of_the_page_print_what_they_say(seen: dict[str, Any]) -> None:
    found = seen["the_page_on_clusters"]
    assert found["said"]
    assert found["printed"] == found["said"]


def test_what_makes_no_sense_is_refused_at_the_call(seen: dict[str, Any]) -> None:
    url, shards, pool, key, workers = seen["what_makes_no_sense"]
    assert url.startswith("TypeError: requests must be an iterable")
    assert shards.startswith("ValueError: shards must be at least 1")
    assert pool.startswith("TypeError: pool must be a callable")
    assert key.startswith("TypeError: key must be callable")
    assert workers.startswith("ValueError: the cluster has no workers yet")
