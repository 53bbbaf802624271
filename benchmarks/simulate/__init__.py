"""What `make simulate` runs: the operator's control laws against their baselines, seeded.

The operator decides with pure functions (`peregrine_operator.autoscale`, `peregrine_operator.ttl`).
Here the very same functions decide in simulated worlds, beside the published algorithms that people
would use instead, and the same bounds apply to every seed: a row shows the worst one. Nothing reads
the clock, so the same seed gives the same figures and the same plots on every machine.

experiment   what a simulation gets: the seeds, all cores, a place for plots; rows of the worst seed
plots        how all plots look; SVG that does not change when nothing did
pool         tool workers: arrivals, queue, pods, scrapes, failures
ttl          caches: traces of requests and of changing values
"""
