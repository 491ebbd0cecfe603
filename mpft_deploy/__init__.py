"""Deploy detectors of AI-generated images: verified engines, screening, honest latency."""

__version__ = "0.1.0"
