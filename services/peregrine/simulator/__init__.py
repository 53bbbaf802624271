"""A stand-in for the Anthropic Messages API, for running without a key, for tests and benchmarks.

Everything it says is simulated and labelled so. It speaks the wire format of the real API exactly
enough for the unmodified `anthropic` SDK, over HTTP/1.1 and HTTP/2, and keeps a record of what it
was asked, so that a test can say what reached the model and a benchmark can subtract the time the
model was modelled to take.
"""
