"""The tables of the memory service: `NNNN_name.sql`, applied in order by `peregrine migrate`."""
