"""Formulas of multi graders: what they come to, and what is none."""

from __future__ import annotations

import pytest

from server.graders.formula import Formula, FormulaError, FormulaValueError

VALUES = {"a": 0.5, "b": 2.0, "max": 3.0}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a", 0.5),
        ("a + b * 3", 6.5),
        ("(a + b) / 2", 1.25),
        ("1 + b ^ 2 * 3", 13.0),
        ("-b ^ 2", -4.0),
        ("2 ^ 3 ^ 2", 512.0),
        ("7 % 4 - +1", 2.0),
        ("max(a, b, 1) + min(a, b) + max(a)", 3.0),
        ("max(max, 1)", 3.0),
        ("floor(2.7) + ceil(0.2) + abs(-1) + sqrt(4)", 6.0),
        ("exp(0) + log(1)", 1.0),
    ],
)
def test_a_formula_has_its_value(text: str, value: float) -> None:
    assert Formula(text, VALUES).value(VALUES) == pytest.approx(value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a +",
        "c",
        "a; b",
        "a if b else 1",
        "a or b",
        "a < b",
        "a // b",
        "a ^^ b",
        "'text'",
        "True",
        "1j",
        "[a]",
        "a.real",
        "a[0]",
        "(lambda: 1)()",
        "__import__('os')",
        "open(a)",
        "pow(2, 3)",
        "max()",
        "log(a, b)",
        "max(*[1])",
        "max(a, key=b)",
        "(a := 1)",
        "9" * 400,
        "-" * 60 + "a",
        "(" * 300 + "a" + ")" * 300,
        "a+" * 600 + "a",
        "a\0",
    ],
)
def test_what_is_no_formula_is_refused_before_it_is_run(text: str) -> None:
    with pytest.raises(FormulaError):
        Formula(text, VALUES)


@pytest.mark.parametrize(
    "text",
    ["1 / 0", "1 % 0", "sqrt(-1)", "log(0)", "(-8) ^ 0.5", "9^9^9", "exp(1000)", "1e300 * 1e300"],
)
def test_a_formula_without_a_value_says_so(text: str) -> None:
    formula = Formula(text, VALUES)
    with pytest.raises(FormulaValueError):
        formula.value(VALUES)
