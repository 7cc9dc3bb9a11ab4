"""The small process that holds the streams of an outpost when the command line has ended."""
