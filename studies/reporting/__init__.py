"""Plots, notes, reports and the dashboard."""
