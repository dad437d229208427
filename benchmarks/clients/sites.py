"""The sites that are crawled: all have the same pages, on an address of nginx each.

A page has 2 to 10 KiB of HTML with some 25 links: to the first pages of its site, to the three
below it, to the one above it, to some others, to itself, and to other hosts, which no client
follows. So each link but a few is known already, as on real sites.
"""

from __future__ import annotations

from random import Random

from clients.worker import SITES

#: Pages of a site.
PAGES = 40
#: The connections to a site that each client may have.
CONNECTIONS = 2
#: What a client sends as User-Agent.
AGENT = "benchbot"

ROBOTS = """\
User-agent: *
Disallow: /private/
Disallow: /*?print=
Disallow: /search
Allow: /

User-agent: otherbot
Disallow: /
"""

_WORDS = (
    "page link site crawl queue host path field body head status cache retry wave sea grass".split()
)


def path(number: int) -> str:
    """Return the path of a page; that of the first one is where a crawl begins."""
    return f"/site/{number}.html"


def text(number: int) -> str:
    """Return a page of the sites."""
    random = Random(number)
    below = [page for page in range(3 * number + 1, 3 * number + 4) if page < PAGES]
    others = random.sample(range(PAGES), 6)
    menu = "".join(f'<li class="nav"><a href="{path(n)}">Part {n}</a></li>\n' for n in range(8))
    parts = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>Page {number}</title>\n"
        '<link rel="stylesheet" href="/style.css">\n<script>var a = "<a>" + 1 < 2;</script>\n'
        f'</head>\n<body class="page">\n<ul id="menu">\n{menu}</ul>\n'
        f'<p><a href="{path(max(0, number - 1) // 3)}">Up</a> <a href="#end">End</a></p>\n'
    ]
    parts += [f'<h2><a href="{n}.html" title="Below">Page {n}</a></h2>\n' for n in below]
    parts += [f'<a class="see" href="./{n}.html#s{n}">See {n}</a>\n' for n in others]
    parts += [f'<a href="https://www.example.org/{number}?a=1&amp;b={n}">Out</a>\n' for n in (1, 2)]
    parts.append('<a href="mailto:me@example.org">Mail</a>\n')
    end = '<p id="end">&copy; 2026</p>\n</body>\n</html>\n'
    size = 2048 + number * 7919 % 8192 - len(end) - sum(map(len, parts))
    while size > 0:
        words = " ".join(random.choices(_WORDS, k=40))
        part = (
            f'<p class="text">{words[:80]} <em>{words[80:100]}</em> &amp; {words[100:]}<br></p>\n'
        )
        parts.append(part)
        size -= len(part)
    return "".join(parts) + end


def starts(port: int, count: int) -> list[str]:
    """Return where crawls of *count* pages begin: the first page of each site, on *port*."""
    return [f"http://{address}:{port}{path(0)}" for address in SITES[: count // PAGES]]


def check(received: list[tuple[str, int]], count: int) -> None:
    """Raise an exception unless *count* pages were *received*, each once: their URLs and sizes."""
    if len(dict(received)) != count or len(received) != count:
        raise AssertionError(f"{len(dict(received))} pages of {count}, in {len(received)}")
    for url, size in received:
        number = int(url.rpartition("/")[2].removesuffix(".html"))
        if size != _SIZES[number]:
            raise AssertionError(f"{url} has {_SIZES[number]} bytes, but {size} came")


_SIZES = [len(text(number)) for number in range(PAGES)]
