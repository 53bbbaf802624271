"""The tables of the tool service: `NNNN_name.sql`, applied in order by `peregrine migrate`."""
