"""The way to the engine workers: one connection per worker, and the choice among replicas."""
