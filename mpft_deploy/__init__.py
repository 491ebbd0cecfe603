"""Deploy detectors of AI-generated images: verified engines, screening, honest latency."""

__version__ = "0.2.0"
