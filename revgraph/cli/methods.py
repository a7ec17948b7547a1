"""The names of all methods, without the seconds that TensorFlow takes to import."""

import ast
from pathlib import Path
from typing import Any, cast

import revgraph

REGISTRY = Path(revgraph.__file__).parent / "analyzers" / "registry.py"
"""The file with the table of methods. It is parsed and not imported."""


def methods() -> dict[str, tuple[str, str]]:
    """For each name in `revgraph.ANALYZERS`, what the method computes and its paper."""
    constants: dict[str, Any] = {}
    table: Any = None
    for statement in ast.parse(REGISTRY.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign):
            (target,) = statement.targets
            if isinstance(target, ast.Name) and target.id == "ANALYZERS":
                (table,) = cast(ast.Call, statement.value).args
            elif isinstance(target, ast.Tuple) and isinstance(statement.value, ast.Tuple):
                pairs = zip(target.elts, statement.value.elts, strict=True)
                constants |= {ast.unparse(n): value.value for n, value in pairs if isinstance(value, ast.Constant)}
            elif isinstance(target, ast.Name) and isinstance(statement.value, ast.Constant):
                constants[target.id] = statement.value.value

    def text(node):
        return constants[node.id] if isinstance(node, ast.Name) else ast.literal_eval(node)

    rows = zip(table.keys, table.values, strict=True)
    return {text(name): (text(row.args[1]), text(row.args[2])) for name, row in rows}
