"""A request body that goes piece by piece, of which a test sees when it is released."""

from __future__ import annotations

from typing import Any, cast

from dugong.pool.core.job import Job, Upload

__all__ = ["releases", "upload"]


class Body:
    """Stands for a `RequestBody`."""

    def __init__(self, rewindable: bool = True) -> None:
        self.rewindable = rewindable
        self.released = 0
        self.interrupted = 0

    def interrupt(self) -> None:
        self.interrupted += 1

    def release(self) -> None:
        self.released += 1


def upload(rewindable: bool = True, expect100: bool = False) -> Upload:
    return Upload(cast(Any, Body(rewindable)), expect100)


def interrupts(job: Job) -> int:
    """Return how often what waits for the body of *job* was told that its connection is gone."""
    assert job.extras.upload is not None
    return cast(Body, job.extras.upload.body).interrupted


def releases(job: Job) -> int:
    """Return how often the body of *job* was given back."""
    assert job.extras.upload is not None
    body = cast(Body, job.extras.upload.body)
    return body.released
