"""Telling people what happened: from the event log to commands, webhooks, topics and desktops."""
