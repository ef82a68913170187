"""What data say of each parameter of a fit: Fisher information, profile likelihoods, verdicts in words."""
