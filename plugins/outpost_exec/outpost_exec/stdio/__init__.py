"""Any outpost, served over line-framed JSON on a byte stream; see docs/reference/protocol.md.

`server` puts an outpost object on a stream (and runs on the far side: it needs nothing beyond
the core's plain modules), `client` speaks to one, `caller` keeps a client, and `remote` makes an
outpost object of that again. `protocol` is what both ends share.
"""
