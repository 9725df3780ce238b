"""What a run leaves beside its checkpoints, and the page that shows it."""
