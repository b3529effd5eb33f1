"""The losses: ``terms.py`` puts them together; ``criteria.py`` names them."""
