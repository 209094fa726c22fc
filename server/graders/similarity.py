"""How alike two texts are, from 0 to 1, by the measures that OpenAI names.

The libraries are the `graders` extra, and are imported when a text is first graded.

| name | is |
|---|---|
| fuzzy_match | rapidfuzz's `fuzz.ratio` |
| bleu | sacrebleu's sentence BLEU, smoothed, of the orders that the text has |
| gleu | NLTK's sentence GLEU over sacrebleu's tokens |
| rouge_1 ... rouge_5, rouge_l | rouge-score's F measure, without stemming |
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from enum import StrEnum


class Metric(StrEnum):
    COSINE = "cosine"
    FUZZY_MATCH = "fuzzy_match"
    BLEU = "bleu"
    GLEU = "gleu"
    METEOR = "meteor"
    ROUGE_1 = "rouge_1"
    ROUGE_2 = "rouge_2"
    ROUGE_3 = "rouge_3"
    ROUGE_4 = "rouge_4"
    ROUGE_5 = "rouge_5"
    ROUGE_L = "rouge_l"


_PERCENT = 100.0
_UNSERVED = {
    Metric.COSINE: "It needs an embeddings model, and grading asks none here.",
    Metric.METEOR: "It needs WordNet, which is not part of this server.",
}
LIBRARIES = ("rapidfuzz", "sacrebleu", "rouge_score", "nltk")


def metric_fault(metric: Metric, libraries: Sequence[str] = LIBRARIES) -> str | None:
    """Why the metric cannot be had here."""
    if metric in _UNSERVED:
        return _UNSERVED[metric]
    if any(importlib.util.find_spec(name) is None for name in libraries):
        return "This server is installed without its libraries (the extra 'graders')."
    return None


def similarity(metric: Metric, text: str, reference: str) -> float:
    """Of a metric without a fault. Blocking, for milliseconds."""
    return min(1.0, _MEASURES[metric](text, reference))


def _fuzzy_match(text: str, reference: str) -> float:
    from rapidfuzz import fuzz

    return fuzz.ratio(text, reference) / _PERCENT


def _bleu(text: str, reference: str) -> float:
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(effective_order=True).sentence_score(text, [reference]).score / _PERCENT


def _gleu(text: str, reference: str) -> float:
    from nltk.translate.gleu_score import sentence_gleu
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    tokens = Tokenizer13a()
    return float(sentence_gleu([tokens(reference).split()], tokens(text).split()))


def _rouge_n(order: int) -> Callable[[str, str], float]:
    def measure(text: str, reference: str) -> float:
        from rouge_score.rouge_scorer import RougeScorer

        name = f"rouge{order}"
        return float(RougeScorer([name]).score(reference, text)[name].fmeasure)

    return measure


def _rouge_l(text: str, reference: str) -> float:
    """By rouge-score's words and rapidfuzz's longest common subsequence: rouge-score's own fills a
    table of the one length times the other."""
    from rapidfuzz.distance import LCSseq
    from rouge_score.tokenizers import DefaultTokenizer

    words = DefaultTokenizer(use_stemmer=False)
    ours, theirs = words.tokenize(text), words.tokenize(reference)
    if not ours or not theirs:
        return 0.0
    return 2 * LCSseq.similarity(ours, theirs) / (len(ours) + len(theirs))


_MEASURES: dict[Metric, Callable[[str, str], float]] = {
    Metric.FUZZY_MATCH: _fuzzy_match,
    Metric.BLEU: _bleu,
    Metric.GLEU: _gleu,
    Metric.ROUGE_1: _rouge_n(1),
    Metric.ROUGE_2: _rouge_n(2),
    Metric.ROUGE_3: _rouge_n(3),
    Metric.ROUGE_4: _rouge_n(4),
    Metric.ROUGE_5: _rouge_n(5),
    Metric.ROUGE_L: _rouge_l,
}
