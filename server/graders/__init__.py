"""Graders: scores of a model's answers, as scripts for reinforcement fine-tuning use them."""
