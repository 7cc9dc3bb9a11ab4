"""Outpost backend for any program that speaks Outpost's protocol on stdin and stdout."""
