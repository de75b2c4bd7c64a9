"""`--where "aesthetic > 5 and watermark < 0.3"`: an expression over columns, parsed, never evaluated as code.

Allowed are column names, numbers, strings, true, false and none, comparisons (also chained), `in [..]`, `is none`,
and, or, not, + - * / and brackets. Null behaves as in SQL: a comparison with it is not true, so such a row is not kept.

A name that is no plain word stands in backticks, `clipiqa+` > 0.5, or in quotes: of a comparison that names no column
otherwise, the first text is one, "maniqa-pipal" > 0.5. Beside a column, a text is a text.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lucidflux_data.errors import ConfigError, suggest

_COMPARE = {
    ast.Lt: pc.less,
    ast.LtE: pc.less_equal,
    ast.Gt: pc.greater,
    ast.GtE: pc.greater_equal,
    ast.Eq: pc.equal,
    ast.NotEq: pc.not_equal,
}
_ARITHMETIC = {ast.Add: pc.add, ast.Sub: pc.subtract, ast.Mult: pc.multiply, ast.Div: pc.divide}
_CONSTANTS = {"true": True, "false": False, "none": None, "null": None}
MAX_LENGTH = 10_000
_TEXT_OR_NAME = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|`([^`]*)`""")
_STAND_IN = "__column_{}__"  # of a name in backticks, while Python's grammar reads the expression


def columns_of(text: str) -> list[str]:
    """The column names in an expression, sorted. Raises ConfigError where it cannot be read."""
    return sorted({node.id for node in ast.walk(_parse(text)) if isinstance(node, ast.Name) and _is_column(node)})


def matches(text: str, table: pa.Table) -> pa.Array:
    """bool (n): the rows of which the expression is true; null counts as false.

    Raises ConfigError for what is not allowed, for an unknown column, and where types do not fit.
    """
    check_columns(text, table.column_names)
    try:
        found = _value(_parse(text), table)
        if not (isinstance(found, (pa.Array, pa.ChunkedArray)) and pa.types.is_boolean(found.type)):
            raise ConfigError(f"--where {text!r} does not say yes or no: compare something")
    except (OverflowError, RecursionError):
        raise ConfigError("--where has a number beyond 64 bits, or too many brackets") from None
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid, pa.ArrowTypeError):
        raise ConfigError(f"--where {text!r} compares things of different kinds (text and numbers?)") from None
    return pc.fill_null(found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found, False)


def check_columns(text: str, there: Sequence[str]) -> None:
    """ConfigError naming the nearest columns where the expression has one that is not there."""
    for name in columns_of(text):
        if name not in there:
            raise ConfigError(f"--where has no column {name!r}: {suggest(name, sorted(there))}")


def _parse(text: str) -> ast.expr:
    if len(text) > MAX_LENGTH:
        raise ConfigError(f"--where is longer than {MAX_LENGTH} characters")
    quoted: list[str] = []

    def stand_in(found: re.Match[str]) -> str:
        if found[1] is None:
            return found[0]
        quoted.append(found[1])
        return _STAND_IN.format(len(quoted) - 1)

    try:
        read = ast.parse(_TEXT_OR_NAME.sub(stand_in, text.strip()), mode="eval").body
        tree: ast.expr = _Naming(quoted).visit(read)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        hint = "; equality is ==" if "=" in text and "==" not in text else ""
        raise ConfigError(
            f"--where {text!r} cannot be read: write for example aesthetic > 5 and nsfw < 0.1; "
            f"a name that is no plain word stands in backticks or quotes{hint}"
        ) from None
    return tree


class _Naming(ast.NodeTransformer):
    """Puts columns where quoted names stand. A column is marked by `Store`: it may be called as a constant is."""

    def __init__(self, quoted: list[str]) -> None:
        self.quoted = {_STAND_IN.format(number): name for number, name in enumerate(quoted)}
        self.texts: set[int] = set()  # ids of the nodes of texts that are names

    def visit_Name(self, node: ast.Name) -> ast.Name:
        return ast.Name(self.quoted[node.id], ast.Store()) if node.id in self.quoted else node

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        return ast.Name(str(node.value), ast.Store()) if id(node) in self.texts else node

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        inside = list(ast.walk(node))
        named = any((isinstance(n, ast.Name) and _is_column(n)) or id(n) in self.texts for n in inside)
        texts = [n for n in inside if isinstance(n, ast.Constant) and isinstance(n.value, str)]
        if texts and not named:
            self.texts.add(id(min(texts, key=lambda n: (n.lineno, n.col_offset))))
        return self.generic_visit(node)


def _is_column(node: ast.Name) -> bool:
    return isinstance(node.ctx, ast.Store) or node.id.lower() not in _CONSTANTS


def _value(node: ast.expr, table: pa.Table) -> Any:
    """A scalar or a column for each allowed kind of node; ConfigError for every other."""
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float, str)):
        return pa.scalar(node.value)
    if isinstance(node, ast.Constant) and node.value is None:
        return pa.scalar(None)
    if isinstance(node, ast.Name):
        return table[node.id] if _is_column(node) else pa.scalar(_CONSTANTS[node.id.lower()])
    if isinstance(node, ast.BoolOp):
        combine = pc.and_kleene if isinstance(node.op, ast.And) else pc.or_kleene
        found = _value(node.values[0], table)
        for part in node.values[1:]:
            found = combine(found, _value(part, table))
        return found
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub)):
        inner = _value(node.operand, table)
        return pc.invert(inner) if isinstance(node.op, ast.Not) else pc.negate(inner)
    if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        left, right = _value(node.left, table), _value(node.right, table)
        if isinstance(node.op, ast.Div):
            left = pc.cast(left, pa.float64())  # 1 / 2 is a half
        return _ARITHMETIC[type(node.op)](left, right)
    if isinstance(node, ast.Compare):
        return _comparison(node, table)
    raise ConfigError(f"--where does not allow {ast.unparse(node)!r}: columns, numbers, text and comparisons only")


def _comparison(node: ast.Compare, table: pa.Table) -> Any:
    """a < b <= c is a < b and b <= c."""
    found = None
    left_node = node.left
    for operator, right_node in zip(node.ops, node.comparators, strict=True):
        part = _compared(operator, left_node, right_node, table)
        found = part if found is None else pc.and_kleene(found, part)
        left_node = right_node
    return found


def _compared(operator: ast.cmpop, left_node: ast.expr, right_node: ast.expr, table: pa.Table) -> Any:
    left = _value(left_node, table)
    if isinstance(operator, (ast.In, ast.NotIn)) and isinstance(right_node, (ast.List, ast.Tuple)):
        values = pa.array([_value(item, table).as_py() for item in right_node.elts])
        inside = pc.if_else(pc.is_valid(left), pc.is_in(left, values), pa.scalar(None, pa.bool_()))
        return inside if isinstance(operator, ast.In) else pc.invert(inside)
    right = _value(right_node, table)
    if isinstance(operator, (ast.Is, ast.IsNot)) and isinstance(right, pa.Scalar) and not right.is_valid:
        return pc.is_null(left) if isinstance(operator, ast.Is) else pc.is_valid(left)
    if type(operator) not in _COMPARE:
        raise ConfigError("--where compares by < <= > >= == != in [..] and `is none`")
    return _COMPARE[type(operator)](left, right)
