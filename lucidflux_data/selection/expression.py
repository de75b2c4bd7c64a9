"""`--where "aesthetic > 5 and watermark < 0.3"`: an expression over columns, parsed, never evaluated as code.

Allowed are column names, numbers, strings, true, false and none, comparisons (also chained), `in [..]`, `is none`,
and, or, not, + - * / and brackets. Null behaves as in SQL: a comparison with it is not true, so such a row is not kept.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lucidflux_data.errors import ConfigError

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


def columns_of(text: str) -> list[str]:
    """The column names in an expression, sorted. Raises ConfigError where it cannot be read."""
    names = {node.id for node in ast.walk(_parse(text)) if isinstance(node, ast.Name)}
    return sorted(name for name in names if name.lower() not in _CONSTANTS)


def matches(text: str, table: pa.Table) -> pa.Array:
    """bool (n): the rows of which the expression is true; null counts as false.

    Raises ConfigError for what is not allowed, for an unknown column, and where types do not fit.
    """
    check_columns(text, table.column_names)
    try:
        found = _value(_parse(text), table)
        if not (isinstance(found, (pa.Array, pa.ChunkedArray)) and pa.types.is_boolean(found.type)):
            raise ConfigError(f"--where {text!r} does not say yes or no: compare something")
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid, pa.ArrowTypeError):
        raise ConfigError(f"--where {text!r} compares things of different kinds (text and numbers?)") from None
    return pc.fill_null(found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found, False)


def check_columns(text: str, there: Sequence[str]) -> None:
    """ConfigError naming the nearest columns where the expression has one that is not there."""
    for name in columns_of(text):
        if name not in there:
            near = difflib.get_close_matches(name, there, n=3) or sorted(there)[:12]
            raise ConfigError(f"--where has no column {name!r}: there are {', '.join(near)}")


def _parse(text: str) -> ast.expr:
    if len(text) > MAX_LENGTH:
        raise ConfigError(f"--where is longer than {MAX_LENGTH} characters")
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        hint = "; equality is ==" if "=" in text and "==" not in text else ""
        raise ConfigError(
            f"--where {text!r} cannot be read: write for example aesthetic > 5 and nsfw < 0.1{hint}"
        ) from None


def _value(node: ast.expr, table: pa.Table) -> Any:
    """A scalar or a column for each allowed kind of node; ConfigError for every other."""
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float, str)):
        return pa.scalar(node.value)
    if isinstance(node, ast.Constant) and node.value is None:
        return pa.scalar(None)
    if isinstance(node, ast.Name):
        return pa.scalar(_CONSTANTS[node.id.lower()]) if node.id.lower() in _CONSTANTS else table[node.id]
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
