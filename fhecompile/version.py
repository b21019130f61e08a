"""The one place that holds the version; plans carry it as the version that produced them."""

__version__ = "0.1.0"
