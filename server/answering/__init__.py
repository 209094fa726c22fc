"""Answering a conversation, whichever endpoint asks: what is asked, its plan, and reading answers.

An endpoint translates its body to an `AnswerRequest`, and writes what `AnswerFold` or its own
output reads. Nothing here knows an endpoint's schemas.
"""
