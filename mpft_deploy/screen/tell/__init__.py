"""Telling whoever must know: event sinks, metrics and the dashboard."""
