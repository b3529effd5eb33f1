"""The one way from an image to its labels: protocol.py says how, labeller.py does it."""
