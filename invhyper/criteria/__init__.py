"""Criteria: what the upper level minimises."""
