"""Bytes that are signed, hashed or printed: one canonical encoding, signatures, Z85."""
