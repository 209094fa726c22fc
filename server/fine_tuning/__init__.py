"""`/v1/fine_tuning/jobs`: create, list, control, and what a job reports."""
