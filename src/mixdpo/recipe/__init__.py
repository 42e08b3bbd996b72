"""A recipe file to calls of the rooms below."""
