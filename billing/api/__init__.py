"""Billing's doors under `/api/v1`: a tenant's configured models with their limits, limits, usage records."""
