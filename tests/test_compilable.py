"""What a compiler for typed Python wants of the core: names of one type (CONTRIBUTING.md)."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import pytest

import dugong

ROOT = Path(dugong.__file__).parent
CORE = sorted(path for layer in ("connection", "pool") for path in (ROOT / layer).rglob("*.py"))


@pytest.mark.parametrize("path", CORE, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_function_has_one_name_for_exceptions_of_two_types(path: Path) -> None:
    for function in ast.walk(ast.parse(path.read_text())):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            types = defaultdict(set)
            for node in ast.walk(function):
                if isinstance(node, ast.ExceptHandler) and node.name and node.type:
                    types[node.name].add(ast.unparse(node.type))
            twice = {name: found for name, found in types.items() if len(found) > 1}
            assert not twice, f"{function.name}: {twice}"
