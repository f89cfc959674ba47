"""The place that conversions write to: the claim on it, tasks that write shards, receipts, moments, and the commit.

Tables and images import it; what a source looks like is theirs alone.
Nothing here reads a source.
"""
