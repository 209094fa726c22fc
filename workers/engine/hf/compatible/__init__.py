"""Compatibility mode: models that our batched engine cannot run, one sequence at a time through
transformers' own attention and cache.

Everything around the forward pass is the batched engine's: sampling, grammars, prompt scores,
adapters, ends and aborts. There is no prefix cache, and a prompt is computed in one step.
"""
