"""Shared resources and public goods without a map."""
