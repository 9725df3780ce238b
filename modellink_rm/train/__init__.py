"""The run: plan, optimizer, step, evaluation, reporting."""
