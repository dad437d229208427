"""The sites of the crawl soak: which pages they have, and the bytes of each response.

Guarantees: all of it follows from a seed and some sizes, so the process that serves the sites and
the one that judges the crawl have the same. The number of links that lead to a page is the same by
all ways to it, but in a trap; so it does not matter in which order a crawler finds them. Touches
nothing.

Each site is an address of its own, from 127.0.0.10 on, with the same port. What there is:

    "normal"   a tree of pages, some traps (redirects without an end are one), and pages that cannot
               be fetched; its robots.txt is one of five kinds
    "slow"     the same with few pages, and a long crawl delay
    "endless"  each page has links to four new ones with session ids; only the limit of pages ends
               that
    "closed"   has a robots.txt that is a 503 for ever
    "dead"     does not listen
"""

from __future__ import annotations

import gzip
import zlib
from functools import cache
from hashlib import blake2b, shake_128
from typing import Literal, NamedTuple

__all__ = [
    "AGENT",
    "DEPTH",
    "HOPS",
    "INTERVAL",
    "STRANGER",
    "Fault",
    "Outcome",
    "Page",
    "Site",
    "Web",
    "host_of",
]

AGENT = "soakbot"
DEPTH = 8  # links to a page, at most
HOPS = 20  # redirects in a row, at most
INTERVAL = 0.01  # seconds between two requests to a site that asks for no more
STRANGER = "127.9.9.9"  # an address that is no site, and linked to
_WIDTH = 5  # links to new pages
_HTML = ("Content-Type", "text/html; charset=utf-8")
# Pages that one site in 16 has: the crawler takes a lot of memory for a page that is too large, and
# its --timeout for one that does not come.
_RARE = {"/bad/endless": 2, "/bad/bomb": 3, "/bad/stall": 5}
_TOO_LARGE = 40 * 1024 * 1024  # bytes, of which the crawler takes 32 MiB

Role = Literal["normal", "slow", "endless", "closed", "dead"]

#: What becomes of a page: its line is printed and its response archived ("page"); it fails, and its
#: response is archived ("unusable") or not ("failed"); or it waits for a later run ("waits").
Outcome = Literal["page", "unusable", "failed", "waits"]

#: What is wrong with the first responses to a request: 500, 503 and 429 are statuses.
Fault = Literal["reset", "close", "cut", "cut and reset", "500", "503", "429"]


class Page(NamedTuple):
    """A target, and the response to it.

    *wire* are the bytes of the response, *size* is that of its body when it is decoded. *links* are
    the URLs that it leads to. *manner* says how the bytes are sent.
    """

    wire: bytes
    status: int = 200
    size: int = 0
    links: tuple[str, ...] = ()
    outcome: Outcome = "page"
    manner: Literal["whole", "hints", "drip", "close", "stall", "cut", "endless"] = "whole"

    @property
    def is_redirect(self) -> bool:
        """Whether it leads elsewhere by its status."""
        return 300 <= self.status < 400


def host_of(number: int) -> str:
    """Return the address of site *number*."""
    return f"127.0.0.{10 + number}"


def _dice(*what: object) -> int:
    """Return a number that is random, and always the same for *what*."""
    return int.from_bytes(blake2b(repr(what).encode(), digest_size=6).digest())


