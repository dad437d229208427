"""What is downloaded, and what all downloads of a run have in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from dugong.cli.names import Names, disposition_name
from dugong.cli.settings import Settings, TimeLimit
from dugong.cli.tally import Tally
from dugong.client.partname import check_is_no_part, may_be_part
from dugong.errors import HTTPStatusError

if TYPE_CHECKING:
    from dugong.pool.response import Response

__all__ = ["Download", "Fetching", "check_status"]


class Download:
    """A *url*, as the user wrote it, *text*, and the *path* of the file for its body.

    When it has ended, either `error` says why there is no file, or `size` is that of the file in
    bytes, and `path` its path, which a server may have chosen. `large` is set if its body is to be
    streamed. `was_there` is set if an earlier run has completed the file.
    """

    __slots__ = ("error", "large", "path", "size", "text", "url", "was_there")

    def __init__(self, text: str, url: str, path: str, error: str | None = None) -> None:
        self.text: str = text
        self.url: str = url
        self.path: str = path
        self.large: bool = False
        self.was_there: bool = False
        self.size: int = 0
        self.error: str | None = error


class Fetching:
    """What all downloads of a run have in common.

    *method* and *options*, which are those of `Client.request`, are of all requests. With
    *keeps_parts*, what was received of a body goes on in a later run. With *names*, a server names
    the file of its response if it likes to, and no file is replaced then. With *streams_all*, all
    bodies are streamed, however small.
    """

    def __init__(
        self,
        settings: Settings,
        method: str = "GET",
        options: Mapping[str, Any] | None = None,
        *,
        keeps_parts: bool = False,
        names: Names | None = None,
        streams_all: bool = False,
        tally: Tally | None = None,
    ) -> None:
        # None of these changes.
        self.settings = settings
        self.method = method
        self.keeps_parts = keeps_parts
        self.tally: Tally = Tally(None) if tally is None else tally
        self.limit: TimeLimit = TimeLimit(settings.deadline)
        self._options = dict(options or {})
        #: Whether a request has no options, so that it costs the client the least.
        self.is_plain: bool = not self._options and settings.deadline is None
        self.names = names
        #: The directory of temporary files, if bodies go through one to what is no file of its own.
        #: Set before the run begins.
        self.spool: str | None = None
        #: Paths of files of the run that a part could have. The calling thread adds them, the
        #: threads of the streams look: each is one operation that is atomic, without the GIL, too.
        self.wanted: set[str] = set()
        # What is found to be large is asked for twice.
        may_repeat = method in ("GET", "HEAD")
        self.streams_all: bool = streams_all or settings.rate is not None or not may_repeat
        ranges = ("range", "if-range")
        #: Whether the rest of a body may be asked for.
        self.may_continue: bool = method == "GET" and not any(
            name.lower() in ranges for name, _ in settings.headers
        )

    def options(self) -> dict[str, Any]:
        """Return the options of a request that is made now. Raises `ConnectionTimedOut`."""
        return self._options | self.limit.options()

    def expect(self, path: str) -> None:
        """Have no part take the name *path*. Raises FileExistsError if that is one of another file.

        The calling thread calls it before a download to *path* begins.
        """
        if may_be_part(path):
            self.wanted.add(path)  # before it looks: a part takes a name and then looks here
            check_is_no_part(path)

    def names_for(self, response: Response) -> Iterator[str] | None:
        """Return the names that the file of *response* may have, if the server has named it."""
        if self.names is None:
            return None
        field = response.headers["Content-Disposition"]
        name = None if field is None else disposition_name(field)
        return None if name is None else self.names.each(name)


def check_status(response: Response) -> None:
    """Raise `HTTPStatusError` unless *response* is a success."""
    if response.status >= 300:
        raise HTTPStatusError(response)
