"""Engines that an operator already runs, reached by URL."""
