"""The model leaves the house: portable files that are checked, and what runs them."""
