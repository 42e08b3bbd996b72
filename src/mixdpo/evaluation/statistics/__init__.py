"""Statistics of results: paired differences, agreement, length and style control, preference metrics."""
