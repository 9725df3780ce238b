"""Public benchmarks of reward models, one per file: the rows of their files, and their formulas."""
