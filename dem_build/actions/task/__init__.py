"""`eval:MODEL:TASK`: a task of lm-eval."""
