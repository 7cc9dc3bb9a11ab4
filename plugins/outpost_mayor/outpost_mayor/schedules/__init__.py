"""Schedules: orders that are put into the queue at times of the calendar, each firing once."""
