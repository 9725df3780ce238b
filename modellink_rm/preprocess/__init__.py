"""Preprocessing: records to the files of a data set."""
