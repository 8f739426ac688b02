"""The product in Python: what `import tradeoff` offers."""
