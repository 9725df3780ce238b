"""Formulas over scores, in numpy: accuracy, calibration, intervals, tests."""
