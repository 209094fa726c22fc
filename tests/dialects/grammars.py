"""Constraints as engines compile them."""

from __future__ import annotations

import xgrammar
from xgrammar.testing import _is_grammar_accept_string

from templates.format import OutputConstraint
from workers.contract.parts import Grammar, GrammarKind
from workers.engine.grammars import lowered


def grammar(constraint: OutputConstraint | None) -> xgrammar.Grammar:
    assert constraint is not None
    simple = lowered(Grammar(GrammarKind(constraint.kind), constraint.source))
    if simple.kind is GrammarKind.STRUCTURAL_TAG:
        return xgrammar.Grammar.from_structural_tag(simple.source)
    assert simple.kind is GrammarKind.EBNF
    return xgrammar.Grammar.from_ebnf(simple.source)


def accepts(constraint: OutputConstraint | None, text: str) -> bool:
    return _is_grammar_accept_string(grammar(constraint), text)
