"""The nouns and rules that every area shares, on the standard library alone."""
