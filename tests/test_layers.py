"""The layers: what a module of dugong may import (CONTRIBUTING.md, "The layers")."""

from __future__ import annotations

import ast
import graphlib
from pathlib import Path

import pytest

import dugong

ROOT = Path(dugong.__file__).parent


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in ROOT.rglob("*.py")}


class Imports(ast.NodeVisitor):
    """Collects the modules of dugong that a module imports, not those for type checking alone."""

    def __init__(self) -> None:
        self.found: set[str] = set()

    def visit_If(self, node: ast.If) -> None:
        if ast.unparse(node.test) == "TYPE_CHECKING":
            for other in node.orelse:
                self.visit(other)
        else:
            self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        self.found |= {alias.name for alias in node.names if alias.name in MODULES}

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        assert node.level == 0, "imports are absolute"
        for alias in node.names:
            for name in (f"{node.module}.{alias.name}", str(node.module)):
                if name in MODULES:
                    self.found.add(name)
                    break


def imports(name: str) -> set[str]:
    visitor = Imports()
    visitor.visit(ast.parse(MODULES[name].read_text()))
    return visitor.found - {name}


def test_no_module_imports_itself_through_others() -> None:
    graphlib.TopologicalSorter({name: imports(name) for name in MODULES}).prepare()


ABOVE_THE_POOL = [
    f"dugong.{name}"
    for name in ("client", "testing", "telemetry", "adapters", "crawl", "s3", "dask", "cli")
]


def above_but(*allowed: str) -> list[str]:
    """Return what is above the pool, without what is *allowed* of that."""
    return [name for name in ABOVE_THE_POOL if name.removeprefix("dugong.") not in allowed]


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("dugong.errors", ["dugong.connection", "dugong.pool", *ABOVE_THE_POOL]),
        ("dugong.headers", ["dugong.connection", "dugong.pool", *ABOVE_THE_POOL]),
        ("dugong.deadline", ["dugong.connection", "dugong.pool", *ABOVE_THE_POOL]),
        ("dugong.connection", ["dugong.pool", *ABOVE_THE_POOL]),
        ("dugong.pool", ABOVE_THE_POOL),
        ("dugong.client", above_but("client")),
        ("dugong.testing", above_but("testing")),
        ("dugong.telemetry", above_but("telemetry")),
        ("dugong.adapters", above_but("adapters", "client")),
        ("dugong.crawl", above_but("crawl", "client")),
        ("dugong.s3", above_but("s3", "client")),
        ("dugong.dask", above_but("dask", "client", "crawl")),
        ("dugong.cli", above_but("cli", "client", "crawl", "s3")),
    ],
)
def test_a_layer_imports_nothing_from_above(package: str, forbidden: list[str]) -> None:
    def is_in(name: str, packages: list[str]) -> bool:
        return any(name == other or name.startswith(f"{other}.") for other in packages)

    inside = [name for name in MODULES if is_in(name, [package])]
    assert inside
    assert [
        (name, other) for name in inside for other in imports(name) if is_in(other, forbidden)
    ] == []


def test_no_library_module_imports_the_package_itself() -> None:
    libraries = [name for name in MODULES if not name.startswith(("dugong.cli", "dugong.__main__"))]
    assert [name for name in libraries if name != "dugong" and "dugong" in imports(name)] == []
