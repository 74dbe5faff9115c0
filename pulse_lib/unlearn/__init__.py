"""Fine-tuning and unlearning: losses, the table of methods, the one training loop, requests one
after another.
"""
