"""Tables, figures, the ledger of findings and the report, computed from rows and manifests alone.
Imports no torch."""
