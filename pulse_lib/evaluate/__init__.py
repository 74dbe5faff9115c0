"""From questions to rows: generation, option likelihoods, extraction, accuracies."""
