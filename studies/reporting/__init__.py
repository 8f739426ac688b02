"""What people look at: plots, notes, the report, the dashboard."""
