"""Measures of likeness beside the libraries that they are named after."""

from __future__ import annotations

import random

import pytest
from rouge_score.rouge_scorer import RougeScorer

from server.graders.similarity import Metric, metric_fault, similarity
from server.graders.template import MAX_TEXT_CHARS

REFERENCE = "the cat sat on the mat"
SERVED = [metric for metric in Metric if metric_fault(metric) is None]


def test_all_metrics_but_two_are_there() -> None:
    assert set(Metric) - set(SERVED) == {Metric.COSINE, Metric.METEOR}


def test_a_metric_without_its_library_is_refused_by_name() -> None:
    assert metric_fault(Metric.BLEU, ["no_such_library"]) == (
        "This server is installed without its libraries (the extra 'graders')."
    )


@pytest.mark.parametrize("metric", SERVED)
def test_a_text_is_like_itself_and_not_like_nothing(metric: Metric) -> None:
    assert similarity(metric, REFERENCE, REFERENCE) == 1.0
    assert similarity(metric, "", REFERENCE) == similarity(metric, REFERENCE, "") == 0.0


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        (Metric.FUZZY_MATCH, 2 * 18 / (22 + 18)),
        (Metric.ROUGE_1, 2 * 5 / (6 + 5)),
        (Metric.ROUGE_2, 2 * 3 / (5 + 4)),
        (Metric.ROUGE_3, 2 * 1 / (4 + 3)),
        (Metric.ROUGE_4, 0.0),
        (Metric.ROUGE_5, 0.0),
        (Metric.ROUGE_L, 2 * 5 / (6 + 5)),
        # Orders 1 to 4 have 5 + 3 + 1 + 0 in common, of 18 n-grams of the longer text.
        (Metric.GLEU, 9 / 18),
    ],
)
def test_a_shorter_text_has_the_worth_that_counting_gives(metric: Metric, value: float) -> None:
    assert similarity(metric, "the cat on the mat", REFERENCE) == pytest.approx(value)


def test_bleu_is_the_mean_of_its_orders_by_the_brevity_of_the_text() -> None:
    precisions = (5 / 5) * (3 / 4) * (1 / 3)
    short = 2.718281828 ** (1 - 6 / 5)
    smoothed = (1 / 2) / 2
    wanted = short * (precisions * smoothed) ** 0.25
    assert similarity(Metric.BLEU, "the cat on the mat", REFERENCE) == pytest.approx(wanted)


def test_rouge_l_is_rouge_scores_own() -> None:
    chosen = random.Random(3)
    scorer = RougeScorer(["rougeL"])
    for _ in range(50):
        text, reference = (
            " ".join(chosen.choices(["a", "B,", "c-d", "é", "12"], k=chosen.randrange(12)))
            for _ in range(2)
        )
        wanted = scorer.score(reference, text)["rougeL"].fmeasure
        assert similarity(Metric.ROUGE_L, text, reference) == pytest.approx(wanted)


@pytest.mark.parametrize("metric", SERVED)
def test_the_longest_texts_are_compared(metric: Metric) -> None:
    """No table of the one length times the other is filled: it would be a thousand times this."""
    text = "a b " * (MAX_TEXT_CHARS // 4)
    assert similarity(metric, text, text) == pytest.approx(1.0)
