"""The SDK for asyncio. ``cove._sync`` is generated from what is here."""
