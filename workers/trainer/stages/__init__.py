"""Ways of training, a file each. The loop knows none of them: it meets `stage.TrainingStage`."""
