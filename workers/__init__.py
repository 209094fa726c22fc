"""Processes that hold models: engine workers generate, trainer workers fine-tune."""
