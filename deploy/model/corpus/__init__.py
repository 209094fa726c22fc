"""The training text of tuneyard-mini, all of it generated here from tables and seeds."""
