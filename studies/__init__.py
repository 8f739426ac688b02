"""A study from its file to an export: configuration, storage, samplers, execution, results, reports and commands."""
