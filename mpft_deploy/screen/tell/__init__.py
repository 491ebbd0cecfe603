"""Telling whoever must know: event sinks and metrics.

Example:
    >>> sinks = open_sinks(config, watch.take_evidence, watch.statuses)
    >>> metrics = open_metrics(config)
    >>> sinks.send(event)
    >>> sinks.close(timeout=1.0)
"""
