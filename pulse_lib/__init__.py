"""PULSE reproduction kit: does a multimodal model forget a person, and what is left of it
afterwards? (arXiv 2507.01271)"""

__version__ = "0.1.0"
