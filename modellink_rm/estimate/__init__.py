"""What a run needs: memory of each process, time of a step, and parallel sizes that fit."""
