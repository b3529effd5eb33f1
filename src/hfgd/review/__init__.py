"""Labels one can trust: which look wrong, and what to label next."""