def _filler(size: int, *what: object) -> str:
    return shake_128(repr(what).encode()).hexdigest(size // 2)


def _chunked(body: bytes, size: int) -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x;n=1\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + (
        b"0\r\nX-Trailer: 1\r\n\r\n"
    )


def _message(status: str, body: bytes, *fields: tuple[str, str], length: bool = True) -> bytes:
    all_fields = [*fields, ("Content-Length", str(len(body)))] if length else fields
    head = "".join(f"{name}: {value}\r\n" for name, value in all_fields)
    return f"HTTP/1.1 {status}\r\nServer: soak\r\n{head}\r\n".encode() + body


@cache
def _bomb() -> bytes:
    packer = zlib.compressobj(9, wbits=31)
    return b"".join(packer.compress(bytes(2**20)) for _ in range(64)) + packer.flush()


#: Pages that cannot be fetched, by their targets: "/bad/malformed", and so on. Of the last ones,
#: not all bytes are here: see *manner*.
@cache
def _bad_pages() -> dict[str, Page]:
    text = b"<html><a href='/unlinked'>no link of a page that has failed</a>" * 20
    packed = gzip.compress(text, mtime=0)
    coding = ("Content-Encoding", "gzip")
    chunks = ("Transfer-Encoding", "chunked")
    pages = {
        "malformed": Page(b"nonsense\r\n\r\n", outcome="failed"),
        "version": Page(b"HTTP/9.9 200 OK\r\nContent-Length: 0\r\n\r\n", outcome="failed"),
        "lengths": Page(_message("200 OK", text, _HTML, ("Content-Length", "3")), outcome="failed"),
        "chunk": Page(
            _message("200 OK", b"5\r\nabcde\r\nxyz\r\n", _HTML, chunks, length=False),
            outcome="failed",
        ),
        "head": Page(_message("200 OK", b"", ("X-Large", "x" * 200_000)), outcome="failed"),
        "huge": Page(
            _message("200 OK", b"", _HTML, ("Content-Length", str(_TOO_LARGE)), length=False),
            outcome="failed",
            manner="endless",
        ),
        "endless": Page(
            _message("200 OK", b"", _HTML, chunks, length=False),
            outcome="failed",
            manner="endless",
        ),
        "bomb": Page(_message("200 OK", _bomb(), _HTML, coding), outcome="unusable"),
        "crc": Page(
            _message("200 OK", packed[:-8] + bytes(4) + packed[-4:], _HTML, coding),
            outcome="unusable",
        ),
        "short": Page(_message("200 OK", packed[:-20], _HTML, coding), outcome="unusable"),
        "more": Page(_message("200 OK", packed + b"more", _HTML, coding), outcome="unusable"),
        "cut": Page(_message("200 OK", text, _HTML)[:-10], outcome="waits", manner="cut"),
        "stall": Page(_message("200 OK", text, _HTML)[:-10], outcome="waits", manner="stall"),
    }
    return {f"/bad/{name}": page for name, page in pages.items()}


class Site:
    """Site *number* of a *web*, with a tree of *size* pages."""

    def __init__(self, web: Web, number: int, role: Role, size: int) -> None:
        self.web = web
        self.number = number
        self.role = role
        self.size = size
        self.origin = f"http://{host_of(number)}:{web.port}"
        self.kind_of_robots = number % 5
        #: Seconds that its robots.txt asks for; or None.
        self.crawl_delay: float | None = None
        if role == "slow":
            self.crawl_delay = web.slow
        elif role == "normal" and self.kind_of_robots == 0:
            self.crawl_delay = 0.1
        self.bad = {
            target: page
            for n, (target, page) in enumerate(_bad_pages().items())
            if role in ("normal", "slow")
            and number % 16 == _RARE.get(target, number % 16)
            and (target in _RARE or role == "slow" or (number + n) % 4 == 0)
        }
        self.robots = self._robots()

    # --- rules ------------------------------------------------------------------------------------

    def _robots(self) -> dict[str, Page]:
        """Return the robots.txt, and where it leads to."""
        delay = f"Crawl-delay: {self.crawl_delay}\n" if self.crawl_delay else ""
        rules = (
            f"User-agent: *\nDisallow: /\n\nUser-agent: {AGENT}\nDisallow: /private/\n{delay}"
            "Disallow: /*.secret$\nAllow: /private/open\n"
        ).encode()
        plain = ("Content-Type", "text/plain")
        if self.role == "closed":
            return {"/robots.txt": Page(_message("503 Busy", b"busy"))}
        if self.role != "normal" or self.kind_of_robots in (0, 4):
            return {"/robots.txt": Page(_message("200 OK", b"\xef\xbb\xbf" + rules, plain))}
        if self.kind_of_robots == 1:
            moved = _message("302 Found", b"", ("Location", "/rules/robots"))
            return {"/robots.txt": Page(moved), "/rules/robots": Page(_message("200 OK", rules))}
        if self.kind_of_robots == 2:
            return {"/robots.txt": Page(_message("404 Not Found", rules))}
        packed = gzip.compress(rules, mtime=0)
        coding = ("Content-Encoding", "gzip")
        return {"/robots.txt": Page(_message("200 OK", packed, plain, coding))}

    def allows(self, target: str) -> bool:
        """Return whether the robots.txt allows *target*."""
        if self.role == "normal" and self.kind_of_robots == 2:
            return True
        private = target.startswith("/private/") and not target.startswith("/private/open")
        return not private and not target.endswith(".secret")

    def faults(self, target: str) -> tuple[Fault, ...]:
        """Return what is wrong with the first responses to *target*."""
        dice = _dice(self.web.seed, self.number, target)
        if target == "/robots.txt":
            return ("503",) if self.role == "normal" and self.kind_of_robots == 3 else ()
        if target.startswith("/bad/") or self.role == "endless" or dice % 1000 >= 30:
            return ()
        kinds: tuple[Fault, ...] = ("reset", "close", "cut", "cut and reset", "500", "503", "429")
        dice //= 1000
        found = (kinds[dice % 7], kinds[dice // 7 % 7])[: 1 + (dice // 49 % 4 == 0)]
        # That a body without a length is cut can be noticed only if that is by a reset.
        if self.page(target).manner == "close":
            return tuple("reset" if fault == "cut" else fault for fault in found)
        return found

    # --- pages ------------------------------------------------------------------------------------

    def page(self, target: str) -> Page:
        """Return the page *target*; 404 if there is none."""
        if self.role == "endless":
            return self._endless(target)
        if target in self.bad:
            return self.bad[target]
        match target.split("/")[1:]:
            case [""]:
                return self._tree(0)
            case ["p", number]:
                return self._tree(int(number))
            case ["r", site, number]:
                away = self.web.sites[int(site)]
                return self._moved(away.origin + away.target(int(number)))
            case ["loop", number]:
                return self._moved(f"{self.origin}/loop/{(int(number) + 1) % 3}")
            case ["hop", number]:
                return self._hop(int(number))
            case ["to", "private"]:
                return self._moved(f"{self.origin}/private/moved")
            case ["to", "nowhere"]:
                return Page(_message("302 Found", b"", ("Location", "http://[nowhere/")), 302)
            case ["calendar", number]:
                next_one = f"{self.origin}/calendar/{int(number) + 1}"
                days = [f"{self.origin}/calendar/{number}/{day}" for day in (1, 2)]
                return self._html(target, [next_one, *days])
            case ["session", known]:
                new = f"{_dice(self.web.seed, self.number, known):x}"
                return self._html(target, [f"{self.origin}/session/{new}"])
            case ["deep", *_]:
                return self._html(target, [f"{self.origin}{target}deep/"])
            case ["nofollow"]:
                return self._html(target, [], '<meta name="robots" content="nofollow">')
            case ["private" | "calendar" | "leaf", *_]:
                return self._html(target, [])
            case _:
                return Page(_message("404 Not Found", b"there is nothing"), 404, 16)

    def target(self, number: int) -> str:
        """Return the target of a page of the tree."""
        return f"/p/{number}" if number else "/"

    def _endless(self, target: str) -> Page:
        match target.split("/")[1:]:
            case ["hop", number]:
                return self._hop(int(number))
            case ["s", depth, known]:
                new = [_dice(self.web.seed, known, n) for n in range(4)]
                links = [f"{self.origin}/s/{int(depth) + 1}/{each:x}" for each in new]
                return self._html(target, links)
            case _:
                return self._html(target, [f"{self.origin}/hop/0", f"{self.origin}/s/1/0"])

    def _hop(self, number: int) -> Page:
        """Return a redirect that *number* others lead to, and that leads to one more."""
        page = self._moved(f"{self.origin}/hop/{number + 1}")
        return page._replace(links=(), outcome="unusable") if number == HOPS else page

    def _moved(self, url: str) -> Page:
        status = ("301 Moved", "302 Found", "303 See", "307 Moved", "308 Moved")[len(url) % 5]
        body = b"it is elsewhere"
        return Page(_message(status, body, ("Location", url)), int(status[:3]), len(body), (url,))

    def _tree(self, number: int) -> Page:
        """Return a page of the tree, which has the numbers of a heap."""
        links = []
        first = number * _WIDTH + 1
        for child in range(first, min(first + _WIDTH, self.size)):
            dice = _dice(self.web.seed, self.number, child, "way")
            if dice % 20 == 0:  # only a redirect leads there, of this site or of another
                by = self.web.normal[dice // 20 % len(self.web.normal)]
                links.append(f"{by.origin}/r/{self.number}/{child}")
            else:
                links.append(self.origin + self.target(child))
        if number == 0:
            links += self._special()
        else:
            links += [f"{self.origin}/", self.origin + self.target(number)]
            if number % 10 == 0:
                links.append(f"{self.origin}/leaf/{number}")
            if number % 17 == 0:
                links.append(f"{self.origin}/missing/{number}")
            if number % 13 == 0:
                links.append(f"{self.origin}/private/{number}")
        # A page of another site, which as many links lead to.
        dice = _dice(self.web.seed, self.number, number, "away")
        away = self.web.sites[dice % len(self.web.sites)]
        if away.role in ("normal", "slow") and first < away.size:
            links.append(f"{away.origin}{away.target(first)}")
        elif away.role in ("closed", "dead"):
            links.append(f"{away.origin}/p/{dice // 1000 % 50}")
        return self._html(self.target(number), links)

    def _special(self) -> list[str]:
        targets = [
            "/loop/0",
            "/hop/0",
            "/to/private",
            "/to/nowhere",
            "/calendar/1",
            "/session/1",
            "/deep/",
            "/nofollow",
            "/private/1",
            "/private/open",
            "/a.secret",
            "/a.secret.html",
            *self.bad,
        ]
        return [self.origin + target for target in targets]

    def _html(self, target: str, links: list[str], extra: str = "") -> Page:
        """Return a page with *links*, in one of many forms, which *target* decides on."""
        dice = _dice(self.web.seed, self.number, target, "form")
        written = [_spelled(url, self.origin, dice + n) for n, url in enumerate(links)]
        size = 200_000 + dice % 800_000 if dice % 400 == 0 else 200 + dice % 3000
        text = (
            f"<!DOCTYPE html><html><head><title>{target}</title>{extra}</head><body>\n"
            + "\n".join(f"<p>{link} größer" for link in written)
            + f"\n<a rel='nofollow' href='{self.origin}/unlinked/1'>no</a>"
            "<a href='mailto:me@example.com'>mail</a> "
            f"<a href='http://{STRANGER}:{self.web.port}/'>far</a>"
            "<a href='http://[broken'>x</a>"
            + (f"<a href='{self.origin}/unlinked/2'>no</a>" if extra else "")
            + f"<pre>{_filler(size, self.web.seed, self.number, target)}</pre>"
        )
        dice //= 400
        body = text.encode()
        if dice % 10 == 0:  # and broken markup behind it
            body += b"</b></table><a href=><a href><!-- <p <a hr\x00ef='/unlinked/3'> \xff\xfe <a"
        status, fields, size, manner = "200 OK", [_HTML], len(body), "whole"
        dice //= 10
        if dice % 3 == 0:
            members = (body,) if dice % 4 else (body[:100], body[100:])
            body = b"".join(gzip.compress(member, 6, mtime=0) for member in members)
            fields.append(("Content-Encoding", "gzip"))
        dice //= 12
        is_whole = dice % 10 < 7
        if dice % 10 in (7, 8):
            body = _chunked(body, 100 + dice % 3000)
            fields.append(("Transfer-Encoding", "chunked"))
        elif dice % 10 == 9:
            manner = "close"
            fields.append(("Connection", "close"))
        dice //= 10
        if manner == "whole" and dice % 20 == 0:
            manner = "hints"
        elif manner == "whole" and dice % 300 == 1:
            manner = "drip"
        wire = _message(status, body, *fields, length=is_whole)
        return Page(wire, 200, size, tuple(links), "page", manner)  # type: ignore[arg-type]  # a str


def _spelled(url: str, origin: str, dice: int) -> str:
    """Return a link to *url* in one of the ways to write it."""
    target = url.removeprefix(origin)
    rest = url.removeprefix("http://")
    ways = (
        f"<a href='{url}'>x</a>",
        f'<a class="x" href="{target}#part">x</a>',
        f"<A HREF={target} >x</A>",
        f"<a href=' \n{target} '>x</a>",
        f"<area href='HTTP://{rest}'>",
        f"<a href='{url.replace('/p/', '/q/../%70/./')}'>x</a>",
        f"<a href='//{rest}'>x</a>",
    )
    return ways[dice % len(ways)]


class Web:
    """*count* sites with about *pages* pages together, and a dead one.

    *slow* is the crawl delay of the slow sites, in seconds.
    """

    def __init__(self, seed: int, count: int, pages: int, port: int, slow: float = 0.5) -> None:
        self.seed = seed
        self.count = count
        self.pages = pages
        self.port = port
        self.slow = slow
        few = max(1, count // 25)
        roles: list[Role] = [*["closed"] * few, *["endless"] * few, *["slow"] * few]
        roles += ["normal"] * (count - len(roles))
        in_trees = pages * 7 // 10  # the others are around them
        slow_size = in_trees // count // 4
        each, rest = divmod(in_trees - few * slow_size, count - 3 * few)
        self.sites: list[Site] = []
        for number, role in enumerate(roles):
            size = slow_size if role == "slow" else 0
            if role == "normal":
                size, rest = (each + 1, rest - 1) if rest else (each, 0)
            self.sites.append(Site(self, number, role, size))
        self.sites.append(Site(self, count, "dead", 0))
        self.normal = [site for site in self.sites if site.role == "normal"]
        self.by_origin = {site.origin: site for site in self.sites}
        #: URLs of a host that are taken in, at most: more than a site has that is not endless.
        self.limit = each * 3 // 2 + 130

    @property
    def starts(self) -> list[str]:
        """Where the crawl begins."""
        return [f"{site.origin}/" for site in self.sites]

    def split(self, url: str) -> tuple[Site, str] | None:
        """Return the site and the target of *url*; None if it is of no site."""
        scheme, _, rest = url.partition("://")
        host, _, path = rest.partition("/")
        site = self.by_origin.get(f"{scheme}://{host}")
        return None if site is None else (site, f"/{path}")
