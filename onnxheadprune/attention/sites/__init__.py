"""Where the heads are: tracing, grouping and describing attention sites."""
