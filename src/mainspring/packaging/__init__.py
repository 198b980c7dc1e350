"""Model bundles: safe formats, proven parity, content digests."""
