"""The SDK for threads, generated from ``cove._async``; see scripts/unasync.py."""
