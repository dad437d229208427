"""`dugong put`: uploads files.

Guarantees: those of the command's --help. Only the calling thread writes to standard output.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dugong.cli import streams
from dugong.cli.errors import UsageError
from dugong.cli.settings import make_client
from dugong.cli.tally import Tally
from dugong.cli.uploads import STANDARD_INPUT, Upload, Uploader
from dugong.cli.url import checked_url

if TYPE_CHECKING:
    from dugong.cli.settings import Settings

__all__ = ["RESPONSE_SIZE", "put", "url_below"]

#: Bytes of a response to an upload that are kept in memory.
RESPONSE_SIZE = 16 * 1024 * 1024


def put(files: Sequence[str], url: str, settings: Settings, method: str = "PUT") -> int:
    """Upload *files* to *url*, or to what is below that; return the exit status.

    Raises `UsageError` if these make no sense, and `streams.StreamError`.
    """
    try:
        url = checked_url(url)
    except ValueError as exc:
        raise UsageError(str(exc)) from exc
    if url.partition("?")[0].endswith("/"):
        if STANDARD_INPUT in files:
            raise UsageError("standard input has no name to append to the URL")
        names = [os.path.basename(file) for file in files]
        name, count = Counter(names).most_common(1)[0]
        if count > 1:
            raise UsageError(f"{count} of the files have the name {streams.printable(name)}")
        pairs = zip(files, names, strict=True)
        uploads = [Upload(file, url_below(url, name)) for file, name in pairs]
    elif len(files) > 1:
        raise UsageError("several files need a URL that ends with a slash")
    else:
        uploads = [Upload(files[0], url)]
    tally = Tally(len(uploads))
    with make_client(settings, RESPONSE_SIZE) as client:
        Uploader(client, settings, tally, method).run(uploads)
    return 1 if tally.failed else 0


def url_below(url: str, path: str) -> str:
    """Return the URL of *path*, the relative path of a file, below *url*.

    The path of that ends with a slash. Its query stays, as one that permits the access has to.
    """
    from urllib.parse import quote

    above, mark, query = url.partition("?")
    return f"{above}{quote(os.fsencode(path))}{mark}{query}"
