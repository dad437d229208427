"""Draws the pictures of the documentation from the figures of a measurement: see README.md.

Without an option, from those of the last ``benchmarks/run`` here, into ``benchmarks/results/``.
With ``--publish``, these figures become those of the documentation, and so do the pictures, in
``docs/_static/``. With ``--redraw``, the pictures there are drawn again from their own figures.
Each picture is there twice, for a light page and for a dark one. The same figures make the same
files.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import figures
import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from posts import CLIENTS

DOCUMENTATION = figures.HERE.parent / "docs" / "_static"
#: The works that the pictures show.
SHOWN = ("submit", "far", "farther", "posts")


class Colours(NamedTuple):
    """How a picture looks on one kind of page."""

    text: str
    faint: str
    ours: str
    other: str
    good: str
    bad: str


PAGES = {
    "light": Colours("#222222", "#c8c8c8", "#0b6b72", "#9aa5ab", "#d3efe6", "#f6d9d5"),
    "dark": Colours("#e6e6e6", "#4a4f55", "#5ec8cf", "#7d8890", "#1d4a43", "#5e2f2b"),
}

#: The clients of the first picture: what each is called in the figures, and there.
RATES = {
    "pool": "dugong",
    "CurlMulti, 32": "pycurl\n(over 32)",
    "pyreqwest": "pyreqwest",
    "aiohttp": "aiohttp",
    "urllib3": "urllib3\n(8 threads)",
}
#: The lines of the second picture: where the label is, above the point or below it.
DISTANCES = {
    "CurlMulti, 6": ("HTTP/1.1 without pipelining (pycurl)", 9),
    "CurlMulti, h2": ("HTTP/2 (pycurl)", 8),
    "pool": ("dugong", -16),
}
#: The columns of the third picture.
CASES = {
    "restart": "The server\nstarts\n0.5 s later",
    "refused": "The server\nrefuses 64 MB\nwith a 413",
    "dropped": "The connection\nis lost behind\nthe request",
}


def bare(axes: Axes, colours: Colours) -> None:
    """Leave nothing of *axes* but the labels."""
    axes.set_facecolor("none")
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0, colors=colours.text)


def draw_rates(figure: Figure, colours: Colours, found: dict[str, Any]) -> None:
    """Requests a second, beside peers."""
    rates = {label: found["submit"][name]["rate"] for name, label in RATES.items()}
    axes = figure.add_axes((0.22, 0.03, 0.62, 0.82))
    bare(axes, colours)
    colour = [colours.ours] + [colours.other] * (len(rates) - 1)
    bars = axes.barh(list(rates), list(rates.values()), color=colour, height=0.62)
    texts = [f"{rate:,.0f}" for rate in rates.values()]
    axes.bar_label(bars, texts, padding=4, color=colours.text)
    axes.invert_yaxis()
    axes.set_xticks([])
    title(figure, colours, "GETs of 1 KiB a second, over 8 connections")


def draw_distances(figure: Figure, colours: Colours, found: dict[str, Any]) -> None:
    """Time against distance."""
    axes = figure.add_axes((0.12, 0.15, 0.84, 0.69))
    bare(axes, colours)
    near = {"pool": "pool", "CurlMulti, 6": "CurlMulti, 8"}
    for name, (label, below) in DISTANCES.items():
        places = [40, 100]
        rates = [found[work][name]["rate"] for work in ("far", "farther")]
        if name in near:
            places.insert(0, 0)
            rates.insert(0, found["submit"][near[name]]["rate"])
        seconds = [1000 / rate for rate in rates]
        colour = colours.ours if name == "pool" else colours.other
        axes.plot(places, seconds, "o-", color=colour, linewidth=2.2)
        axes.annotate(
            f"{label}: {in_words(seconds[-1])}",
            (100, seconds[-1]),
            xytext=(8, below),
            textcoords="offset points",
            ha="right",
            color=colour if name == "pool" else colours.text,
            weight="bold" if name == "pool" else "normal",
        )
    axes.set_yscale("log")
    axes.set_ylim(0.004, 90)
    axes.set_yticks([0.01, 0.1, 1, 10], ["10 ms", "0.1 s", "1 s", "10 s"])
    axes.minorticks_off()
    axes.set_xticks([0, 40, 100], ["0 ms away", "40 ms away", "100 ms away"])
    axes.set_xlim(-12, 112)
    axes.grid(axis="y", color=colours.faint, linewidth=0.6)
    title(figure, colours, "Time for 1000 GETs of 1 KiB, over 6 connections")


def in_words(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def draw_posts(figure: Figure, colours: Colours, found: dict[str, Any]) -> None:
    """What happened to a POST."""
    posts = found["posts"]
    clients = [name for name in CLIENTS if name in posts["restart"]]
    axes = figure.add_axes((0.0, 0.0, 1.0, 0.9))
    bare(axes, colours)
    axes.set_axis_off()
    axes.set_xlim(0, 4.02)
    axes.set_ylim(len(clients), -1.15)
    for column, (case, heading) in enumerate(CASES.items()):
        left = 0.78 + 1.08 * column
        axes.text(left + 0.52, -0.55, heading, ha="center", va="center", color=colours.text)
        for row, client in enumerate(clients):
            text, good = POSTS[case](posts[case][client])
            axes.add_patch(
                mpl.patches.Rectangle(
                    (left, row + 0.06), 1.04, 0.88, color=colours.good if good else colours.bad
                )
            )
            axes.text(left + 0.52, row + 0.5, text, ha="center", va="center", color=colours.text)
    for row, client in enumerate(clients):
        ours = client == "dugong"
        axes.text(
            0.02,
            row + 0.5,
            client,
            va="center",
            color=colours.ours if ours else colours.text,
            weight="bold" if ours else "normal",
        )
    title(figure, colours, "What the caller of a POST learns, by default")


def of_restart(outcome: dict[str, Any]) -> tuple[str, bool]:
    return ("stored", True) if outcome["status"] == 201 else ("an error", False)


def of_refused(outcome: dict[str, Any]) -> tuple[str, bool]:
    if outcome["status"] != 413:
        return "an error;\nthe 413 is lost", False
    sent = outcome["uploaded"] / 1e6
    return f"the 413, after\n{sent:.0f} MB were sent", outcome["received"] == 0


def of_dropped(outcome: dict[str, Any]) -> tuple[str, bool]:
    if outcome["received"] > 1:
        return f"an error; sent\n{outcome['received']} times", False
    if outcome["verdict"] is None:
        return "an error", False
    return f"an error that\nsays {outcome['verdict']}", True


#: What a cell of the third picture says, and whether that is what a caller wants.
POSTS: dict[str, Callable[[dict[str, Any]], tuple[str, bool]]] = {
    "restart": of_restart,
    "refused": of_refused,
    "dropped": of_dropped,
}


def title(figure: Figure, colours: Colours, text: str) -> None:
    figure.text(0.02, 0.93, text, color=colours.text, weight="bold", size=11)


PICTURES = {
    "rates": (draw_rates, 2.5),
    "distances": (draw_distances, 3.0),
    "posts": (draw_posts, 3.4),
}


def draw(found: dict[str, Any], directory: Path) -> None:
    """Draw all pictures from the figures *found* into *directory*."""
    # The letters are shapes, so they look alike everywhere; the ids do not change with each run.
    mpl.rcParams.update(
        {
            "svg.fonttype": "path",
            "svg.hashsalt": "dugong",
            "font.size": 9,
            "font.family": "DejaVu Sans",
        }
    )
    for name, (draw_one, height) in PICTURES.items():
        for page, colours in PAGES.items():
            figure = Figure(figsize=(4.6, height))
            draw_one(figure, colours, found)
            path = directory / f"{name}-{page}.svg"
            figure.savefig(path, transparent=True, metadata={"Date": None, "Creator": None})
            text = path.read_text(encoding="utf-8")
            lines = [line.rstrip() for line in text.splitlines()]
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
            print(path)


def main() -> int:
    parser = argparse.ArgumentParser(description="Draw the pictures of the documentation.")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--publish", action="store_true", help="from the last figures, for docs/")
    which.add_argument("--redraw", action="store_true", help="those of docs/, from their figures")
    options = parser.parse_args()
    found = figures.load(figures.PUBLISHED if options.redraw else figures.LAST)
    missing = [name for name in SHOWN if name not in found]
    if missing:
        print(f"benchmarks/run has not measured: {', '.join(missing)}", file=sys.stderr)
        return 1
    if options.publish:
        shown = json.dumps({name: found[name] for name in SHOWN}, indent=1, sort_keys=True)
        figures.PUBLISHED.write_text(shown + "\n", encoding="utf-8")
    draw(found, DOCUMENTATION if options.publish or options.redraw else figures.LAST.parent)
    return 0


if __name__ == "__main__":
    sys.exit(main())
