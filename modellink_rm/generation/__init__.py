"""Answers to prompts from a language model, by the engines of others, as rows that scoring reads."""
