"""Model versions, their aliases, and the history of both."""
