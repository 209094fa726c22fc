"""`POST /v1/score/evaluation`: the rewards a reward model gives to texts."""
