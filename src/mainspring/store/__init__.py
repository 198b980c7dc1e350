"""All durable state: the decisions database, content-addressed objects, and the chained event log."""
