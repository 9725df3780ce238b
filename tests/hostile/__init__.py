"""What a machine and its users can do to a run: kills, full disks, damaged and odd input."""
