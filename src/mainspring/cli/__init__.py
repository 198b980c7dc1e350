"""One command per operation."""
