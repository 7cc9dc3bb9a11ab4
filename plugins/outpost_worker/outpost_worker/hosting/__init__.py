"""Copies of another machine's repositories: workers here start from them, and work goes home.

The other half, on the machine that orders, is `outpost_exec.rigs`.
"""
