"""The figures of the last measurement, in a file: for `pictures`.

It has an entry for each work: the median of each measure of each client. A work that is measured
again replaces its entry.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
#: Those of the last measurements here.
LAST = HERE / "results" / "figures.json"
#: Those that the pictures of the documentation are made from.
PUBLISHED = HERE / "figures.json"


def load(path: Path = LAST) -> dict[str, Any]:
    """Return the figures in the file *path*; none, if there is no such file."""
    if not path.exists():
        return {}
    figures: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return figures


def record(name: str, figures: object) -> None:
    """Let *figures* be those of the work *name*."""
    LAST.parent.mkdir(exist_ok=True)
    text = json.dumps(load() | {name: figures}, indent=1, sort_keys=True)
    LAST.write_text(text + "\n", encoding="utf-8")
