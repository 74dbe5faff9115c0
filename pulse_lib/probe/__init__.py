"""Is it gone? What a finished model is tried with, beside the questions of its run (docs/probes.md)."""
