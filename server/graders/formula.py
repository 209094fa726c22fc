"""Formulas of multi graders: arithmetic over the names of the graders, and nothing else.

A formula is parsed as Python's arithmetic is (`^` is the power) and walked; no code is run.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Collection, Mapping

MAX_CHARS = 1000
_MAX_DEPTH = 50
_OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
    ast.Pow: math.pow,
}
_OF_ONE: dict[str, Callable[[float], float]] = {
    "abs": math.fabs,
    "ceil": math.ceil,
    "exp": math.exp,
    "floor": math.floor,
    "log": math.log,
    "sqrt": math.sqrt,
}
_OF_MANY: dict[str, Callable[[list[float]], float]] = {"max": max, "min": min}


class FormulaError(ValueError):
    """What is no formula; the message is a whole sentence."""


class FormulaValueError(ArithmeticError):
    """The formula has no value for these."""


class Formula:
    def __init__(self, text: str, names: Collection[str]) -> None:
        """Raises FormulaError."""
        if len(text) > MAX_CHARS:
            raise FormulaError(f"A formula has {MAX_CHARS} characters at most.")
        try:
            self._root = ast.parse(text.strip().replace("^", "**"), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise FormulaError("It is not a formula.") from None
        _check(self._root, names, _MAX_DEPTH)

    def value(self, values: Mapping[str, float]) -> float:
        """Raises FormulaValueError."""
        try:
            value = float(_value(self._root, values))
        except (ArithmeticError, ValueError) as error:
            raise FormulaValueError from error
        if not math.isfinite(value):
            raise FormulaValueError
        return value


def _check(node: ast.expr, names: Collection[str], depth: int) -> None:
    if depth == 0:
        raise FormulaError("It is nested too deeply.")
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            if abs(number) > 1e300:
                raise FormulaError("A number in it is too large.")
        case ast.Name(id=name):
            if name not in names:
                raise FormulaError(f"There is no grader '{name}'.")
        case ast.UnaryOp(op=ast.UAdd() | ast.USub(), operand=operand):
            _check(operand, names, depth - 1)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            _check(left, names, depth - 1)
            _check(right, names, depth - 1)
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
            _check_call(name, arguments)
            for argument in arguments:
                _check(argument, names, depth - 1)
        case _:
            raise FormulaError(
                "It may have numbers, names of graders, + - * / % ^, brackets and "
                f"{', '.join(sorted({*_OF_ONE, *_OF_MANY}))}."
            )


def _check_call(name: str, arguments: list[ast.expr]) -> None:
    if name not in _OF_ONE and name not in _OF_MANY:
        raise FormulaError(f"There is no function '{name}'.")
    if name in _OF_ONE and len(arguments) != 1:
        raise FormulaError(f"'{name}' takes one value.")
    if not arguments:
        raise FormulaError(f"'{name}' takes one value or more.")


def _value(node: ast.expr, values: Mapping[str, float]) -> float:
    match node:
        case ast.Constant(value=int() | float() as number):
            return float(number)
        case ast.Name(id=name):
            return values[name]
        case ast.UnaryOp(op=op, operand=operand):
            value = _value(operand, values)
            return -value if isinstance(op, ast.USub) else value
        case ast.BinOp(left=left, op=op, right=right):
            return _OPERATORS[type(op)](_value(left, values), _value(right, values))
        case ast.Call(func=ast.Name(id=name), args=arguments):
            given = [_value(argument, values) for argument in arguments]
            return _OF_ONE[name](given[0]) if name in _OF_ONE else _OF_MANY[name](given)
        case _:
            raise AssertionError("the formula has been checked")
