"""HTTP/2 to Google and to our containers, with the identity of the caller."""
