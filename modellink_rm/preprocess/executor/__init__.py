"""Executors, which distribute blocks of records over processes."""
