"""Nonlinear mixed effects: populations, their likelihood, and fits with what they say of each subject."""
