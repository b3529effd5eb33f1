"""Scores, reports and pictures of a model on a data set."""
