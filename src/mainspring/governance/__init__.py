"""Who may, who did, and from what: roles, tokens, approvals, audit, lineage and privacy."""
