"""People and questions: the records everything else reads, and the sources that make them."""
