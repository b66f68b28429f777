"""Adapters to training loops and tools, imported only when named."""
