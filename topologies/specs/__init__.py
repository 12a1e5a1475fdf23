"""What users write: specs, fields, files; and a user's mistake as one line."""
