"""How agents lie."""
