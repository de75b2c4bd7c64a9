"""--where against the same condition written in Python row by row, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from lucidflux_data.errors import ConfigError
from lucidflux_data.selection.expression import columns_of, matches

TABLE = pa.table(
    {
        "aesthetic": [4.0, 5.5, None, 7.0, 5.5],
        "watermark": [0.1, 0.2, 0.1, 0.9, None],
        "license": ["cc0", "cc-by", "cc0", None, "arr"],
        "width": [100, 200, 300, 400, 500],
        "nsfw": [False, True, False, None, False],
    }
)
ROWS = TABLE.to_pylist()


def sql(condition: Callable[[dict[str, Any]], bool]) -> list[bool]:
    """A row with a null in the condition is not kept."""

    def keep(row: dict[str, Any]) -> bool:
        try:
            return condition(row)
        except TypeError:
            return False

    return [keep(row) for row in ROWS]


CONDITIONS: dict[str, Callable[[dict[str, Any]], bool]] = {
    "aesthetic > 5 and watermark < 0.3": lambda r: r["aesthetic"] > 5 and r["watermark"] < 0.3,
    "5 < aesthetic <= 5.5": lambda r: 5 < r["aesthetic"] <= 5.5,
    "aesthetic == 5.5 or width >= 400": lambda r: r["aesthetic"] == 5.5 or r["width"] >= 400,
    "license in ['cc0', 'cc-by']": lambda r: r["license"] in ("cc0", "cc-by"),
    "license not in ['cc0']": lambda r: r["license"] is not None and r["license"] != "cc0",
    "license is none": lambda r: r["license"] is None,
    "license is not None and not (license == 'arr')": lambda r: r["license"] is not None and r["license"] != "arr",
    "width / 200 > 1.4 and -width < -100": lambda r: r["width"] / 200 > 1.4,
    "width * 2 + 1 != 401": lambda r: r["width"] * 2 + 1 != 401,
    "not nsfw": lambda r: r["nsfw"] is False,
    "nsfw == false": lambda r: r["nsfw"] is False,
    "aesthetic * 2 - watermark > 9": lambda r: r["aesthetic"] * 2 - r["watermark"] > 9,
}


@pytest.mark.parametrize("text", CONDITIONS)
def test_an_expression_means_what_python_means(text: str) -> None:
    found = matches(text, TABLE).to_pylist()
    assert found == sql(CONDITIONS[text])
    assert True in found
    assert False in found


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "width.__class__ == 1",
        "(lambda: 1)() == 1",
        "width if nsfw else 0",
        "[x for x in width] == 1",
        "width ** 999999 > 1",
        "f'{width}' == 'a'",
        "width[0] > 1",
        "(width := 3) > 1",
    ],
)
def test_code_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--where"):
        matches(text, TABLE)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("aestetic > 5", "did you mean aesthetic"),
        ("width = 3", "equality is =="),
        ("width", "does not say yes or no"),
        ("license > 5", "different kinds"),
        ("width >", "cannot be read"),
        ("(" * 5000 + "width" + ")" * 4000, "cannot be read"),
        ("width > 1 and " * 1000 + "width > 1", "longer than"),
    ],
)
def test_mistakes_are_one_sentence(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        matches(text, TABLE)


def test_columns_of_an_expression() -> None:
    assert columns_of("b > 1 and not (a in [1, 2] or c is none) and d == true") == ["a", "b", "c", "d"]


ODD_NAMES = pa.table(
    {"clipiqa+": [0.2, 0.8], "maniqa-pipal": [0.9, None], "none": [1, 2], "a b": ["x", "maniqa-pipal"]}
)


@pytest.mark.parametrize(
    ("text", "names", "kept"),
    [
        ("`clipiqa+` > 0.5", ["clipiqa+"], [False, True]),
        ('"clipiqa+" > 0.5', ["clipiqa+"], [False, True]),
        ("0.5 < 'clipiqa+'", ["clipiqa+"], [False, True]),
        ('"maniqa-pipal" is none', ["maniqa-pipal"], [False, True]),
        ('not "maniqa-pipal" > 0.5', ["maniqa-pipal"], [False, False]),
        ('"clipiqa+" * 2 > 1', ["clipiqa+"], [False, True]),
        ("`maniqa-pipal` > `clipiqa+`", ["clipiqa+", "maniqa-pipal"], [True, False]),
        ("`none` == 2", ["none"], [False, True]),
        ("`a b` == 'maniqa-pipal'", ["a b"], [False, True]),
        ('"a b" == \'x\' and "clipiqa+" < .5', ["a b", "clipiqa+"], [True, False]),
        ("'a b' in ['x', 'y']", ["a b"], [True, False]),
        ("`a b` == '`x`' or `a b` == \"x\"", ["a b"], [True, False]),
    ],
)
def test_any_column_name_can_be_quoted(text: str, names: list[str], kept: list[bool]) -> None:
    assert columns_of(text) == names
    assert matches(text, ODD_NAMES).to_pylist() == kept


@pytest.mark.parametrize("text", ["`a b > 1", "`` > 1", "clipiqa+ > 1", "`a` `b`", "width > " + "9" * 30, "width > 5j",
                                  "not " * 2000 + "nsfw", "(" * 300 + "1" + ")" * 300])  # fmt: skip
def test_what_cannot_be_read_is_a_sentence(text: str) -> None:
    with pytest.raises(ConfigError, match="--where"):
        matches(text, TABLE)
