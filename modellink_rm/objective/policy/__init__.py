"""Objectives of policies, which are language models: from log-probabilities of answers to losses."""
